"""Before anything is generated or trained: can this model's prompts show the tools that the rows have?

In:  a prompter, and examples. Out: nothing, or UserError in one line.
"""

from __future__ import annotations

from collections.abc import Iterable

from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn
from selfdistill.models.prompts import Prompter


def require_tools(prompter: Prompter, examples: Iterable[Example], name: str) -> None:
    """Raises UserError for rows with tools that this model's prompts cannot show. `name` tells which data.

    Each shape of conversation is rendered once, since a template may refuse what it can write elsewhere.
    """
    rows = [e for e in examples if e.uses_tools]
    if not rows:
        return
    first = f"(the first: {rows[0].id})"
    if not prompter.in_chat:
        raise UserError(
            f"{name}: {len(rows)} rows have tools {first}, and the paper's text has no place for them. Use format = "
            '"chat" with a model that has a chat template.'
        )
    if prompter.tokenizer is None:
        return
    todo = "Take a model whose template does, or leave these rows out."
    if not prompter.chat.ability.tools and (declared := [e for e in rows if e.tools]):
        raise UserError(
            f"{name}: {len(declared)} rows declare tools (the first: {declared[0].id}), and the model's chat template "
            f"writes none into the prompt: with and without them it is the same text. {todo}"
        )
    if not prompter.chat.ability.calls and (calling := [e for e in rows if any("tool_calls" in t for t in _turns(e))]):
        raise UserError(
            f"{name}: {len(calling)} rows call tools (the first: {calling[0].id}), and the model's chat template "
            f"leaves calls out or fails on them. {todo}"
        )
    seen = set()
    for example in rows:
        shape = tuple((t["role"], len(t.get("tool_calls", ()))) for t in _turns(example)), bool(example.tools)
        if shape not in seen:
            seen.add(shape)
            try:
                for k, turn in enumerate(example.answers):
                    prompter.answer(prompter.train(example.up_to(example.references[:k]), example.tools), turn)
            except UserError as error:
                raise UserError(f"{name}: row {example.id}: {error}") from None


def _turns(example: Example) -> tuple[Turn, ...]:
    return (*example.prompt, example.answers[-1])
