"""Asked: what can be wrong with prompts is found before anything is generated or trained.

In:  examples, and what makes their prompts.
Out: what there is to say: a conversation that the chat template refuses, by row; system turns that it does not know; an
     answer that does not go on as the template itself would write it, with the difference and what to set; thoughts in
     references; an adapter that was trained with other prompts.

    selfdistill doctor --model M --data train.jsonl

Whether a template takes a conversation depends on its roles, so one conversation of each shape is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn, is_call
from selfdistill.models import resolve
from selfdistill.models.chat import Tools
from selfdistill.models.prompts import Prompter
from selfdistill.models.thoughts import split

AROUND = 24
"""Characters that are shown around a difference."""


@dataclass(frozen=True)
class Shape:
    """Conversations of the same roles and calls: their number, the first of them, and which row of the data it is."""

    roles: tuple[str, ...]
    count: int
    first: Example
    row: int

    def __str__(self) -> str:
        return ", ".join(self.roles)


def shapes(examples: Iterable[Example]) -> list[Shape]:
    """The shapes that conversations have, the most frequent first."""
    found: dict[tuple[str, ...], Shape] = {}
    for row, example in enumerate(examples, 1):
        turns = (*example.prompt, example.answers[-1])
        roles = tuple(f"{t['role']} with calls" if "tool_calls" in t else t["role"] for t in turns)
        old = found.get(roles)
        found[roles] = Shape(roles, old.count + 1, old.first, old.row) if old else Shape(roles, 1, example, row)
    return sorted(found.values(), key=lambda shape: -shape.count)


def check_prompts(
    examples: Sequence[Example], prompter: Prompter, name: str, progress: Progress, trains: bool = True
) -> None:
    """Say what is wrong with the prompts of these examples; `name` tells which data, `trains` that they train.

    Raises UserError for conversations that the chat template refuses, and for variables that it does not know.
    """
    if prompter.tokenizer is None or not prompter.in_chat:
        return
    check_variables(prompter)
    for shape in (listed := shapes(examples)):
        refused(shape, prompter, name)
    if said := folds(listed, prompter):
        progress.warn(f"{name}: {said}")
    if not trains:
        return
    differences = {found: shape for shape in reversed(listed) if (found := difference(shape.first, prompter))}
    for found, shape in differences.items():
        progress.warn(f"{name}: conversations of {shape} ({shape.count} rows): {found}")
    if prompter.settings.thinking != "keep":
        thinking = sum(any(map(_thinks, example.answers)) for example in examples)
        if thinking:
            progress.warn(
                f"{name}: {thinking} rows have thoughts in their references, which are left out of what trains. "
                'prompt.thinking = "keep" trains them.'
            )


def _thinks(turn: Turn) -> bool:
    return "reasoning" in turn or split(turn["content"]).thought is not None


def check_variables(prompter: Prompter) -> None:
    """Raises UserError for `chat_template_kwargs` that the chat template never reads, or that contradict `thinking`."""
    known = prompter.chat.variables
    for variable in prompter.settings.chat_template_kwargs:
        if variable not in known:
            could = sorted(known - {"messages", "tools", "documents", "add_generation_prompt", "raise_exception"})
            raise UserError(
                f"prompt.chat_template_kwargs: the model's chat template has no variable {variable!r}. Among those "
                f"that it has: {', '.join(could) or 'none'}."
            )
        value, meant = prompter.settings.chat_template_kwargs[variable], prompter.chat.switch.get(variable)
        if isinstance(meant, bool) and bool(value) != meant:
            raise UserError(
                f"prompt.chat_template_kwargs: {variable} = {json.dumps(value)} speaks against prompt.thinking = "
                f'"{prompter.settings.thinking}". Leave it out, or set prompt.thinking = '
                f'"{"off" if meant else "strip"}".'
            )


def refused(shape: Shape, prompter: Prompter, name: str) -> None:
    """Raises UserError, with the first row and the count, where the chat template refuses conversations of a shape."""
    example = shape.first
    try:
        prompter.train(example.up_to(example.references[:-1]), example.tools)
    except UserError as error:
        row = example.meta.get("source_id", example.id)
        raise UserError(f"{name}: row {shape.row} (id {row}), and {shape.count} rows like it: {error}") from None


def folds(listed: Sequence[Shape], prompter: Prompter) -> str | None:
    """What is done with system turns that the chat template does not know."""
    rows = sum(shape.count for shape in listed if shape.roles[0] == "system")
    if not rows or prompter.chat.knows_system:
        return None
    return (
        f"the model's chat template knows no system turn: in {rows} rows it stands at the beginning of the first "
        "user's turn"
    )


def difference(example: Example, prompter: Prompter) -> str | None:
    """Where prompt, answer and end token are not what the chat template itself writes for the conversation, with what
    to do about it; None where they are. Raises UserError where the template refuses the conversation."""
    # Outer white space is another matter: some tokenizers swallow it, some templates cut it.
    responses = tuple(text if is_call(text) else (split(text).answer or text).strip() for text in example.references)
    for k, response in enumerate(responses):
        prompt = prompter.train(example.up_to(responses[:k]), example.tools)
        turn = example.turn(k, response).copy()
        turn.pop("reasoning", None)
        ours = prompter.tokenizer.decode([*prompt.ids, *prompter.answer(prompt, turn)])
        conversation = [*prompt.turns, turn]
        theirs = _written(prompter, conversation, False, example.tools)
        if ours.startswith(theirs) and ours != theirs:  # some end an answer by what begins the next turn
            following = Turn(role="tool" if "tool_calls" in turn else "user", content="x")
            theirs = _written(prompter, [*conversation, following], True, example.tools)
        if not theirs.startswith(ours):
            return _told(ours, theirs, prompter)
    return None


def _written(prompter: Prompter, turns: Sequence[Turn], generate: bool, tools: Tools) -> str:
    """The template's text, as it looks after tokenizing."""
    ids = prompter.tokenizer(prompter.chat.render(turns, generate, tools), add_special_tokens=False)["input_ids"]
    return str(prompter.tokenizer.decode(ids))


def _told(ours: str, theirs: str, prompter: Prompter) -> str:
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    cut = slice(max(0, at - AROUND), at + AROUND)
    chat, line = prompter.chat, f"an answer trains as {ours[cut]!r}, the model's chat template writes {theirs[cut]!r}"
    if chat.form.tail:
        return (
            f"{line}. It opens a thought in the prompt and has no variable against that, so prompts close it at once, "
            'and who serves the model must do the same; or set prompt.thinking = "strip"'
        )
    if chat.form.thinks and chat.switch and prompter.settings.thinking != "off":
        return f'{line}. Answers close what the prompt opens; prompt.thinking = "off" is what fits the template'
    if chat.form.thinks:
        return f"{line}. Answers close what the prompt opens; the template has no variable that would change it"
    return f'{line}. See whether prompt.chat_template_kwargs change that, or take prompt.format = "paper"'


def advice(model: str, prompter: Prompter, temperature: float) -> str | None:
    """What the model's own configuration asks for in decoding, where it thinks and is decoded greedily."""
    if temperature or prompter.tokenizer is None or not prompter.in_chat:
        return None
    if prompter.settings.thinking == "off" or not prompter.chat.form.thinks:
        return None
    import transformers

    try:
        own = transformers.GenerationConfig.from_pretrained(resolve(model)).to_diff_dict()
    except OSError:
        return None
    asked = [f"{name} = {own[name]:g}" for name in ("temperature", "top_p", "top_k") if own.get(name) is not None]
    if not asked:
        return None
    return (
        f"the model's own configuration asks for {', '.join(asked)}, which is meant for when it thinks; its thoughts "
        "are greedy here, and greedy thoughts can loop"
    )


# --- adapters ----------------------------------------------------------------------------------------------------


def as_trained(prompter: Prompter, adapter: str | Path | None, progress: Progress) -> Prompter:
    """What asks an adapter: with the date that it was trained with, where the chat template writes one. Says where it
    was trained with other prompts; one that another program trained does not tell."""
    record = adapter and Path(adapter) / "training.json"
    if not record or not record.is_file() or prompter.tokenizer is None:
        return prompter
    identity = json.loads(record.read_text(encoding="utf-8"))["identity"]
    before: dict[str, Any] = identity.get("prompt", {})
    prompter = prompter.on(before.get("date"))
    now = prompter.identity().get("prompt", {})
    changed = [
        f"{key} ({before.get(key)}, now {now.get(key)})"
        for key in dict.fromkeys((*before, *now))
        if key != "thinking_tokens" and before.get(key) != now.get(key)
    ]
    form, *texts = identity["prompts"]
    if form != prompter.format:
        changed.insert(0, f"format ({form}, now {prompter.format})")
    elif form == "paper" and texts != [*prompter.template.train]:
        changed.insert(0, "template")
    if changed:
        progress.warn(f"adapter {adapter}: was trained with other prompts: {', '.join(changed)}")
    return prompter
