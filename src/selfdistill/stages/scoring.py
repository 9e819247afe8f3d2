"""Scoring: how likely responses are for the seed LM, prompted as in training, without the reference in sight. Shared by
the stages that ask for it.

What is scored together is fixed beforehand. A batch is computed together, so its values have the same bits whatever ran
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from selfdistill.core.records import Example
from selfdistill.engines.protocol import Engine, Scoring
from selfdistill.models.prompts import Prompter

BATCH = 64
"""Rows that are scored together."""


class Identified(Protocol):
    """What has an id."""

    @property
    def id(self) -> str:
        """Joins it with its scores."""
        ...


R = TypeVar("R", bound=Identified)


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


@dataclass(frozen=True)
class Row:
    """A row to be scored. `responses`: of each of its candidates all turns, or None for one that has no score. `kept`
    is what the caller knows of it."""

    example: Example
    responses: Sequence[tuple[str, ...] | None]
    kept: Any = None


@dataclass
class _Waiting:
    """A row whose scores are on their way. `lengths`: response tokens by scoring id, EXAMPLE/CANDIDATE/TURN."""

    row: Row
    lengths: dict[str, int]

    def nll(self, index: int, sums: Mapping[str, float | None]) -> float | None:
        """Mean negative log-likelihood in nats per response token, end tokens included; None where it is unknown."""
        keys = [f"{self.row.example.id}/{index}/{k}" for k in range(len(self.row.responses[index] or ()))]
        found = [sums.get(key) for key in keys]
        tokens = sum(self.lengths.get(key, 0) for key in keys)
        return round(sum(x for x in found if x is not None) / tokens, 4) if tokens and None not in found else None


def seed_nll(
    batches: Iterable[Sequence[Row]], engine: Engine, prompter: Prompter
) -> Iterator[list[tuple[Row, list[float | None]]]]:
    """Each batch with the mean NLL of every candidate of every row, in nats per response token, end tokens included."""
    waiting: dict[str, _Waiting] = {}

    def scorings() -> Iterator[list[Scoring]]:
        for batch in batches:
            asked = []
            for row in batch:
                made = _scorings(row, prompter)
                waiting[row.example.id] = _Waiting(row, {s.id: len(s.response) for s in made})
                asked += made
            yield asked

    for scores in engine.score(scorings()):
        sums = {score.id: score.nll for score in scores}
        rows = [waiting.pop(id) for id in dict.fromkeys(key.rsplit("/", 2)[0] for key in sums)]
        yield [(w.row, [w.nll(index, sums) for index in range(len(w.row.responses))]) for w in rows]


def _scorings(row: Row, prompter: Prompter) -> list[Scoring]:
    """One scoring per turn of every candidate. Behind an endpoint there is nothing to score; the row then asks for
    nothing, so that it is answered like any other."""
    example = row.example
    if prompter.tokenizer is None:
        return [Scoring(f"{example.id}/0/0", (), ())]
    return [
        scoring
        for index, turns in enumerate(row.responses)
        for scoring in turn_by_turn(f"{example.id}/{index}", example, turns or (), prompter)
    ]
