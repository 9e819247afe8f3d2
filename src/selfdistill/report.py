"""Report: what a run shows, for a person and for a program.

In:  a run folder.
Out: report.json, report.md, and the same as tables on the terminal.

    selfdistill report runs/mine
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from selfdistill.compare import compare
from selfdistill.errors import UserError
from selfdistill.records import Example, Prediction, Rewrite, Selected, Verdict, read_records
from selfdistill.store import write_atomic

ARMS = ("seed", "vanilla", "sdft")
EXPLAINED = {
    "passed": "rewrite kept: same answer as the reference",
    "kept_unchecked": "rewrite kept: no check for open-ended data",
    "wrong_answer": "reference kept: the rewrite's answer differs",
    "no_answer_found": "reference kept: no answer found in the rewrite",
    "reference_has_no_answer": "reference kept: the check finds no answer in it",
    "template_leak": "reference kept: the rewrite speaks of the template",
    "empty": "reference kept: the rewrite is empty",
    "cut_off": "reference kept: the rewrite hit the length limit",
    "rejected": "reference kept: the engine cannot take the prompt, most often longer than the context",
    "engine_error": "reference kept: the engine failed; `distill` again tries these rows again",
    "no_rewrite": "reference kept: no rewrite for this row",
}


def build(run: Path) -> dict[str, Any]:
    """Read a finished run folder, write report.json and report.md, and return what is in report.json."""
    if not (run / "selected.jsonl").is_file():
        raise UserError(f"{run}: no selected.jsonl. Expected the folder of a finished `selfdistill run`.")
    selected = list(read_records(run / "selected.jsonl", Selected))
    rewrites = {r.id: r for r in read_records(run / "rewrites.jsonl", Rewrite)}
    reasons = Counter(row.reason.value for row in selected)
    training = {}
    for arm in ARMS[1:]:
        path = run / arm / "adapter" / "training.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            training[arm] = {k: record[k] for k in ("rows", "dropped", "loss")}
    report: dict[str, Any] = {
        "rows": len(selected),
        "distilled": sum(row.source == "distilled" for row in selected),
        "yield": dict(reasons.most_common()),
        "gap": gap(selected, rewrites),
        "training": training,
        "tasks": compare({arm: run / arm for arm in ARMS if (run / arm / "result.json").is_file()}),
    }
    report["summary"] = sentence(report)
    write_atomic(run / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_atomic(run / "report.md", markdown(report))
    return report


def gap(selected: list[Selected], rewrites: dict[str, Rewrite]) -> dict[str, Any]:
    """The distribution gap: mean seed NLL of the training responses, in nats per token, averaged over the rows, before
    (references) and after (what was selected). Rows without both values are left out and counted."""
    pairs = [
        (rewrites[row.id].reference_nll, row.seed_nll)
        for row in selected
        if row.id in rewrites and row.seed_nll is not None and rewrites[row.id].reference_nll is not None
    ]
    if not pairs:
        return {"rows": 0, "before": None, "after": None, "closed": None}
    before = sum(a for a, _ in pairs if a is not None) / len(pairs)
    after = sum(b for _, b in pairs if b is not None) / len(pairs)
    return {"rows": len(pairs), "before": before, "after": after, "closed": 1 - after / before if before else None}


def _difference(task: dict[str, Any], a: str, b: str) -> dict[str, Any] | None:
    return next((d for d in task["differences"] if (d["a"], d["b"]) == (a, b)), None)


def sentence(report: dict[str, Any]) -> str:
    """What the run shows, in plain words made from its numbers. A difference is called one only where its interval
    excludes zero."""
    targets = [t for t in report["tasks"] if t["role"] == "target"]
    retained = [t for t in report["tasks"] if t["role"] != "target"]
    parts = []
    for task in targets:
        vanilla, sdft = _difference(task, "seed", "vanilla"), _difference(task, "seed", "sdft")
        if vanilla and sdft:
            parts.append(
                f"On the target {task['task']}, vanilla fine-tuning moved the model by {_points(vanilla)} points and "
                f"SDFT by {_points(sdft)}."
            )
    both = [(t["task"], _difference(t, "seed", "vanilla"), _difference(t, "seed", "sdft")) for t in retained]
    moved = [(name, {"vanilla": v, "sdft": s}) for name, v, s in both if v and s]
    if moved:
        fell = {arm: [name for name, d in moved if d[arm]["high"] < 0] for arm in ARMS[1:]}
        mean = {arm: 100 * sum(d[arm]["value"] for _, d in moved) / len(moved) for arm in ARMS[1:]}
        parts.append(
            f"Of {len(moved)} other abilities, {len(fell['vanilla'])} fell under vanilla fine-tuning"
            f"{_names(fell['vanilla'])} and {len(fell['sdft'])} under SDFT{_names(fell['sdft'])}; "
            f"their mean changed by {mean['vanilla']:+.1f} and {mean['sdft']:+.1f} points."
        )
    if not parts:
        return "Nothing to compare: the run has no task with both arms."
    return " ".join(parts)


def _points(d: dict[str, Any]) -> str:
    noise = "" if d["low"] > 0 or d["high"] < 0 else " (inside the noise)"
    return f"{100 * d['value']:+.1f}{noise}"


def _names(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


# --- text --------------------------------------------------------------------------------------------------------


def score_cell(result: dict[str, Any] | None) -> str:
    """A score with its interval, in percent; what was not run is "not measured"."""
    if not result or result["score"] is None:
        return "not measured"
    return f"{100 * result['score']:.1f} [{100 * result['low']:.1f}, {100 * result['high']:.1f}]"


def difference_cell(d: dict[str, Any] | None) -> str:
    """A paired difference with its interval, in points."""
    return "not measured" if not d else f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"


def score_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table."""
    arms = [a for a in ARMS if any(a in t["arms"] for t in report["tasks"])]
    header = ["task", "n", *arms] + (["sdft - vanilla"] if {"vanilla", "sdft"} <= set(arms) else [])
    rows = []
    for task in report["tasks"]:
        n = max(r["n"] for r in task["arms"].values())
        row = [task["task"] + (" (target)" if task["role"] == "target" else ""), str(n) if n else "-"]
        row += [score_cell(task["arms"].get(arm)) for arm in arms]
        if len(header) > len(row):
            row.append(difference_cell(_difference(task, "vanilla", "sdft")))
        rows.append(row)
    return header, rows


def difference_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all paired differences."""
    rows = []
    for task in table:
        for d in task["differences"]:
            moved = f"+{d['gained']} / -{d['lost']}"
            rows.append([task["task"], f"{d['b']} - {d['a']}", str(d["n"]), difference_cell(d), moved, f"{d['p']:.2g}"])
    return ["task", "difference", "n", "points", "items gained / lost", "exact McNemar p"], rows


def metric_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the metrics beside the scores: the paper's rules, win rates, pass@k."""
    arms = [a for a in ARMS if any(a in t["arms"] for t in table)]
    rows = []
    for task in table:
        names = list(dict.fromkeys(name for r in task["arms"].values() for name in r["metrics"]))
        for name in names:
            found = {arm: r["metrics"].get(name) for arm, r in task["arms"].items()}
            n = max(m["n"] for m in found.values() if m)
            cells = [score_cell(m | {"score": m["value"]} if m else None) for m in (found.get(a) for a in arms)]
            rows.append([task["task"], name, str(n), *cells])
    return ["task", "metric", "n", *arms], rows


def _classes(result: dict[str, Any]) -> str:
    return ", ".join(f"{label} {count}" for label, count in result["labels"].items()) or "-"


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown. Nothing that a model wrote is in it."""
    share = 100 * report["distilled"] / report["rows"] if report["rows"] else 0.0
    lines = ["# selfdistill report", "", report["summary"], "", "## Scores", ""]
    lines += ["Percent correct with 95 % Wilson intervals; differences are paired by item (Newcombe).", ""]
    lines += _table(*score_rows(report))
    lines += ["", "## Paired differences", ""]
    lines += _table(*difference_rows(report["tasks"]))
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
    lines += ["", "## What was distilled", ""]
    lines += [f"{report['distilled']} of {report['rows']} rows ({share:.1f} %) have a rewrite that was kept.", ""]
    lines += _table(
        ["reason", "rows", "meaning"], [[r, str(n), EXPLAINED.get(r, "")] for r, n in report["yield"].items()]
    )
    lines += ["", "## The distribution gap", "", gap_sentence(report["gap"]), ""]
    for arm, record in report["training"].items():
        dropped = f", {len(record['dropped'])} left out as too long" if record["dropped"] else ""
        last = f", last loss {record['loss'][-1]['loss']:.4f}" if record["loss"] else ""
        lines.append(f"{arm} trained on {record['rows']} rows{dropped}{last}.")
    return "\n".join(lines) + "\n"


def gap_sentence(values: dict[str, Any]) -> str:
    """Seed NLL of the training responses before and after distillation."""
    if values["before"] is None:
        return "Seed NLL of the training responses: not measured."
    closed = "" if values["closed"] is None else f", which closes {100 * values['closed']:.0f} % of the gap"
    return (
        f"Mean seed NLL of the training responses ({values['rows']} rows): {values['before']:.2f} nats a token for the "
        f"references, {values['after']:.2f} after distillation{closed}."
    )


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[re.sub(r"([|\\`*_<>\[\]])", r"\\\1", c) if i == 0 else c for i, c in enumerate(r)] for r in rows]
    return ["| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *cells]]


def _print_table(header: list[str], rows: list[list[str]], title: str, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def show(report: dict[str, Any], console: Any) -> None:
    """Print the report on a rich console."""
    _print_table(*score_rows(report), "percent correct [95 % interval]", console)
    share = 100 * report["distilled"] / report["rows"] if report["rows"] else 0.0
    reasons = ", ".join(f"{reason} {count}" for reason, count in report["yield"].items())
    line = f"yield: {report['distilled']} of {report['rows']} rows distilled ({share:.1f} %): {reasons}"
    for text in (line, gap_sentence(report["gap"])):
        console.print(text, highlight=False)
    console.print(f"\n{report['summary']}", style="bold", highlight=False, markup=False)


def show_comparison(table: list[dict[str, Any]], console: Any) -> None:
    """Print what `compare` made: scores per folder, and the paired differences."""
    names = list(dict.fromkeys(a for t in table for a in t["arms"]))
    rows = [[t["task"], *(score_cell(t["arms"].get(a)) for a in names)] for t in table]
    _print_table(["task", *names], rows, "percent correct [95 % interval]", console)
    _print_table(*difference_rows(table), "paired differences in points [95 % interval]", console)


def side_by_side(run: Path, console: Any, count: int = 3) -> None:
    """Print training rows (prompt, reference, rewrite, what each arm answers), then items of other abilities that
    vanilla fine-tuning broke and SDFT kept."""
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


def plain(text: str) -> str:
    """The text without control characters: a terminal obeys what a model or a dataset wrote there."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def broken_and_kept(run: Path, count: int) -> list[dict[str, Any]]:
    """Items, each from another task, that the seed LM and SDFT get right and vanilla fine-tuning gets wrong."""
    items = {e.id: e for e in read_records(run / "seed" / "items.jsonl", Example)}
    arms = {a: {p.id: p for p in read_records(run / a / "predictions.jsonl", Prediction)} for a in ARMS}
    found: dict[str, dict[str, Any]] = {}
    for key, item in items.items():
        right = [arms[a][key].verdict is Verdict.CORRECT for a in ARMS]
        if right == [True, False, True] and item.task not in found and len(found) < count:
            texts = {"prompt": item.prompt[-1]["content"], "expected": item.reference}
            texts |= {f"{a} answers": arms[a][key].text for a in ARMS}
            found[item.task] = {"title": f"{item.task}: broken by vanilla, kept by SDFT", "texts": texts}
    return list(found.values())
