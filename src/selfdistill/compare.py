"""Compare: what changed between two sets of predictions on the same items.

In:  evaluation folders, one per arm (predictions.jsonl and result.json), or several: one per seed that trained it.
Out: per task each arm's score with its interval, and the paired difference of every two arms.

    selfdistill compare runs/seed runs/vanilla runs/sdft
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import stdev
from typing import Any

from selfdistill.errors import UserError
from selfdistill.evaluate import read_results
from selfdistill.records import Prediction, TaskResult, Verdict, read_records
from selfdistill.stats import mean_interval, paired, repeated

Scores = dict[str, list[bool]]
"""Right or wrong by item id, once per seed."""


def compare(arms: Mapping[str, Path | Sequence[Path]]) -> list[dict[str, Any]]:
    """One entry per task: {task, role, check, arms: {arm: result}, differences: [{a, b, ...}]}.

    A result is a TaskResult; an arm of several folders has the mean over them, whose interval is the error of the items
    alone, and beside it `seeds` (the score in each folder) and `spread` (their standard deviation).
    Raises UserError where two folders did not answer the same items: such scores cannot be paired.
    """
    folders = {arm: [place] if isinstance(place, Path) else list(place) for arm, place in arms.items()}
    results = {arm: [read_results(f) for f in places] for arm, places in folders.items()}
    scores = {arm: [_verdicts(f) for f in places] for arm, places in folders.items()}
    tasks = list(dict.fromkeys(t for each in results.values() for r in each for t in r))
    table = []
    for task in tasks:
        having = [arm for arm in arms if all(task in r for r in results[arm])]
        items = {arm: _joined(task, [s.get(task, {}) for s in scores[arm]], folders[arm]) for arm in having}
        first = results[having[0]][0][task]
        table.append(
            {
                "task": task,
                "role": first.role,
                "check": first.check,
                "arms": {arm: _result([r[task] for r in results[arm]], items[arm]) for arm in having},
                "differences": [
                    {"a": a, "b": b, **asdict(_difference(task, items[a], items[b], folders[a][0], folders[b][0]))}
                    for a, b in combinations(having, 2)
                    if items[a] and items[b]
                ],
            }
        )
    return table


def _verdicts(folder: Path) -> dict[str, dict[str, bool]]:
    """Right or wrong by item id, by task; answers that wait for a judge are left out."""
    found: dict[str, dict[str, bool]] = {}
    for p in read_records(folder / "predictions.jsonl", Prediction):
        if p.verdict is not Verdict.UNJUDGED:
            found.setdefault(p.task, {})[p.id] = p.verdict is Verdict.CORRECT
    return found


def _joined(task: str, seeds: list[dict[str, bool]], folders: list[Path]) -> Scores:
    for folder, one in zip(folders, seeds, strict=True):
        _same_items(task, seeds[0], one, folders[0], folder)
    return {id: [one[id] for one in seeds] for id in seeds[0]}


def _same_items(task: str, a: Mapping[str, Any], b: Mapping[str, Any], left: Path, right: Path) -> None:
    if a.keys() != b.keys():
        odd = next(iter(a.keys() ^ b.keys()))
        raise UserError(
            f"task {task}: {left} and {right} did not answer the same items (for example {odd}); scores of different "
            "items cannot be compared. Evaluate both on the same file."
        )


def _difference(task: str, a: Scores, b: Scores, left: Path, right: Path) -> Any:
    _same_items(task, a, b, left, right)
    ids = sorted(a)
    if all(len(s[ids[0]]) == 1 for s in (a, b)):
        return paired([a[i][0] for i in ids], [b[i][0] for i in ids])
    return repeated([_mean(a[i]) for i in ids], [_mean(b[i]) for i in ids])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _result(seeds: list[TaskResult], items: Scores) -> dict[str, Any]:
    """One arm's result; counts are those of all seeds together."""
    first = seeds[0].model_dump(exclude={"task", "role", "check"})
    if len(seeds) == 1 or not items:
        return first
    counts = {k: sum(getattr(r, k) for r in seeds) for k in ("n", "correct", "wrong", "truncated", "errors")}
    score, low, high = mean_interval([_mean(v) for v in items.values()])
    by_seed = [_mean([float(v[k]) for v in items.values()]) for k in range(len(seeds))]
    labels: Counter[str] = Counter()
    for r in seeds:
        labels.update(r.labels)
    return {
        **first,
        **counts,
        "score": score,
        "low": low,
        "high": high,
        "labels": dict(labels),
        "metrics": {name: _metric([r.metrics[name].model_dump() for r in seeds]) for name in seeds[0].metrics},
        "seeds": by_seed,
        "spread": stdev(by_seed),
    }


def _metric(seeds: list[dict[str, float]]) -> dict[str, float]:
    """The mean over the seeds. Its ends are the means of theirs: at least as wide as the mean's own interval."""
    return {key: _mean([m[key] for m in seeds]) for key in ("value", "low", "high")} | {"n": seeds[0]["n"]}
