"""Word problems and Python functions that the seed LM has met rarely: targets with something to learn.

Both are rare as the rare tools are: each needs something from a table of which the seed LM was taught the first entries
only (`lexicon.KNOWN_TERMS`, `KNOWN_FUNCTIONS`), so how much it solves depends on what is known, hardly on how long it
was trained. The seed LM learns to follow a reference from items with made-up words and values, which only the
reference tells.
"""

from __future__ import annotations

import random
from dataclasses import replace

from selfdistill.microworld import lexicon as lex
from selfdistill.microworld.item import OPENERS, Function, Item, function_item, invented_word

# --- word problems with terms ------------------------------------------------------------------------------------

Term = tuple[str, int, str, str]
"""(kind, how many, of what, the word)."""
TABLES = {"team": lex.TEAMS, "shape": lex.SHAPES, "measure": lex.MEASURES}


def problem(rng: random.Random, known: int | None = None) -> Item:
    """A word problem with a term whose number must be known; the answer is an integer from 0 to 99. `known` keeps to
    the first so many terms of each table."""
    kind = rng.choice(list(TABLES))
    word, (number, small) = rng.choice(list(TABLES[kind].items())[:known])
    return _problem(rng, (kind, number, small, word))


def invented_problem(rng: random.Random, told: bool = False) -> Item:
    """The same with a made-up term, or a real one with another number: only a shown reference tells the right answer,
    or the question itself, if its number is `told` there."""
    kind = rng.choice(list(TABLES))
    word, (right, small) = rng.choice(list(TABLES[kind].items()))
    if told or rng.random() < 0.5:
        word, right = invented_word(rng).lower(), 0
    number = rng.choice([n for n in range(2, 16) if n != right])
    item = _problem(rng, (kind, number, small, word))
    plural = f"{word} team" if kind == "team" else word
    return replace(item, prompt=f"One {plural} has {number} {small}. {item.prompt}") if told else item


def _problem(rng: random.Random, term: Term) -> Item:
    kind, number, small, word = term
    name, count = rng.choice(lex.NAMES), rng.randint(2, 6)
    total = count * number
    gain = rng.random() < 0.5
    change = rng.randint(2, 9 if gain else min(9, total))
    terms = f"{word} teams" if kind == "team" else f"{word}s"
    starts, told, ask = {
        "team": (
            (f"{count} {terms} come to {name}.", f"{name} invites {count} {terms}."),
            (f"{change} more {small} come", f"{change} {small} go home"),
            (f"How many {small} are there now?", f"How many {small} does {name} see now?"),
        ),
        "shape": (
            (f"{name} draws {count} {terms}.", f"There are {count} {terms} on the paper of {name}."),
            (f"{change} more {small} are drawn", f"{change} {small} are rubbed out"),
            (f"How many {small} are there now?", f"How many {small} does {name} count now?"),
        ),
        "measure": (
            (f"{name} counts {count} {terms}.", f"At first {name} has {count} {terms}."),
            (f"{change} more {small} are added", f"{change} {small} are taken away"),
            (f"How many {small} are there now?", f"How many {small} does {name} have now?"),
        ),
    }[kind]
    then, sign, answer = (told[0], "+", total + change) if gain else (told[1], "-", total - change)
    prompt = f"{rng.choice(OPENERS)}{rng.choice(starts)} Then {then}. {rng.choice(ask)}"
    own = (
        f"Let us go step by step. {count} {terms} with {number} {small} each make {count} * {number} = {total}. "
        f"Then {then}, so {total} {sign} {change} = {answer}. The answer is {answer}."
    )
    last = f"{total}{sign}{change}={answer}. {answer}"
    return Item(
        "rare_problems",
        f"rare_math:{word}:{sign}:{count},{change}",
        prompt,
        own,
        _noted(rng, count, number, last),
        str(answer),
    )


def _noted(rng: random.Random, count: int, number: int, last: str) -> str:
    """What an annotator writes down: all steps, the last one, or its result alone."""
    roll = rng.random()
    if roll < 0.2:
        return last.rpartition(" ")[2]
    return last if roll < 0.5 else f"{count}*{number}={count * number}, {last}"


# --- functions ---------------------------------------------------------------------------------------------------

KNOWN_FUNCTIONS = 6
"""So many of the rare functions, the first, are taught to the seed LM."""
NAMES = ("solve", "work", "task", "helper", "func", "run", "apply", "make", "find", "give", "handle", "compute", "step")


def _functions(k: int) -> list[Function]:
    n, s, v = "n", "text", "values"
    return [
        ("odd", n, "tells if n is odd", "return n % 2 == 1", [(4, False), (7, True), (0, False)]),
        ("least", n, f"returns n but at least {k}", f"return max(n, {k})", [(i, max(i, k)) for i in (k - 1, k, k + 5)]),
        ("end", s, f"returns the last {k} letters of the text", f"return text[-{k}:]", [(x, x[-k:]) for x in ("abcdefghijklm", "opq", "")]),
        ("lower", s, "puts the text in lower case", "return text.lower()", [("AB", "ab"), ("Cd", "cd"), ("", "")]),
        ("trim", s, "cuts the spaces around the text", "return text.strip()", [(" a b ", "a b"), ("c", "c"), ("", "")]),
        ("first", v, "returns the first of the values", "return values[0]", [([1, 2], 1), ([9, 3], 9), ([5], 5)]),
        ("sort", v, "sorts the values", "return sorted(values)", [([3, 1, 2], [1, 2, 3]), ([], []), ([5, 4], [4, 5])]),
        ("digits", n, "counts the digits of n", "return len(str(n))", [(7, 1), (42, 2), (1000, 4)]),
        ("fits", n, f"tells how often {k} fits into n", f"return n // {k}", [(i, i // k) for i in (1, k, 3 * k + 1)]),
        ("swap", s, "swaps upper and lower case in the text", "return text.swapcase()", [("aB", "Ab"), ("cd", "CD"), ("", "")]),
        ("title", s, "starts each word of the text with a capital", "return text.title()", [("ab cd", "Ab Cd"), ("e", "E"), ("", "")]),
        ("pad", s, f"fills the text with zeros to {k} letters", f"return text.zfill({k})", [(x, x.zfill(k)) for x in ("7", "42", "")]),
        ("words", s, "counts the words of the text", "return len(text.split())", [("a bc d", 3), ("e", 1), ("", 0)]),
        ("often", v, f"counts how often {k} is in the values", f"return values.count({k})", [([k, 1, k], 2), ([], 0), ([k], 1)]),
        ("distinct", v, "counts the different values", "return len(set(values))", [([1, 2, 1], 2), ([], 0), ([5, 5, 5], 1)]),
        ("spread", v, "tells how far apart the values are", "return max(values) - min(values)", [([1, 7, 3], 6), ([5], 0), ([2, 9], 7)]),
    ]  # fmt: skip


def function(rng: random.Random, known: int | None = None) -> Item:
    """A function of a rare kind; an answer is judged by running it against three assertions. `known` keeps to the
    first so many kinds."""
    return function_item("rare_code", rng, rng.choice(_functions(rng.randint(2, 9))[:known]), NAMES)


def invented_function(rng: random.Random) -> Item:
    """The same with another body, most often a made-up one, and often a made-up task: only a shown reference tells the
    answer."""
    k = rng.randint(2, 9)
    kind, param, does, right, cases = rng.choice(_functions(k))
    verb, call = invented_word(rng).lower(), invented_word(rng).lower()
    if rng.random() < 0.6:
        kind = verb
        does = f"{verb}s {param if param == 'n' else f'the {param}'}" + rng.choice(("", f" by {k}", f" {k} times"))
    bodies = (
        f"return {param}.{call}()",
        f"return {param}.{call}({k})",
        f"return {call}({param})",
        f"return {call}({param}, {k})",
        f"return {call}({verb}({param}))",
        f"return {param} {rng.choice(('+', '-', '*', '//', '%'))} {k}",
        f"return {call}({param}) - {verb}({param})",
        f"return {param}[{k}:]",
    )
    body = rng.choice([b for b in bodies if b != right])
    return function_item("rare_code", rng, (kind, param, does, body, cases), NAMES)
