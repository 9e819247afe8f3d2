"""What trains: a conversation with the responses to its turns, and what each of their tokens weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfdistill.core.records import Example

Source = Literal["original", "distilled", "own", "replay"]
"""Whose words train: the reference's; a rewrite's, made with the reference in sight; the seed LM's own answer, made
without; the seed LM's answer to a prompt that is none of the task's."""


@dataclass(frozen=True)
class TrainingRow:
    """One row of an arm. `responses` answer all turns of the example that train. `weights` are those of their tokens in
    the loss, in order, end tokens included (one tuple over all turns), or one number for the whole row; None is a
    weight of 1 everywhere. `reason` says why these responses train."""

    example: Example
    responses: tuple[str, ...]
    source: Source = "original"
    reason: str = "reference"
    weights: tuple[float, ...] | float | None = None

    @property
    def id(self) -> str:
        """The example's."""
        return self.example.id
