"""Rows to token ids with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfdistill.core.records import Example
from selfdistill.data.examples import drawn
from selfdistill.models.prompts import Prompter


def sequences(example: Example, responses: tuple[str, ...], prompter: Prompter) -> list[tuple[list[int], list[int]]]:
    """(input ids, labels) of one row; labels are -100 except on response tokens and their end tokens.

    All assistant turns of a conversation train in one sequence where the chat template lets a later prompt continue
    an earlier one; where it does not (some templates rewrite the past), each turn is a sequence of its own.
    """
    rows: list[tuple[list[int], list[int]]] = []
    for k, text in enumerate(responses):
        asked = prompter.train(example.up_to(responses[:k]), example.tools)
        prompt, response = list(asked.ids), prompter.answer(asked, example.turn(k, text))
        if rows and prompt[: len(rows[-1][0])] == rows[-1][0]:
            _, labels = rows.pop()
            labels = labels + [-100] * (len(prompt) - len(labels))
        else:
            labels = [-100] * len(prompt)
        rows.append((prompt + response, labels + response))
    return rows


@dataclass(frozen=True)
class Tokenized:
    """Tokenized rows: those that train, those held out, and {id, tokens} of those that are too long in any arm."""

    train: list[tuple[list[int], list[int]]]
    held: list[tuple[list[int], list[int]]]
    held_examples: int
    dropped: list[dict[str, Any]]


def tokenized(
    examples: Sequence[Example],
    responses: Mapping[str, tuple[str, ...]],
    prompter: Prompter,
    holdout: float,
    limit: int,
    seed: int,
    others: Sequence[Mapping[str, tuple[str, ...]]] = (),
) -> Tokenized:
    """Examples as token ids: what trains, what is held out, what is longer than `limit` tokens in any arm."""
    # A seed of its own: `mixed` takes the first of the other order, and all held-out rows would be distilled ones.
    held_ids = {e.id for e in drawn(examples, round(holdout * len(examples)), f"holdout-{seed}")}
    train, held, dropped, held_examples = [], [], [], 0
    for example in examples:
        made = sequences(example, responses[example.id], prompter)
        versions = {other[example.id] for other in others} - {responses[example.id]}
        every = [made, *(sequences(example, version, prompter) for version in versions)]
        longest = max(len(ids) for version in every for ids, _ in version)
        if longest > limit:
            dropped.append({"id": example.id, "tokens": longest})
        elif example.id in held_ids:
            held += made
            held_examples += 1
        else:
            train += made
    return Tokenized(train, held, held_examples, dropped)
