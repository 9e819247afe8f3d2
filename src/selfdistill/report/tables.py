"""Tables and sentences of the reports: cells, and rows under a header."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from statistics import stdev
from typing import Any

from selfdistill.core.rewrites import REWRITTEN, Reason
from selfdistill.run_folder import pairs
from selfdistill.tasks.overlap import overlap_line


def difference_of(task: dict[str, Any], a: str, b: str) -> dict[str, Any] | None:
    """The paired difference of two arms on a task; None where they were not compared."""
    return next((d for d in task["differences"] if (d["a"], d["b"]) == (a, b)), None)


def score_cell(result: dict[str, Any] | None) -> str:
    """A score with its interval, in percent, and how far trainings with other seeds lie apart; what was not run is "not
    measured"."""
    if not result or result["score"] is None:
        return "nothing to judge" if result and result.get("unjudgeable") else "not measured"
    spread = f", sd {100 * result['spread']:.1f} over {len(result['seeds'])} seeds" if result.get("seeds") else ""
    return f"{100 * result['score']:.1f} [{100 * result['low']:.1f}, {100 * result['high']:.1f}]{spread}"


def mean_cell(mean: dict[str, Any] | None, seeds: Sequence[float] = ()) -> str:
    """A mean {value, low, high} with its interval; of several trainings also how far they lie apart."""
    spread = {"seeds": seeds, "spread": stdev(seeds)} if len(seeds) > 1 else {}
    return score_cell(mean and mean | {"score": mean["value"]} | spread)


def difference_cell(d: dict[str, Any] | None) -> str:
    """A paired difference with its interval, in points."""
    return "not measured" if not d else f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"


def _measured(report: dict[str, Any]) -> list[str]:
    """Arms that any task measured, in the run's order."""
    names = ["seed", *(arm["name"] for arm in report["arms"])]
    return [name for name in names if any(name in t["arms"] for t in report["tasks"])]


def score_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table: a task a row; with more than two trained arms, an arm a row."""
    names, compared = _measured(report), {s: v for v, s in pairs(report)}
    if len(report["arms"]) > 2:
        heads = [_head(task) for task in report["tasks"]]
        return ["arm", *heads], [[name, *(score_cell(t["arms"].get(name)) for t in report["tasks"])] for name in names]
    rows = []
    for task in report["tasks"]:
        n = task["arms"]["seed"]["n"]
        first = [task["task"] + (" (target)" if task["role"] == "target" else ""), str(n) if n else "-"]
        scores = [score_cell(task["arms"].get(name)) for name in names]
        against = [difference_cell(difference_of(task, v, s)) for s, v in compared.items() if s in names]
        rows.append([*first, *scores, *against])
    return ["task", "n", *names, *(f"{s} - {v}" for s, v in compared.items() if s in names)], rows


def _head(task: dict[str, Any]) -> str:
    n, name = task["arms"]["seed"]["n"], str(task["task"])
    return name + (" (target)" if task["role"] == "target" else "") + (f", n = {n}" if n else "")


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


def difference_rows(
    table: list[dict[str, Any]], wanted: Container[tuple[str, str]] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all paired differences, or of those between the `wanted` pairs."""
    every = [(task["task"], d) for task in table for d in task["differences"]]
    found = [(task, d) for task, d in every if wanted is None or (d["a"], d["b"]) in wanted]
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


def in_thought_line(count: int) -> str:
    """How many answers were cut off before they began."""
    return f"{count} answer{'s were' if count > 1 else ' was'} cut off inside the thoughts, before an answer began"


def in_thought_lines(table: Sequence[dict[str, Any]]) -> list[str]:
    """The same of every task and arm that has some."""
    found = ((t["task"], arm, r.get("in_thought", 0)) for t in table for arm, r in t["arms"].items())
    return [f"{task}, {arm}: {in_thought_line(count)}" for task, arm, count in found if count]


def metric_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the metrics beside the scores: the paper's rules, win rates, pass@k; of more than two
    trained arms, an arm a row."""
    arms = list(dict.fromkeys(a for t in table for a in t["arms"]))
    wide, rows = len(arms) <= 3, []
    for task in table:
        names = list(dict.fromkeys(name for r in task["arms"].values() for name in r["metrics"]))
        for name in names:
            found = {arm: r["metrics"].get(name) for arm, r in task["arms"].items()}
            n = max(m["n"] for m in found.values() if m)
            cells = {a: mean_cell(found.get(a)) for a in arms}
            first = [task["task"], name, str(n)]
            rows += [[*first, *cells.values()]] if wide else [[*first, a, cell] for a, cell in cells.items()]
    return ["task", "metric", "n", *(arms if wide else ("arm", "value"))], rows


def _classes(result: dict[str, Any]) -> str:
    return ", ".join(f"{label} {count}" for label, count in result["labels"].items()) or "-"


def yield_sentence(reasons: Mapping[Any, int]) -> str:
    """How many rows train on a rewrite of their own words, of the count of rows by reason."""
    rows, copied = sum(reasons.values()), reasons.get(Reason.COPIED, 0)
    kept = sum(reasons.get(reason, 0) for reason in REWRITTEN)
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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return markdown_table(header, [[_escaped(c) if i == 0 else c for i, c in enumerate(r)] for r in rows])


def _escaped(text: str) -> str:
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", text)


def shift_table(pairs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a measure a row, a pair a column; "not measured" where it is not there."""
    header = ["measure", "items", *(f"{p['a']} -> {p['b']}" for p in pairs)]
    groups = list(dict.fromkeys(g for p in pairs for g in (*p["texts"], *p.get("kl", ()))))
    measures: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]] = {
        "texts compared": lambda texts, kl: str(texts.get("n", 0)),
        "BLEU-4 to a": lambda texts, kl: _cell(texts.get("bleu4")),
        "ROUGE-L to a": lambda texts, kl: _cell(texts.get("rouge_l")),
        "embedding similarity to a": lambda texts, kl: _cell(texts.get("similarity")),
        "length, times a": lambda texts, kl: _cell(texts.get("length_ratio")),
        "cut off, a": lambda texts, kl: _cell(texts.get("cut_off", (None, None))[0]),
        "cut off, b": lambda texts, kl: _cell(texts.get("cut_off", (None, None))[1]),
        "incoherent, a": lambda texts, kl: _cell(texts.get("incoherent", (None, None))[0]),
        "incoherent, b": lambda texts, kl: _cell(texts.get("incoherent", (None, None))[1]),
        "KL(a || b), nats a token": lambda texts, kl: _cell(kl.get("forward")),
        "KL(b || a), nats a token": lambda texts, kl: _cell(kl.get("reverse")),
    }
    found = [
        [name, group, *(cell(p["texts"].get(group, {}), p.get("kl", {}).get(group, {})) for p in pairs)]
        for group in groups
        for name, cell in measures.items()
    ]
    norms = [f"{p['weights']['norm']:.3f}" if "weights" in p else "not measured" for p in pairs]
    return header, [*found, ["norm of the weights' change", "", *norms]]


def _cell(m: Mapping[str, float | None] | None) -> str:
    if not m or m["value"] is None:
        return "not measured"
    if m["low"] is None or m["high"] is None:
        return f"{m['value']:.3f}"
    return f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
