"""What was answered: our evaluation folders, and files of item scores that other programs wrote.

In:  a folder that `evaluate` wrote; a JSONL, JSON, CSV or Parquet file with a row an item: `id` (or `doc_id`),
     `correct` (true, false, 0, 1) or `score` (0 to 1), null where the item cannot be judged, and as wanted `task` and
     `cluster` (items of one source);
     samples_*.jsonl of lm-evaluation-harness, or the folder they lie in.
Out: `Answers`: per task a result, and a score by item id; of our own also what was asked.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfdistill.comparison.intervals import mean_interval
from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import NOTHING, Prediction, TaskResult, Verdict, read_records
from selfdistill.data.files import rows
from selfdistill.run_folder import META, read_results

SAMPLES = re.compile(r"samples_(.+?)(_\d{4}-\d\d-\d\dT[\d.:-]+)?\.jsonl$")
"""lm-evaluation-harness' name of a file of samples: task and time."""

HARNESS_SCORES = ("acc", "exact_match")
"""The harness' metrics that are an item's score, the first that is there."""

WHOLE = "all"
"""The task of rows that name none."""

EXPECTED = "Expected `id` (or `doc_id`), and `correct` (true or false) or `score` (0 to 1)."

NO_SCORE = "the file gives no score"
"""Why an item of another program cannot be judged."""


@dataclass
class Answers:
    """What one model answered: by task its result, the score of each item from 0 to 1 (None where it cannot be judged),
    and the source of each item where the file names it. `failed` counts items that our engine could not ask.

    `prompts` are the hashes (`Prediction.prompt`, `Prediction.asked`) of what our own engines asked, and `identity`
    holds the settings that they asked with; other programs' files have neither.
    """

    results: dict[str, TaskResult] = field(default_factory=dict)
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    clusters: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: int = 0
    prompts: dict[str, dict[str, tuple[str, str | None]]] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)

    def judged(self, task: str) -> bool:
        """Whether any item of the task has a score."""
        return any(score is not None for score in self.scores.get(task, {}).values())


def read_answers(place: Path) -> Answers:
    """The answers in a folder or file. Raises UserError with file and line for what does not fit."""
    if (place / "result.json").is_file():
        return _own(place)
    if place.is_file():
        return _foreign([place])
    if samples := sorted(place.glob("samples_*.jsonl")):
        return _foreign(samples)
    if place.is_dir():
        raise UserError(
            f"{place}: neither result.json nor samples_*.jsonl is in this folder. Expected what `selfdistill evaluate` "
            "wrote, or a file of item scores."
        )
    raise UserError(f"{place}: no such file or folder. Expected an evaluation folder or a file of item scores.")


def _own(folder: Path) -> Answers:
    """Answers that wait for a judge are left out."""
    made = Answers(read_results(folder), identity=_identity(folder))
    for p in read_records(folder / "predictions.jsonl", Prediction):
        made.prompts.setdefault(p.task, {})[p.id] = p.prompt, p.asked
        if p.verdict is not Verdict.UNJUDGED:
            score = float(p.verdict is Verdict.CORRECT) if p.verdict.judged else None
            made.scores.setdefault(p.task, {})[p.id] = score
        made.failed += p.finish_reason == "error"
    return made


def _identity(folder: Path) -> dict[str, Any]:
    """The settings of an evaluation; none where only its answers were kept."""
    try:
        found: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _foreign(files: list[Path]) -> Answers:
    made = Answers()
    clusters: dict[str, dict[str, str]] = {}
    for file in files:
        named = SAMPLES.match(file.name)
        default = named.group(1) if named else WHOLE
        for where, row in rows(DataSettings(path=str(file))):
            task, id = _task(row, default, where), _id(row, where)
            items = made.scores.setdefault(task, {})
            if id in items:
                raise UserError(f"{where}: item {id} of task {task} is there twice. Expected a row an item.")
            items[id] = _score(row, where)
            if row.get("cluster") not in (None, ""):
                clusters.setdefault(task, {})[id] = str(row["cluster"])
            if task in clusters and len(clusters[task]) != len(items):
                raise UserError(
                    f"{where}: some rows of task {task} have a `cluster` and some have not. Expected all or none."
                )
    if not made.scores:
        raise UserError(f"{files[0]}: no rows. {EXPECTED}")
    made.clusters = clusters
    made.results = {task: given_result(task, list(items.values())) for task, items in made.scores.items()}
    return made


def _task(row: dict[str, Any], default: str, where: str) -> str:
    task = row.get("task") or default
    if not isinstance(task, str):
        raise UserError(f"{where}: task is {str(task)[:60]!r}. Expected a name.")
    filtered = row.get("filter") if "doc_id" in row else None  # the harness judges a text after each filter
    return task if filtered in (None, "", "none") else f"{task}/{filtered}"


def _id(row: dict[str, Any], where: str) -> str:
    """An item's id. The harness counts items, so its hash of the question goes with the number: other questions behind
    the same numbers are then other items."""
    id = row.get("id", row.get("doc_id"))
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        got = "has no id" if id in (None, "") else f"has the id {str(id)[:60]!r}"
        raise UserError(f"{where}: the row {got}. {EXPECTED}")
    hashed = row.get("doc_hash") if "id" not in row else None
    return f"{id}-{str(hashed)[:8]}" if hashed else str(id)


def _score(row: dict[str, Any], where: str) -> float | None:
    """`correct`, else `score`, else the harness' own metric: the first that is there and not null. None where all are
    null (in a table, empty), which says that the item cannot be judged."""
    named = [name for name in ("correct", "score", *(HARNESS_SCORES if "doc_id" in row else ())) if name in row]
    for name in named:
        value = row[name]
        if value in (None, ""):
            continue
        if isinstance(value, str):  # as all of a CSV
            value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), _number(value))
        good = isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1
        if not good or (name == "correct" and value not in (0, 1)):
            wanted = "true, false, 0 or 1" if name == "correct" else "a number from 0 to 1"
            raise UserError(f"{where}: {name} is {str(row[name])[:60]!r}. Expected {wanted}.")
        return float(value)
    if named:
        return None
    has = f" It has the metrics {row['metrics']}; name one of them `score`." if row.get("metrics") else ""
    raise UserError(f"{where}: the row has no score. {EXPECTED}{has}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def given_result(task: str, given: list[float | None]) -> TaskResult:
    """A result as of our own; where scores are not right or wrong, those below 1 count as wrong."""
    scores = [s for s in given if s is not None]
    score, low, high = mean_interval(scores) if scores else (None, None, None)
    correct, missing = scores.count(1.0), len(given) - len(scores)
    return TaskResult(
        task=task, check="given", role="retained", n=len(scores), correct=correct, wrong=len(scores) - correct,
        truncated=0, errors=0, score=score, low=low, high=high, note=None if scores else NOTHING,
        unjudgeable={NO_SCORE: missing} if missing else {},
    )  # fmt: skip
