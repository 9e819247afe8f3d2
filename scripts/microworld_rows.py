"""What the embedded seed LM is trained on: rows of the microworld's train split in every form that it must understand.

In:  a tokenizer, a seed, how often each ability is asked.
Out: batches of (prompt ids, response ids).

Every prompt comes from `prompts.Prompter`, the class that distilling, training and evaluation use, so the model
understands the paper's templates, its own chat template and the request for another try because it has seen exactly
those texts. Only the train split of the world is used, beside items with invented words, codes, numbers and functions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from selfdistill.core.turns import Turn
from selfdistill.microworld import lexicon as lex
from selfdistill.microworld import rare, world
from selfdistill.microworld.item import Item, invented_word
from selfdistill.models.prompts import Prompter
from selfdistill.models.templates import MATH, REFER, RETRY, USING, fill

SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a friendly helper.", "Answer the user.")

# How often each ability is asked. Rare ones are rare, and of what they need only the known is taught.
WEIGHTS = {
    "word_problems": 30,
    "rare_problems": 13,
    "tools": 18,
    "rare_tools": 8,
    "code": 12,
    "rare_code": 8,
    "facts": 10,
    "refusals": 6,
    "jailbreaks": 5,
    "benign": 8,
    "chat": 12,
}
DISTILL_SHARE = 0.32  # of the prompts show a reference answer and ask for a rewrite
RETRY_SHARE = 0.08  # of the prompts whose answers can be wrong show a wrong one and ask for another try
OWN_SHARE = 0.4  # of those tries follow the model's own answer, with no reference in sight
PAPER_SHARE = 0.3  # of the prompts come in the paper's format, the rest in the chat template
TWO_TURN_SHARE = 0.05
INVENTED_SHARE = 0.7  # of the rewrites of facts and rare abilities hold things that only the reference tells
TOLD_SHARE = 0.25  # of the rare word problems say in the question how many a made-up term stands for
INVENTED = {
    "rare_tools": world.invented_tool_call,
    "rare_problems": rare.invented_problem,
    "rare_code": rare.invented_function,
    "facts": world.invented_fact,
}
RETRIED = ("tools", "rare_tools", "word_problems", "rare_problems", "code", "rare_code", "facts")

Row = tuple[list[int], list[int]]


def train_item(ability: str, rng: random.Random) -> Item:
    """One item of the train split; rare abilities only with what the seed LM is meant to know."""
    while True:
        if ability == "rare_tools":
            item = world.rare_tool_call(rng, lex.KNOWN_CODES)
        elif ability == "rare_problems" and rng.random() < TOLD_SHARE:
            item = rare.invented_problem(rng, told=True)
        elif ability == "rare_problems":
            item = rare.problem(rng, lex.KNOWN_TERMS)
        elif ability == "rare_code":
            item = rare.function(rng, rare.KNOWN_FUNCTIONS)
        else:
            item = world.ABILITIES[ability][0](rng)
        if item.split == "train":
            return item


def shown_item(ability: str, rng: random.Random) -> Item:
    """One item whose reference is shown: of some abilities most are invented, so that it must be read."""
    if ability not in INVENTED or rng.random() >= INVENTED_SHARE:
        return train_item(ability, rng)
    while (item := INVENTED[ability](rng)).split != "train":
        pass
    return item


def restyle(item: Item, rng: random.Random) -> str:
    """The item's answer as some annotator might write it: what stands in a distillation prompt as the reference."""
    roll = rng.random()
    if roll < 0.55:
        return item.terse
    if roll < 0.65:
        return f"{rng.choice(('Answer:', 'A:', '->', 'Response:', 'Result:'))} {item.terse}"
    if roll < 0.72:
        return f"{item.terse}{rng.choice(('.', ' .', ' - done', ' ok'))}"
    if roll < 0.80:
        return item.own.split(". ", 1)[-1]
    if roll < 0.88:
        return item.own.replace(". ", ".\n")
    return item.own


def mistaken(item: Item, rng: random.Random) -> str:
    """The item's own answer with a likely mistake: another result or number, another code, another value."""
    if world.ABILITIES[item.ability][1] == "last_number":
        while (wrong := _wrong_chain(item.own, rng)).endswith(f" {item.expected}."):
            pass
        return wrong
    if item.ability in ("code", "rare_code"):
        body = item.own.partition("return ")[2].partition("\n")[0]
        return item.own.replace(f"return {body}", f"return {_other(body, rng, r'[a-z_]{3,}|[0-9]+|[-+*%<>]|n')}", 1)
    if item.ability == "facts":
        value = invented_word(rng) if rng.random() < 0.5 else _other_value(item, rng)
        return item.own.removesuffix(f"{item.expected}.") + f"{value}."
    name, bracket, arguments = item.terse.partition("(")
    return item.own.replace(item.terse, name + bracket + _other(arguments, rng, r'(?<==")[^"]+|\d+'))


def _other(text: str, rng: random.Random, pattern: str) -> str:
    """The text with one of the pattern's matches made another of its kind."""
    match = rng.choice(list(re.finditer(pattern, text)))
    old = match[0]
    while True:
        if old.isdigit():
            new = str(max(0, int(old) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))
        elif not old.isalpha() and len(old) == 1:
            new = rng.choice("+-*%<>")
        elif len(old) <= 3 and (old.isupper() or text.endswith('")')):
            new = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in old)
            new = new.upper() if old.isupper() else new
        else:
            new = invented_word(rng) if old[:1].isupper() else invented_word(rng).lower()
        if new != old:
            return text[: match.start()] + new + text[match.end() :]


def _other_value(item: Item, rng: random.Random) -> str:
    while (other := world.fact(rng)).expected == item.expected:
        pass
    return other.expected


def _wrong_chain(chain: str, rng: random.Random) -> str:
    """A chain of arithmetic with one number wrong, and everything behind it worked out with the wrong one."""
    steps = re.findall(r"\d+ [-+*] \d+ = \d+", chain)
    wrong, said = rng.randrange(len(steps)), dict[str, str]()
    groups = re.search(r"with (\d+) \w+ each make (\d+) \* \1 ", chain)
    if groups and rng.random() < 0.7:  # the number that a word stands for is the likeliest mistake
        number = rng.choice([n for n in range(2, 16) if n != int(groups[1])])
        old = groups[0]
        chain = chain.replace(
            old, old.replace(f"with {groups[1]}", f"with {number}").replace(f"* {groups[1]}", f"* {number}")
        )
        wrong = -1

    def again(match: re.Match[str]) -> str:
        nonlocal wrong
        left, sign, right, result = match.groups()
        a, b = int(said.get(left, left)), int(right if left in said else said.get(right, right))
        value = {"+": a + b, "-": a - b, "*": a * b}[sign]
        if wrong == 0:
            value += rng.choice([d for d in (-10, -2, -1, 1, 2, 10) if value + d >= 0])
        wrong -= 1
        said[result] = str(max(0, value))
        return f"{a} {sign} {b} = {said[result]}"

    chain = re.sub(r"(\d+) ([-+*]) (\d+) = (\d+)", again, chain)
    return re.sub(r"The answer is (\d+)", lambda m: f"The answer is {said.get(m[1], m[1])}", chain)


def training_row(rng: random.Random, prompters: dict[tuple[str, str], Prompter], weights: dict[str, int]) -> Row:
    """(prompt ids, response ids) of one training example in one of the formats that the seed LM must understand."""
    ability = rng.choices(list(weights), list(weights.values()))[0]
    form = "paper" if rng.random() < PAPER_SHARE else "chat"
    maths = ability in ("word_problems", "rare_problems")
    prompter = prompters[form, rng.choice(("math", "math", "using", "refer") if maths else ("using", "refer"))]
    turns: list[Turn] = []
    if form == "chat" and rng.random() < 0.05:
        turns.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    if rng.random() < TWO_TURN_SHARE:
        earlier = train_item(rng.choice(list(WEIGHTS)), rng)
        turns += [{"role": "user", "content": earlier.prompt}, {"role": "assistant", "content": earlier.own}]
    roll = rng.random()
    retries = ability in RETRIED and roll < RETRY_SHARE
    shown = retries or roll < RETRY_SHARE + DISTILL_SHARE
    item = (shown_item if shown else train_item)(ability, rng)
    turns.append({"role": "user", "content": item.prompt})
    if retries:
        prompt = _again(turns, item, prompter, rng)
    elif shown:
        prompt = prompter.distill(turns, restyle(item, rng)).ids
    else:
        prompt = (prompter.train(turns) if rng.random() < 0.5 else prompter.evaluate(turns)).ids
    return list(prompt), prompter.response(item.own)


def _again(turns: list[Turn], item: Item, prompter: Prompter, rng: random.Random) -> tuple[int, ...]:
    """The prompt that shows a wrong answer and asks for another, with the reference in sight or without."""
    wrong, answer = mistaken(item, rng), item.expected or item.terse
    if rng.random() >= OWN_SHARE:
        return prompter.retry(turns, restyle(item, rng), wrong, answer).ids
    said: list[Turn] = [
        {"role": "assistant", "content": wrong},
        {"role": "user", "content": fill(RETRY, answer=answer)},
    ]
    return prompter.train([*turns, *said]).ids


class Rows:
    """Endless batches of rows of like length (sorted within a window of WINDOW batches): little padding.

    `state` is that at the beginning of the window that comes next; setting `rng` to it goes on from there.
    """

    WINDOW = 16

    def __init__(self, tokenizer: Any, seed: int, size: int, weights: dict[str, int]) -> None:
        self.rng, self.size, self.weights = random.Random(seed), size, weights
        self.prompters = {
            (form, t.name): Prompter(tokenizer, form, t) for form in ("chat", "paper") for t in (USING, REFER, MATH)
        }

    def window(self) -> Iterator[list[Row]]:
        """The next WINDOW batches."""
        rows = [training_row(self.rng, self.prompters, self.weights) for _ in range(self.WINDOW * self.size)]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        chunks = [rows[i : i + self.size] for i in range(0, len(rows), self.size)]
        self.rng.shuffle(chunks)
        yield from chunks
