"""Report: what a run shows, for a person and for a program.

In:  a run folder.
Out: report.json, report.md, report.html (page/), and the same as tables on the terminal.

    selfdistill report runs/mine
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfdistill.compare.differences import compare
from selfdistill.core.errors import UserError
from selfdistill.core.progress import plain
from selfdistill.core.records import Example, Prediction, Reason, Rewrite, Selected, Verdict, read_records
from selfdistill.core.store import write_atomic
from selfdistill.report.plots import curve, forest
from selfdistill.report.unjudgeable import UNJUDGEABLE, unjudgeable_rows
from selfdistill.tasks.overlap import overlap_line

EXPLAINED = {
    "passed": "rewrite kept: same answer as the reference",
    "kept_unchecked": "rewrite kept: no check for open-ended data",
    "same_as_reference": "no change: the rewrite is the reference itself",
    "wrong_answer": "reference kept: the rewrite's answer differs",
    "no_answer_found": "reference kept: no answer found in the rewrite",
    "cannot_be_judged": "reference kept: the check has no rules for such a rewrite, as in its language",
    "reference_has_no_answer": "reference kept: the check finds no answer in it",
    "template_leak": "reference kept: the rewrite speaks of the template",
    "incoherent": "reference kept: the rewrite loops or breaks up",
    "empty": "reference kept: the rewrite is empty",
    "cut_off": "reference kept: the rewrite hit the length limit",
    "rejected": "reference kept: the engine cannot take the prompt, most often longer than the context",
    "engine_error": "reference kept: the engine failed; `distill` again tries these rows again",
    "no_rewrite": "reference kept: no rewrite for this row",
}


def build(run: Path) -> dict[str, Any]:
    """Read a finished run folder, write report.json, report.md and report.html, and return what is in report.json."""
    from selfdistill.report.page import write_page  # the page shows what this module says

    if not (run / "selected.jsonl").is_file():
        raise UserError(f"{run}: no selected.jsonl. Expected the folder of a finished `selfdistill run`.")
    selected = list(read_records(run / "selected.jsonl", Selected))
    rewrites = {r.id: r for r in read_records(run / "rewrites.jsonl", Rewrite)}
    reasons = Counter(row.reason.value for row in selected)
    trained = arms(run)
    measured = {
        arm["name"]: [run / folder for folder in arm["folders"]]
        for arm in [{"name": "seed", "folders": ["seed"]}, *trained]
        if all((run / folder / "result.json").is_file() for folder in arm["folders"])
    }
    report: dict[str, Any] = {
        "rows": len(selected),
        "distilled": sum(row.rewritten for row in selected),
        "yield": dict(reasons.most_common()),
        "gap": gap(selected, rewrites),
        "arms": trained,
        "overlap": manifest(run).get("overlap", {}),
        "training": {folder: _training(run / folder) for arm in trained for folder in arm["folders"]},
        "tasks": compare(measured),
    }
    report["summary"] = sentence(report)
    write_atomic(run / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_atomic(run / "report.md", markdown(report))
    write_page(run, report)
    return report


def manifest(run: Path) -> dict[str, Any]:
    """run.json, which lists at least the trained arms."""
    try:
        found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
        found["arms"]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{run}: no run.json with a list of arms. Expected the folder of a `selfdistill run`."
        ) from None
    return found


def arms(run: Path) -> list[dict[str, Any]]:
    """The trained arms of a run, those that differ in the seed of their training only as one:
    {name, method, mix_ratio, rows, folders}."""
    trained = manifest(run)["arms"]
    found: dict[str, dict[str, Any]] = {}
    for arm in trained:
        name = arm["name"].removesuffix(f"-seed{arm['seed']}")
        kept = {k: arm[k] for k in ("method", "mix_ratio", "rows")}
        found.setdefault(name, {"name": name, **kept, "folders": []})["folders"].append(arm["name"])
    return list(found.values())


def pairs(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(vanilla, sdft) arms that were trained on the same rows."""
    vanilla = {arm["rows"]: arm["name"] for arm in report["arms"] if arm["method"] == "vanilla"}
    return [(vanilla[arm["rows"]], arm["name"]) for arm in report["arms"] if arm["method"] == "sdft"]


def _training(arm: Path) -> dict[str, Any]:
    record = json.loads((arm / "adapter" / "training.json").read_text(encoding="utf-8"))
    return {k: record[k] for k in ("rows", "dropped", "loss", "held_out", "chosen")}


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
    """What the run shows, in plain words made from its numbers. A difference is called one only where its p, adjusted
    over all tasks of the two arms, is at most ALPHA."""
    several = len(pairs(report)) > 1
    parts = [
        (f"{sdft} against {vanilla}: " if several else "") + said
        for vanilla, sdft in pairs(report)
        if (said := _said(report["tasks"], vanilla, sdft))
    ]
    return " ".join(parts) or NOTHING_COMPARED


NOTHING_COMPARED = "Nothing to compare: no task has items that could be judged in both arms."


def _said(tasks: list[dict[str, Any]], vanilla: str, sdft: str) -> str:
    moved = [(t, _difference(t, "seed", vanilla), _difference(t, "seed", sdft)) for t in tasks]
    both = [(t, {"vanilla": v, "sdft": s}) for t, v, s in moved if v and s]
    parts = [
        f"On the target {t['task']}, vanilla fine-tuning moved the model by {_points(d['vanilla'])} and SDFT by "
        f"{_points(d['sdft'], '')}."
        for t, d in both
        if t["role"] == "target"
    ]
    others = [(t["task"], d) for t, d in both if t["role"] != "target"]
    if others:
        fell = {
            arm: [name for name, d in others if d[arm]["value"] < 0 and _moved(d[arm])] for arm in ("vanilla", "sdft")
        }
        mean = {arm: 100 * sum(d[arm]["value"] for _, d in others) / len(others) for arm in ("vanilla", "sdft")}
        abilities, they = ("abilities", "their mean") if len(others) > 1 else ("ability", "it")
        parts.append(
            f"Of {len(others)} other {abilities}, {len(fell['vanilla'])} fell under vanilla fine-tuning"
            f"{_names(fell['vanilla'])} and {len(fell['sdft'])} under SDFT{_names(fell['sdft'])}; "
            f"{they} changed by {mean['vanilla']:+.1f} and {mean['sdft']:+.1f} points."
        )
    return " ".join(parts)


def _points(d: dict[str, Any], unit: str = " points") -> str:
    noise = "" if _moved(d) else " (inside the noise)"
    return f"{100 * d['value']:+.1f}{unit}{noise}"


ALPHA = 0.05
"""Level of the adjusted tests behind the summary."""


def _moved(d: dict[str, Any]) -> bool:
    """Whether a difference is one, by the test that is adjusted over the tasks."""
    return bool(d["p_holm"] <= ALPHA)


def _names(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


# --- text --------------------------------------------------------------------------------------------------------


def score_cell(result: dict[str, Any] | None) -> str:
    """A score with its interval, in percent, and how far trainings with other seeds lie apart; what was not run is "not
    measured"."""
    if not result or result["score"] is None:
        return "nothing to judge" if result and result.get("unjudgeable") else "not measured"
    spread = f", sd {100 * result['spread']:.1f} over {len(result['seeds'])} seeds" if result.get("seeds") else ""
    return f"{100 * result['score']:.1f} [{100 * result['low']:.1f}, {100 * result['high']:.1f}]{spread}"


def difference_cell(d: dict[str, Any] | None) -> str:
    """A paired difference with its interval, in points."""
    return "not measured" if not d else f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"


def _measured(report: dict[str, Any]) -> list[str]:
    """Arms that any task measured, in the run's order."""
    names = ["seed", *(arm["name"] for arm in report["arms"])]
    return [name for name in names if any(name in t["arms"] for t in report["tasks"])]


def score_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table; with more than two trained arms, an arm a row."""
    names, compared = _measured(report), {s: v for v, s in pairs(report)}
    wide = len(report["arms"]) <= 2
    rows = []
    for task in report["tasks"]:
        n = task["arms"]["seed"]["n"]
        first = [task["task"] + (" (target)" if task["role"] == "target" else ""), str(n) if n else "-"]
        scores = {name: score_cell(task["arms"].get(name)) for name in names}
        against = {s: difference_cell(_difference(task, v, s)) for s, v in compared.items() if s in names}
        if wide:
            rows.append([*first, *scores.values(), *against.values()])
        else:
            rows += [[*first, name, score, against.get(name, "")] for name, score in scores.items()]
            rows[1 - len(scores) :] = [["", "", *row[2:]] for row in rows[1 - len(scores) :]]
    if wide:
        return ["task", "n", *names, *(f"{s} - {v}" for s, v in compared.items() if s in names)], rows
    return ["task", "n", "arm", "score", "sdft - vanilla"], rows


def spread_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of how far trainings with other seeds lie apart, beside the error of the items."""
    rows = []
    for task in table:
        for name, r in task["arms"].items():
            if r.get("seeds"):
                cells = [f"{100 * r['score']:.1f}", f"{100 * r['spread']:.1f}", f"{50 * (r['high'] - r['low']):.1f}"]
                rows.append([task["task"], name, *cells, ", ".join(f"{100 * s:.1f}" for s in r["seeds"])])
    return ["task", "arm", "mean", "sd between seeds", "95 % error of the items, +/-", "each seed"], rows


COLUMNS = (
    "+ / -: items gained and lost. p: exact McNemar for answers that are right or wrong; p, Holm: adjusted over the "
    "tasks of a pair. MDE: the smallest change, in points, that as many items with as many unlike pairs show with "
    "80 % power."
)


def _pairs_cell(d: dict[str, Any]) -> str:
    """How many items a difference is over, and how many are left out of it."""
    return f"{d['n']} ({d['left_out']} left out)" if d["left_out"] else str(d["n"])


def difference_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all paired differences."""
    found = [(task["task"], d) for task in table for d in task["differences"]]
    rows = [
        [
            task, f"{d['b']} - {d['a']}", _pairs_cell(d), difference_cell(d), f"+{d['gained']} / -{d['lost']}",
            f"{d['p']:.2g}", f"{d['p_holm']:.2g}",
            "none" if d["detectable"] is None else f"{100 * d['detectable']:.1f}",
        ]
        for task, d in found
    ]  # fmt: skip
    return ["task", "pair", "n", "points", "+ / -", "p", "p, Holm", "MDE"], rows


def overlap_lines(report: dict[str, Any]) -> list[str]:
    """What training rows were test items, a line a task."""
    return [overlap_line(task, found) for task, found in report["overlap"].items()]


def metric_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the metrics beside the scores: the paper's rules, win rates, pass@k."""
    arms = list(dict.fromkeys(a for t in table for a in t["arms"]))
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
    lines = ["# selfdistill report", "", report["summary"], ""]
    lines += [f"**Warning:** {_escaped(line)}.\n" for line in overlap_lines(report)]
    lines += ["## Scores", ""]
    how = "Student's t over items' means" if any(len(a["folders"]) > 1 for a in report["arms"]) else "Newcombe"
    lines += [f"Percent correct with 95 % intervals; differences are paired by item ({how}).", ""]
    lines += _table(*score_rows(report))
    lines += ["", "## Paired differences", ""]
    lines += _table(*difference_rows(report["tasks"]))
    lines += ["", COLUMNS]
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
    lines += ["", "## What was distilled", ""]
    lines += [f"{yield_sentence(report['yield'])}.", ""]
    lines += _table(
        ["reason", "rows", "meaning"], [[r, str(n), EXPLAINED.get(r, "")] for r, n in report["yield"].items()]
    )
    lines += ["", "## The distribution gap", "", gap_sentence(report["gap"]), ""]
    for arm, record in report["training"].items():
        dropped = f", {len(record['dropped'])} left out as too long" if record["dropped"] else ""
        last = f", last loss {record['loss'][-1]['loss']:.4f}" if record["loss"] else ""
        lines.append(f"{arm} trained on {record['rows']} rows{dropped}{last}.")
    return "\n".join(lines) + "\n"


def yield_sentence(reasons: Mapping[Any, int]) -> str:
    """How many rows train on a rewrite of their own words, of the count of rows by reason."""
    rows, copied = sum(reasons.values()), reasons.get(Reason.COPIED, 0)
    kept = reasons.get(Reason.PASSED, 0) + reasons.get(Reason.KEPT, 0)
    more = f"; {copied} more rewrites are the reference word for word" if copied else ""
    return f"{kept} of {rows} rows ({100 * kept / rows if rows else 0:.1f} %) kept their rewrite{more}"


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
    cells = [[_escaped(c) if i == 0 else c for i, c in enumerate(r)] for r in rows]
    return ["| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *cells]]


def _escaped(text: str) -> str:
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", text)


def print_table(header: list[str], rows: list[list[str]], title: str, console: Any) -> None:
    """Print a table on a rich console."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*(escape(plain(cell)) for cell in row))
    console.print(table)


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
    changes = [(f"{t['task']}, {name}", _difference(t, "seed", name)) for t in report["tasks"] for name in names]
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
    unread = unjudgeable_rows(table)
    if unread[1]:
        print_table(*unread, "items that cannot be judged, and are in no score", console)


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


def broken_and_kept(run: Path, count: int) -> list[dict[str, Any]]:
    """Items, each from another task, that the seed LM and SDFT get right and vanilla fine-tuning gets wrong."""
    trained = arms(run)
    names = ["seed", *(next(a["folders"][0] for a in trained if a["method"] == m) for m in ("vanilla", "sdft"))]
    items = {e.id: e for e in read_records(run / "seed" / "items.jsonl", Example)}
    answers = {a: {p.id: p for p in read_records(run / a / "predictions.jsonl", Prediction)} for a in names}
    found: dict[str, dict[str, Any]] = {}
    for key, item in items.items():
        right = [answers[a][key].verdict is Verdict.CORRECT for a in names]
        if right == [True, False, True] and item.task not in found and len(found) < count:
            texts = {"prompt": item.prompt[-1]["content"], "expected": item.reference}
            texts |= {f"{a} answers": answers[a][key].text for a in names}
            found[item.task] = {"title": f"{item.task}: broken by vanilla, kept by SDFT", "texts": texts}
    return list(found.values())
