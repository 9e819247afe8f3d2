"""The report on the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from selfdistill.core.progress import plain
from selfdistill.core.records import Example, Prediction, Verdict, read_records
from selfdistill.core.turns import heard, readable
from selfdistill.report.plots import curve, forest
from selfdistill.report.standings import (
    COST_NOTE,
    DEFINITION,
    called,
    costs_rows,
    gives_rows,
    interval_line,
    left_out_lines,
    many,
    ordered,
)
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
    """Print the report on a rich console. Of many arms, what would be a line a task and arm is left to the page."""
    print_table(*score_rows(report), "percent correct [95 % interval]", console)
    seeds = spread_rows(report["tasks"])
    if seeds[1] and not many(report):
        print_table(*seeds, "trainings with other seeds, points", console)
    _show_standings(report, console)
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


def _show_standings(report: dict[str, Any], console: Any) -> None:
    """What every arm gives and what it cost, in two tables: one would be too wide."""
    print_table(*gives_rows(report), "change against the seed LM, points [95 % interval]", console)
    for line in (interval_line(report), DEFINITION, *(f"{line}." for line in left_out_lines(report))):
        console.print(plain(line), highlight=False, markup=False)
    print_table(*costs_rows(report), "what every arm cost", console)
    console.print(COST_NOTE, highlight=False, markup=False)


def plots(report: dict[str, Any]) -> list[str]:
    """What changed against the seed LM and how the training went, in characters: by task, of many arms by role."""
    names = [arm["name"] for arm in report["arms"]]
    if many(report):
        changes = [(f"{role}, {s['arm']}", s[role]) for role in ("target", "retained") for s in ordered(report)]
    else:
        changes = [(f"{t['task']}, {name}", difference_of(t, "seed", name)) for t in report["tasks"] for name in names]
    lines = forest(changes)
    if lines:
        lines = ["change against the seed LM, points [95 % interval]", *lines, ""]
    losses = {name: [x["loss"] for x in training["loss"]] for name, training in report["training"].items()}
    longest = max(map(len, losses), default=0)
    shown = [f"{name:<{longest}}  {v[0]:.3f} {curve(v)} {v[-1]:.3f}" for name, v in losses.items() if v]
    if shown:
        lines += ["training loss, nats a token, first to last step", *shown, ""]
    return lines


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
    """Items that the seed LM gets right, the base of some arms wrong, and such arms right: for every pair of a base and
    an arm up to `count`, each of another task. An item that shows several pairs stands there once."""
    trained = {arm["name"]: arm for arm in arms(run)}
    pairs = [(trained[a["base"]], a) for a in trained.values() if a["base"]]
    if not pairs:
        return []
    names = called(list(trained.values()))
    folder = {arm["name"]: arm["folders"][0] for arm in trained.values()}
    items = {e.id: e for e in read_records(run / "seed" / "items.jsonl", Example)}
    wanted = {"seed": "seed"} | {arm["name"]: folder[arm["name"]] for pair in pairs for arm in pair}
    answers = {a: {p.id: p for p in read_records(run / f / "predictions.jsonl", Prediction)} for a, f in wanted.items()}

    def right(arm: str, key: str) -> bool:
        return answers[arm][key].verdict is Verdict.CORRECT

    chosen: dict[tuple[str, str], list[str]] = {}
    shown: dict[tuple[str, str], set[str]] = {(base["name"], arm["name"]): set() for base, arm in pairs}
    broken = {base: [k for k in items if right("seed", k) and not right(base, k)] for base in {b for b, _ in shown}}
    for (base, arm), tasks in shown.items():
        for key in broken[base]:
            if len(tasks) < count and items[key].task not in tasks and right(arm, key):
                chosen[base, key] = keeping = [a for b, a in shown if b == base and right(a, key)]
                for other in keeping:
                    shown[base, other].add(items[key].task)
    found = []
    for (base, key), keeping in chosen.items():
        item = items[key]
        texts = {"prompt": item.prompt[-1]["content"], "expected": readable(item.answers[-1])}
        texts |= {f"{wanted[a]} answers": readable(heard(answers[a][key].text)) for a in ("seed", base, *keeping)}
        kept = ", ".join(names[a] for a in keeping)
        found.append({"title": f"{item.task}: broken by {names[base]}, kept by {kept}", "texts": texts})
    return found
