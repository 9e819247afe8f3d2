"""Generation: requests with ids in, completions with ids out.

One protocol for every engine. `generate` answers each request exactly once, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy. `seed` and a request's id fix its random numbers, so a sampled
    text does not depend on which requests ran beside it."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """Token ids of one prompt."""

    id: str
    prompt: list[int]


@dataclass(frozen=True)
class Completion:
    """The text behind one prompt; `tokens` counts the generated tokens, the end token included."""

    id: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


@dataclass(frozen=True)
class Scoring:
    """A prompt and a response whose likelihood is asked for, as token ids."""

    id: str
    prompt: list[int]
    response: list[int]


class Engine(Protocol):
    """What the stages need of an engine."""

    context: int

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Each request answered once, in any order. A prompt must leave room for at least one token."""
        ...

    def score(self, items: Sequence[Scoring]) -> dict[str, float]:
        """Sum of the negative log-likelihoods of the response tokens, in nats, by id."""
        ...
