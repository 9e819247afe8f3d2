"""What is scored, and what is scored together: shared by the stages that ask the seed LM for likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

from selfdistill.core.records import Example
from selfdistill.engines.protocol import Scoring
from selfdistill.models.prompts import Prompter

BATCH = 64
"""Rows that are scored together."""


class Row(Protocol):
    """What has an id."""

    @property
    def id(self) -> str:
        """Joins it with its scores."""
        ...


R = TypeVar("R", bound=Row)


def in_batches(rows: Iterable[R], responses: Callable[[R], tuple[str, ...]]) -> Iterator[list[R]]:
    """Fixed batches of rows of like length, in one pass over the rows."""
    stream = iter(rows)
    while window := list(islice(stream, 16 * BATCH)):
        window.sort(key=lambda row: (-sum(map(len, responses(row))), row.id))
        yield from (window[i : i + BATCH] for i in range(0, len(window), BATCH))


def turn_by_turn(
    key: str, example: Example, responses: tuple[str, ...], prompter: Prompter, tokens: bool = False, top: int = 0
) -> Iterator[Scoring]:
    """A scoring of each response behind its own training prompt, as KEY/TURN: the tokens that `training.tokens` gives a
    loss, in its order."""
    for k, text in enumerate(responses):
        prompt = prompter.train(example.up_to(responses[:k]), example.tools)
        response = prompter.answer(prompt, example.turn(k, text))
        yield Scoring(f"{key}/{k}", prompt.ids, tuple(response), tokens, top)
