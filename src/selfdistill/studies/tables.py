"""Tables as Markdown and CSV, with the paper's rows and columns and its own numbers beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from selfdistill.core.records import Metric
from selfdistill.methods import METHODS
from selfdistill.report.tables import markdown_table
from selfdistill.report.unjudgeable import unjudgeable_line
from selfdistill.studies.grid import Column, Study
from selfdistill.studies.lab import Arm
from selfdistill.studies.values import Results, difference, paper_numbers, score

NAMES = {
    "openfunctions": "OpenFunctions", "gsm8k": "GSM8K", "magicoder": "MagiCoder", "alpaca": "Alpaca", "dolly": "Dolly",
    "lima": "LIMA",
}  # fmt: skip


def method(arm: Arm) -> str:
    """What a table calls an arm's method."""
    if arm.dataset is None:
        return "Seed LM"
    name = METHODS[arm.method].short + ("" if arm.mix in (0, 1) else f", mix ratio {arm.mix:g}")
    return f"{name} ({arm.template.capitalize()})" if arm.template else name


def dataset(arm: Arm) -> str:
    """The paper's name of an arm's dataset, with its share of rows where that is not all."""
    if arm.dataset is None:
        return "-"
    return NAMES[arm.dataset] + ("" if arm.share == 1 else f", {100 * arm.share:g} % of rows")


def percent(value: Metric | None) -> str:
    """A score with its interval, in percent."""
    if value is None:
        return "not measured"
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def points(value: Metric | None) -> str:
    """A difference with its interval, in points."""
    if value is None:
        return "not measured"
    return f"{100 * value.value:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table as a text that ends its last line."""
    return "\n".join(markdown_table(header, rows)) + "\n"


def csv_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def score_table(study: Study, results: Results) -> str:
    """The study's arms and columns; the paper's number stands behind ours where it states one."""
    paper = paper_numbers().get(study.name, {})
    rows = []
    for arm in study.arms:
        row = [method(arm), dataset(arm)]
        for column in study.columns:
            stated = paper.get(arm.label, {}).get(column.title)
            ours = percent(score(results, arm, column, study.columns))
            row.append(ours if stated is None else f"{ours}; paper {stated:g}")
        rows.append(row)
    sizes = [_n(results, study, column) for column in study.columns]
    header = ["Method", "Dataset"]
    header += [f"{c.title} (n = {n})" if n else c.title for c, n in zip(study.columns, sizes, strict=True)]
    return table_text(header, rows)


def difference_table(study: Study, results: Results) -> str:
    """Every arm against its base, paired by item; "" where there is none."""
    columns = [c for c in study.columns if not c.average]
    rows = []
    for arm in study.arms:
        if arm.mix and arm.base in results and arm in results:
            cells = [points(difference(results, arm.base, arm, c)) for c in columns]
            rows.append([f"{method(arm)} - {method(arm.base)}", dataset(arm), *cells])
    return table_text(["Difference", "Dataset", *(c.title for c in columns)], rows) if rows else ""


def score_csv(study: Study, results: Results) -> str:
    """One line an arm: for every column the score, its interval and n, and the paper's number, as fractions."""
    paper = paper_numbers().get(study.name, {})
    header = ["arm", "method", "dataset", "mix_ratio", "share"]
    for column in study.columns:
        header += [column.title, *(f"{column.title}: {part}" for part in ("low", "high", "n", "paper"))]
    rows = []
    for arm in study.arms:
        row: list[object] = [arm.label, method(arm), dataset(arm), arm.mix, arm.share]
        for column in study.columns:
            value = score(results, arm, column, study.columns)
            stated = paper.get(arm.label, {}).get(column.title)
            row += [value.value, value.low, value.high, value.n] if value else ["", "", "", ""]
            row.append("" if stated is None else round(stated / 100, 6))
        rows.append(row)
    return csv_table(header, rows)


def classes(study: Study, results: Results) -> str:
    """How answers fell into classes (refuse, answer, incoherent; win, tie, loss), by arm and task."""
    rows = []
    for arm in study.arms:
        for task in study.tasks if arm in results else ():
            labels = results[arm][task].result.labels
            if labels:
                rows.append([method(arm), dataset(arm), task, ", ".join(f"{k} {v}" for k, v in labels.items())])
    return table_text(["Method", "Dataset", "Task", "Answers"], rows) if rows else ""


def unjudgeable(study: Study, results: Results) -> str:
    """The items that cannot be judged, by arm and task; "" where there are none."""
    rows = [
        [method(arm), dataset(arm), task, unjudgeable_line(found)]
        for arm in study.arms
        for task in (study.tasks if arm in results else ())
        if (found := results[arm][task].result.unjudgeable)
    ]
    return table_text(["Method", "Dataset", "Task", "Items"], rows) if rows else ""


def _n(results: Results, study: Study, column: Column) -> int | None:
    found = [score(results, arm, column, study.columns) for arm in study.arms]
    return max((v.n for v in found if v), default=None)
