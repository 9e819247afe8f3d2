"""Front: what every arm gains on the target against what it keeps elsewhere, and which arms nothing beats.

In:  what `differences.compare` made of the seed LM ("seed") and the arms.
Out: a `Front`: by arm its mean changes with their intervals, and the arms that beat it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

Point = tuple[float, float]
"""Change on the target, change on what must be kept."""


@dataclass(frozen=True)
class Change:
    """A mean change with its 95 % interval, from -1 to 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Worst(Change):
    """The retained task that changed for the worst."""

    task: str


@dataclass(frozen=True)
class Standing:
    """Where an arm stands. `target` and `retained` are its changes against the seed LM, means over the tasks of that
    role; None without such a task. `each` holds both of every training, where there are several.

    `beaten_by` are the arms (or "seed") that beat it: at least as high in both means, and higher in one. Those that
    nothing beats come first. `clearly_by` are those of them whose paired differences from it are above zero with their
    whole intervals, in both means. Both are None where a mean was not measured.
    """

    arm: str
    trainings: int
    target: Change | None
    retained: Change | None
    worst: Worst | None
    each: tuple[Point, ...]
    beaten_by: tuple[str, ...] | None
    clearly_by: tuple[str, ...] | None


@dataclass(frozen=True)
class Front:
    """All arms on the same tasks. `left_out` are tasks that some arm has nothing to compare on: they are in no mean."""

    target: tuple[str, ...]
    retained: tuple[str, ...]
    left_out: tuple[str, ...]
    arms: tuple[Standing, ...]


def front_of(table: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> Front:
    """The front of these arms; one without any answers is not measured, and takes no task from the others.

    A mean over T tasks of changes d_t with bounds l_t and u_t, and of S trainings whose own means have the standard
    deviation s, has the interval

        M - sqrt(sum (d_t - l_t)^2 / T^2 + h^2)  to  M + sqrt(sum (u_t - d_t)^2 / T^2 + h^2),  h = t(S - 1) s / sqrt(S)

    (square-and-add, as in `intervals.mean_score`): the error of the items and that of the trainings, which are crossed.
    What both share is counted twice, so it is rather too wide. Of one training, h is not known and left out.
    """
    compared = [_Task(task) for task in table]
    measured = [arm for arm in arms if any(task.between("seed", arm) for task in compared)]
    shared = [task for task in compared if all(task.between("seed", arm) for arm in measured)] if measured else []
    target, retained = ([t for t in shared if t.role == role] for role in ("target", "retained"))
    found = {arm: (_change(target, "seed", arm), _change(retained, "seed", arm)) for arm in measured}
    points = {"seed": (0.0, 0.0)} | {arm: (a.value, b.value) for arm, (a, b) in found.items() if a and b}
    best, standings = set(unbeaten(points)), []
    for arm in arms:
        gain, kept = found.get(arm, (None, None))
        beating = [other for other in points if arm in points and beats(points[other], points[arm])]
        beating.sort(key=lambda other: other not in best)
        clear = [b for b in beating if _above(_change(target, arm, b)) and _above(_change(retained, arm, b))]
        standings.append(
            Standing(
                arm,
                max((task.trainings(arm) for task in shared), default=1),
                gain,
                kept,
                _worst(retained, arm) if arm in measured else None,
                tuple(zip(_by_training(target, "seed", arm), _by_training(retained, "seed", arm), strict=False)),
                tuple(beating) if arm in points else None,
                tuple(clear) if arm in points else None,
            )
        )
    left_out = tuple(task.name for task in compared if task not in shared)
    return Front(tuple(t.name for t in target), tuple(t.name for t in retained), left_out, tuple(standings))


def beats(a: Point, b: Point) -> bool:
    """Whether a is at least as high as b in both values, and higher in one. Equal but for rounding is equal."""
    pairs = [(round(x, 9), round(y, 9)) for x, y in zip(a, b, strict=True)]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def unbeaten(points: Mapping[str, Point]) -> list[str]:
    """The names whose point no other one beats."""
    return [name for name, point in points.items() if not any(beats(other, point) for other in points.values())]


class _Task:
    """A task of the table, its differences by pair."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self.name: str = task["task"]
        self.role: str = task["role"]
        self._arms = task["arms"]
        self._found = {(d["a"], d["b"]): (d["value"], d["low"], d["high"]) for d in task["differences"]}

    def between(self, a: str, b: str) -> tuple[float, float, float] | None:
        """b - a with its bounds, whichever way it was compared; None where it was not."""
        if found := self._found.get((a, b)):
            return found
        value, low, high = self._found.get((b, a), (None, None, None))
        return None if value is None or low is None or high is None else (-value, -high, -low)

    def seeds(self, arm: str) -> list[float]:
        """The score of every training; none where there is only one."""
        return list(self._arms.get(arm, {}).get("seeds") or ())

    def score(self, arm: str) -> float:
        """The mean over the trainings."""
        return float(self._arms[arm]["score"])

    def trainings(self, arm: str) -> int:
        """How many there are."""
        return max(1, len(self.seeds(arm)))


def _change(tasks: Sequence[_Task], a: str, b: str) -> Change | None:
    """The mean of b - a over the tasks, as `front_of` says; None without any."""
    bounds = [found for task in tasks if (found := task.between(a, b))]
    if not bounds:
        return None
    count, between = len(bounds), _between_trainings(tasks, a, b)
    value = sum(d for d, _, _ in bounds) / count
    down = math.hypot(*(d - low for d, low, _ in bounds)) / count
    up = math.hypot(*(high - d for d, _, high in bounds)) / count
    return Change(value, max(-1.0, value - math.hypot(down, between)), min(1.0, value + math.hypot(up, between)))


def _between_trainings(tasks: Sequence[_Task], a: str, b: str) -> float:
    """Half the width of the interval that trainings with other seeds leave: of their differences where both arms have
    as many, one a seed; else of each arm's own, in squares. An arm of one training shows none."""
    from scipy.stats import t

    means = [_means(tasks, arm) for arm in (a, b)]
    if len(means[0]) == len(means[1]):
        means = [_by_training(tasks, a, b)]
    known = [values for values in means if len(values) > 1]
    return math.hypot(*(float(t.ppf(0.975, len(v) - 1)) * stdev(v) / math.sqrt(len(v)) for v in known))


def _means(tasks: Sequence[_Task], arm: str) -> list[float]:
    """The mean score over the tasks of every training, where each task has several."""
    return [sum(scores) / len(scores) for scores in zip(*(task.seeds(arm) for task in tasks), strict=False)]


def _by_training(tasks: Sequence[_Task], a: str, b: str) -> list[float]:
    """b - a of every training of b: against the same seed of a where a has as many trainings, else against a's mean."""
    left, right = _means(tasks, a), _means(tasks, b)
    if len(left) != len(right):
        left = [sum(task.score(a) for task in tasks) / max(1, len(tasks))] * len(right)
    return [y - x for x, y in zip(left, right, strict=True)]


def _above(change: Change | None) -> bool:
    return change is not None and change.low > 0


def _worst(tasks: Sequence[_Task], arm: str) -> Worst | None:
    found = [(change, task.name) for task in tasks if (change := _change([task], "seed", arm))]
    if not found:
        return None
    change, name = min(found, key=lambda pair: pair[0].value)
    return Worst(change.value, change.low, change.high, name)
