"""The report on the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from selfdistill.core.progress import plain
from selfdistill.core.records import Example, Prediction, Verdict, read_records
from selfdistill.core.turns import heard, readable
from selfdistill.methods import METHODS
from selfdistill.report.plots import curve, forest
from selfdistill.report.tables import (
    COLUMNS,
    difference_of,
    difference_rows,
    gap_sentence,
    in_thought_lines,
    overlap_lines,
    score_cell,
    score_rows,
    spread_rows,
    yield_sentence,
)
from selfdistill.report.unjudgeable import unjudgeable_rows
from selfdistill.run_folder import arms

INTERVAL = re.compile(r"^([+-]?\d[\d.]*) \[[^\]]*\]")


def print_table(header: list[str], rows: list[list[str]], title: str, console: Any) -> None:
    """Print a table on a rich console. A terminal that is too narrow for it gets values without their intervals, and
    says so; what is no terminal has no width."""
    from rich.measure import Measurement

    table = _table(header, rows, title)
    needed = Measurement.get(console, console.options.update(width=10_000), table).maximum
    width = console.width
    if needed > width and console.is_terminal:
        short = [[INTERVAL.sub(r"\1", cell) for cell in row] for row in rows]
        if short != rows:
            table = _table(header, short, title.replace("[95 % interval]", "(no room for the intervals)"))
    elif needed > width and not console.is_jupyter:
        console.width = needed
    console.print(table)
    if console.width != width:
        console.width = width


def _table(header: list[str], rows: list[list[str]], title: str) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*(escape(plain(cell)) for cell in row))
    return table


def show(report: dict[str, Any], console: Any) -> None:
    """Print the report on a rich console."""
    print_table(*score_rows(report), "percent correct [95 % interval]", console)
    seeds = spread_rows(report["tasks"])
    if seeds[1]:
        print_table(*seeds, "trainings with other seeds, points", console)
    _show_unjudgeable(report["tasks"], console)
    for line in plots(report):
        console.print(line, highlight=False, markup=False, no_wrap=True, crop=False)
    reasons = ", ".join(f"{reason} {count}" for reason, count in report["yield"].items())
    line = f"yield: {yield_sentence(report['yield'])}: {reasons}"
    for text in (line, gap_sentence(report["gap"])):
        console.print(text, highlight=False)
    for line in overlap_lines(report):
        console.print(plain(f"warning: {line}"), style="yellow", highlight=False, markup=False)
    console.print(f"\n{report['summary']}", style="bold", highlight=False, markup=False)


def plots(report: dict[str, Any]) -> list[str]:
    """What changed against the seed LM and how the training went, in characters."""
    names = [arm["name"] for arm in report["arms"]]
    changes = [(f"{t['task']}, {name}", difference_of(t, "seed", name)) for t in report["tasks"] for name in names]
    lines = ["change against the seed LM, points [95 % interval]", *forest(changes), ""]
    lines += ["training loss, nats a token, first to last step"]
    longest = max((len(name) for name in report["training"]), default=0)
    for name, training in report["training"].items():
        losses = [x["loss"] for x in training["loss"]]
        if losses:
            lines.append(f"{name:<{longest}}  {losses[0]:.3f} {curve(losses)} {losses[-1]:.3f}")
    return [*lines, ""]


def show_comparison(table: list[dict[str, Any]], console: Any) -> None:
    """Print what `compare` made: scores per folder, and the paired differences."""
    names = list(dict.fromkeys(a for t in table for a in t["arms"]))
    rows = [[t["task"], *(score_cell(t["arms"].get(a)) for a in names)] for t in table]
    print_table(["task", *names], rows, "percent correct [95 % interval]", console)
    differences = difference_rows(table)
    if differences[1]:
        print_table(*differences, "paired differences in points [95 % interval]", console)
        console.print(COLUMNS, highlight=False, markup=False)
    _show_unjudgeable(table, console)


def _show_unjudgeable(table: list[dict[str, Any]], console: Any) -> None:
    for line in in_thought_lines(table):
        console.print(plain(line), highlight=False, markup=False)
    unread = unjudgeable_rows(table)
    if unread[1]:
        print_table(*unread, "items that cannot be judged, and are in no score", console)


def side_by_side(run: Path, console: Any, count: int = 3) -> None:
    """Print training rows (prompt, reference, rewrite, what each arm answers), then items of other abilities that
    one arm broke and another kept."""
    from rich.markup import escape
    from rich.table import Table

    samples = json.loads((run / "samples.json").read_text(encoding="utf-8"))[:count]
    for item in [*samples, *broken_and_kept(run, 2)]:
        table = Table(show_header=False, title=escape(item["title"]), title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in item["texts"].items():
            table.add_row(name, escape(plain(text[:600])))
        console.print(table)


def broken_and_kept(run: Path, count: int) -> list[dict[str, Any]]:
    """Items, each from another task, that the seed LM gets right, the base of the first pair of arms wrong, and the
    other arm right."""
    trained = {arm["name"]: arm for arm in arms(run)}
    base, arm = next((trained[a["base"]], a) for a in trained.values() if a["base"])
    names = ["seed", base["folders"][0], arm["folders"][0]]
    title = f"broken by {METHODS[base['method']].short}, kept by {METHODS[arm['method']].short}"
    items = {e.id: e for e in read_records(run / "seed" / "items.jsonl", Example)}
    answers = {a: {p.id: p for p in read_records(run / a / "predictions.jsonl", Prediction)} for a in names}
    found: dict[str, dict[str, Any]] = {}
    for key, item in items.items():
        right = [answers[a][key].verdict is Verdict.CORRECT for a in names]
        if right == [True, False, True] and item.task not in found and len(found) < count:
            texts = {"prompt": item.prompt[-1]["content"], "expected": readable(item.answers[-1])}
            texts |= {f"{a} answers": readable(heard(answers[a][key].text)) for a in names}
            found[item.task] = {"title": f"{item.task}: {title}", "texts": texts}
    return list(found.values())
