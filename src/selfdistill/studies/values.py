"""From measured arms to the numbers of tables and figures: scores, differences, shifts, each with its interval."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from selfdistill.comparison.intervals import mean_difference
from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.core.records import Metric, Prediction, read_records
from selfdistill.models import resolve
from selfdistill.shift.texts import Shift, text_shift
from selfdistill.shift.weights import parameter_shift
from selfdistill.studies.grid import Column
from selfdistill.studies.lab import Arm, Lab, Measured, item_values

Results = Mapping[Arm, Mapping[str, Measured]]


def score(results: Results, arm: Arm, column: Column, columns: tuple[Column, ...]) -> Metric | None:
    """What stands in a table's cell; None is "not measured"."""
    if column.average:
        parts = [score(results, arm, c, columns) for c in columns if c.title in column.average]
        return _average([p for p in parts if p]) if all(parts) else None
    if arm not in results or column.task is None:
        return None
    result = results[arm][column.task].result
    if column.metric is None:
        if result.score is None or result.low is None or result.high is None:
            return None
        return Metric(n=result.n, value=result.score, low=result.low, high=result.high)
    return result.metrics.get(column.metric)


def _average(parts: list[Metric]) -> Metric:
    """Mean of independent scores; its interval by the square-and-add rule (Newcombe 1998)."""
    k, mean = len(parts), sum(p.value for p in parts) / len(parts)
    down = math.sqrt(sum((p.value - p.low) ** 2 for p in parts)) / k
    up = math.sqrt(sum((p.high - p.value) ** 2 for p in parts)) / k
    return Metric(n=sum(p.n for p in parts), value=mean, low=mean - down, high=mean + up)


def difference(results: Results, a: Arm, b: Arm, column: Column) -> Metric | None:
    """b minus a on the items that could be judged in both, paired by id; None where either was not measured."""
    if column.task is None or a not in results or b not in results:
        return None
    left, right = results[a][column.task].predictions, results[b][column.task].predictions
    if left is None or right is None:
        return None
    x, y = item_values(left, column.metric), item_values(right, column.metric)
    shared = sorted(x.keys() & y.keys())
    if not shared:
        return None
    mean, low, high = mean_difference([x[k] for k in shared], [y[k] for k in shared])
    return Metric(n=len(shared), value=mean, low=low, high=high)


def shift_from_seed(results: Results, seed: Arm, arm: Arm, task: str) -> Shift | None:
    """How far the arm's answers to a task lie from the seed LM's (Section 5)."""
    places = [results[a][task].predictions if a in results else None for a in (seed, arm)]
    if places[0] is None or places[1] is None:
        return None
    texts = [{p.id: p.text for p in read_records(place, Prediction)} for place in places if place]
    return text_shift(*texts)


def moved_weights(lab: Lab, arm: Arm) -> float:
    """Norm of the arm's weight change; 0 for the seed LM."""
    folder = lab.adapter(arm)
    if folder is None:
        return 0.0
    if is_adapter(folder):
        return parameter_shift(folder)
    seed = resolve(lab.seed_lm.name)
    if not Path(seed).is_dir():  # loaded from the hub a moment ago, so its files are here
        from huggingface_hub import snapshot_download

        seed = snapshot_download(seed, local_files_only=True)
    return parameter_shift(folder, Path(seed))


def paper_numbers() -> dict[str, dict[str, dict[str, float]]]:
    """What the paper states, in percent: study -> arm label -> column title."""
    text = (resources.files("selfdistill.studies") / "paper_numbers.toml").read_text(encoding="utf-8")
    tables = {}
    for study, rows in tomllib.loads(text).items():
        titles = rows.pop("columns")
        for label, numbers in rows.items():
            if len(numbers) != len(titles):
                raise UserError(f"paper_numbers.toml, {study}.{label}: {len(numbers)} numbers, {len(titles)} columns.")
        tables[study] = {label: dict(zip(titles, numbers, strict=True)) for label, numbers in rows.items()}
    return tables
