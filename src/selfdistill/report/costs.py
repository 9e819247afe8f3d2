"""What every arm cost: time, tokens that train, and how much of them is reference text.

In:  the seconds of run.json, the arms and the records of their trainings.
Out: a `Cost` an arm. What a run did not record is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Of one training, the mean over an arm's trainings: `seed_pass` (the stages that the arm's method needs, shared by
    all arms that need them), `training` and `evaluation` in seconds, `tokens` that carry loss, and `reference`, the
    share of them that is reference text."""

    seed_pass: float | None
    training: float | None
    evaluation: float | None
    tokens: float | None
    reference: float | None


def costs_of(
    arms: Sequence[Mapping[str, Any]], training: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, Any]
) -> dict[str, dict[str, float | None]]:
    """The cost of every arm by its name. An arm's `needs` name the stages that it needs."""
    found = {}
    for arm in arms:
        needs, folders = arm.get("needs"), arm["folders"]
        trained = [training[folder].get("trained") or {} for folder in folders]
        cost = Cost(
            None if needs is None else _sum(seconds.get(stage) for stage in needs),
            _mean(seconds.get(f"train {folder}") for folder in folders),
            _mean(seconds.get(f"evaluate {folder}") for folder in folders),
            _mean(record.get("tokens") for record in trained),
            _mean(record.get("reference_tokens") for record in trained),
        )
        found[arm["name"]] = asdict(cost)
    return found


def _known(values: Iterable[Any]) -> list[float] | None:
    """All of the values; None where one is not known."""
    found = list(values)
    return found if all(isinstance(v, int | float) for v in found) else None


def _sum(values: Iterable[Any]) -> float | None:
    found = _known(values)
    return None if found is None else float(sum(found))


def _mean(values: Iterable[Any]) -> float | None:
    found = _known(values)
    return sum(found) / len(found) if found else None
