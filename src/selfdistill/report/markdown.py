"""The report as Markdown."""

from __future__ import annotations

from typing import Any

from selfdistill.core.rewrites import Reason
from selfdistill.report.standings import (
    COST_NOTE,
    DEFINITION,
    OTHER_PAIRS,
    costs_rows,
    gives_rows,
    interval_line,
    left_out_lines,
    shown_pairs,
)
from selfdistill.report.tables import (
    COLUMNS,
    _classes,
    _escaped,
    _table,
    difference_rows,
    gap_sentence,
    in_thought_lines,
    metric_rows,
    overlap_lines,
    score_rows,
    spread_rows,
    yield_sentence,
)
from selfdistill.report.unjudgeable import UNJUDGEABLE, unjudgeable_rows


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown. Nothing that a model wrote is in it."""
    lines = ["# selfdistill report", "", report["summary"], ""]
    lines += [f"**Warning:** {_escaped(line)}.\n" for line in overlap_lines(report)]
    lines += _standings(report)
    lines += ["## Scores", ""]
    how = "Student's t over items' means" if any(len(a["folders"]) > 1 for a in report["arms"]) else "Newcombe"
    lines += [f"Percent correct with 95 % intervals; differences are paired by item ({how}).", ""]
    lines += _table(*score_rows(report))
    lines += ["", "## Paired differences", ""]
    wanted = shown_pairs(report)
    lines += _table(*difference_rows(report["tasks"], wanted))
    lines += ["", COLUMNS, *(["", OTHER_PAIRS] if wanted else [])]
    seeds = spread_rows(report["tasks"])
    if seeds[1]:
        lines += ["", "## Trainings with other seeds", ""]
        lines += ["Scores above are means over the seeds; their intervals are the error of the items alone.", ""]
        lines += _table(*seeds)
    unread = unjudgeable_rows(report["tasks"])
    if unread[1]:
        lines += ["", "## Items that cannot be judged", "", UNJUDGEABLE, ""]
        lines += _table(unread[0], [[*row[:-1], _escaped(row[-1])] for row in unread[1]])
    other = metric_rows(report["tasks"])
    if other[1]:
        lines += ["", "## What other rules say of the same answers", ""]
        lines += _table(*other)
    lines += ["", "## How answers ended", ""]
    counts = [
        [t["task"], arm, *(str(r[k]) for k in ("n", "correct", "wrong", "truncated", "errors")), _classes(r)]
        for t in report["tasks"]
        for arm, r in t["arms"].items()
    ]
    lines += _table(["task", "arm", "n", "correct", "wrong", "cut off", "errors", "classes of answers"], counts)
    lines += [f"\n{_escaped(line)}." for line in in_thought_lines(report["tasks"])]
    lines += ["", "## What was distilled", ""]
    lines += [f"{yield_sentence(report['yield'])}.", ""]
    lines += _table(
        ["reason", "rows", "meaning"], [[r, str(n), Reason(r).explained] for r, n in report["yield"].items()]
    )
    lines += ["", "## The distribution gap", "", gap_sentence(report["gap"]), ""]
    for arm, record in report["training"].items():
        dropped = f", {len(record['dropped'])} left out as too long" if record["dropped"] else ""
        last = f", last loss {record['loss'][-1]['loss']:.4f}" if record["loss"] else ""
        lines.append(f"{arm} trained on {record['rows']} rows{dropped}{last}.")
    return "\n".join(lines) + "\n"


def _standings(report: dict[str, Any]) -> list[str]:
    """The section on target against retained, and what every arm cost."""
    header, rows = gives_rows(report)
    lines = ["## Target against retained", "", interval_line(report), ""]
    lines += _table(header, [[*row[:-2], *map(_escaped, row[-2:])] for row in rows])
    lines += [
        "",
        DEFINITION,
        *(f"\n{_escaped(line)}." for line in left_out_lines(report)),
        "",
        "## What every arm cost",
        "",
    ]
    lines += _table(*costs_rows(report))
    return [*lines, "", COST_NOTE, ""]
