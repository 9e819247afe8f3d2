"""Rows to token ids with labels and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from selfdistill.core.records import Example
from selfdistill.core.rows import Source, TrainingRow
from selfdistill.data.examples import drawn
from selfdistill.models.prompts import Prompter
from selfdistill.training.objective import IGNORED

Line = tuple[list[int], list[int], list[float] | None]
"""Input ids, labels and the weights of the tokens; None where all that carry loss weigh 1."""


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
            labels = labels + [IGNORED] * (len(prompt) - len(labels))
        else:
            labels = [IGNORED] * len(prompt)
        rows.append((prompt + response, labels + response))
    return rows


def weighed(row: TrainingRow, made: Sequence[tuple[list[int], list[int]]]) -> list[Line]:
    """The sequences of a row with the weights of its tokens. Raises ValueError where there are not as many weights as
    response tokens."""
    count = sum(label != IGNORED for _, labels in made for label in labels)
    if row.weights is None:
        return [(ids, labels, None) for ids, labels in made]
    given = (row.weights,) * count if isinstance(row.weights, float | int) else row.weights
    if len(given) != count:
        raise ValueError(f"row {row.id}: {len(given)} weights for {count} response tokens")
    if all(weight == 1 for weight in given):  # one form for one thing: the same bytes as without weights
        return [(ids, labels, None) for ids, labels in made]
    left = iter(given)
    return [(ids, labels, [0.0 if y == IGNORED else float(next(left)) for y in labels]) for ids, labels in made]


@dataclass
class Tokenized:
    """Tokenized rows: those that train, those held out, {id, tokens} of those that are too long, and ids of those whose
    reference trains since their own response is too long. `trained` counts what carries loss."""

    train: list[Line] = field(default_factory=list)
    held: list[Line] = field(default_factory=list)
    held_examples: int = 0
    dropped: list[dict[str, Any]] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)
    trained: dict[str, Any] = field(default_factory=dict)


def tokenized(rows: Sequence[TrainingRow], prompter: Prompter, holdout: float, limit: int, seed: int) -> Tokenized:
    """Rows as token ids: what trains, what is held out, what is longer than `limit` tokens. A row whose reference is
    too long is left out, and one whose own response is takes its reference, so that all arms train on the same rows.
    Rows of replay are never held out."""
    asked = list({row.id: row.example for row in rows if row.source != "replay"}.values())
    # A seed of its own: `mixed` takes the first of the other order, and all held-out rows would be distilled ones.
    held_ids = {e.id for e in drawn(asked, round(holdout * len(asked)), f"holdout-{seed}")}
    data, held, trained = Tokenized(), set[str](), list[tuple[TrainingRow, list[Line]]]()
    for row in rows:
        made = sequences(row.example, row.responses, prompter)
        longest = _longest(made)
        if row.source != "replay" and row.responses != row.example.references:
            plain = sequences(row.example, row.example.references, prompter)
            if longest > limit >= _longest(plain):
                row, made = TrainingRow(row.example, row.example.references, reason="too long"), plain
                data.shortened.append(row.id)
            longest = _longest(plain)
        if longest > limit:
            data.dropped.append({"id": row.id, "tokens": longest})
        elif row.id in held_ids:
            data.held += [(ids, labels, None) for ids, labels in made]  # measured alike, whatever trains
            held.add(row.id)
        else:
            trained.append((row, weighed(row, made)))
    data.train = [line for _, lines in trained for line in lines]
    data.held_examples, data.trained = len(held), _counted(trained)
    return data


def _longest(made: Sequence[tuple[list[int], list[int]]]) -> int:
    return max(len(ids) for ids, _ in made)


def _counted(trained: Sequence[tuple[TrainingRow, list[Line]]]) -> dict[str, Any]:
    """What trains, in numbers: rows, tokens with loss, the sum of their weights, the share of weight 0, rows by source,
    the share of tokens of references."""
    sources = Counter(row.source for row, _ in trained)
    tokens = Counter[str]()
    weights, masked = 0.0, 0
    for row, lines in trained:
        for _, labels, given in lines:
            real = sum(label != IGNORED for label in labels)
            tokens[row.source] += real
            weights += real if given is None else sum(given)
            masked += 0 if given is None else sum(w == 0 and y != IGNORED for w, y in zip(given, labels, strict=True))
    every = tokens.total()
    return {
        "rows": len(trained),
        "tokens": every,
        "weights": weights,
        "masked": round(masked / every, 4) if every else None,
        "sources": {name: sources[name] for name in get_args(Source)},
        "reference_tokens": round(tokens["original"] / every, 4) if every else None,
    }
