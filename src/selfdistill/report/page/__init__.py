"""Page: what a run shows, as one HTML file for a person.

In:  a run folder and its report (`report.build`).
Out: RUN/report.html. It asks for nothing from anywhere; all but the examples works without JavaScript.

    selfdistill report runs/mine

What models and datasets wrote is hostile here: it reaches the page as cleaned and escaped text, or as JSON that the
page's script shows by `textContent` alone, under a Content-Security-Policy that knows this file's own script and style.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from selfdistill.core.records import read_records
from selfdistill.core.rewrites import REWRITTEN, Reason, Rewrite, Selected
from selfdistill.core.store import write_atomic
from selfdistill.methods import METHODS, lead, method_of
from selfdistill.report.page import charts
from selfdistill.report.page.items import collect, script
from selfdistill.report.page.scatter import scatter
from selfdistill.report.page.svg import SHAPES, clean
from selfdistill.report.standings import (
    COST_NOTE,
    DEFINITION,
    MANY,
    OTHER_PAIRS,
    costs_rows,
    gives_rows,
    interval_line,
    left_out_lines,
    many,
    shown_pairs,
)
from selfdistill.report.summary import NOTHING_COMPARED
from selfdistill.report.tables import (
    difference_cell,
    difference_rows,
    gap_sentence,
    in_thought_lines,
    mean_cell,
    overlap_lines,
    score_rows,
    shift_table,
    spread_rows,
    yield_sentence,
)
from selfdistill.report.unjudgeable import UNJUDGEABLE, unjudgeable_rows
from selfdistill.run_folder import pairs


def write_page(run: Path, report: dict[str, Any]) -> Path:
    """Write RUN/report.html from the run's files and what report.json holds."""
    styles, code = style(), _file("page.js")
    manifest, recipe = _json(run / "run.json") or {}, _text(run / "recipe.toml")
    data = collect(run, manifest.get("arms", [])) | {"reasons": {r.value: r.explained for r in Reason}}
    curves = charts.strength_points(_json(run / "scale.json"))
    points = charts.arm_points(report)
    methods = [(name, METHODS[name]) for name in dict.fromkeys(lead(arm["method"]) for arm in report["arms"])]
    template = Environment(autoescape=True, finalize=clean, trim_blocks=True, lstrip_blocks=True)
    html = template.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; script-src '{_hash(code)}'; style-src '{_hash(styles)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        style=Markup(styles),
        code=Markup(code),
        data=Markup(script(data)),
        report=report,
        facts=_facts(report, manifest, _recipe(recipe)),
        scatter=scatter(report, curves),
        point_rows=_point_rows(points, curves),
        crowd=many(report),
        standings=_standings(report),
        notes=[interval_line(report), DEFINITION, COST_NOTE, *(f"{line}." for line in left_out_lines(report))],
        scores=score_rows(report),
        differences=difference_rows(report["tasks"], shown_pairs(report)),
        other_pairs=OTHER_PAIRS,
        spread=spread_rows(report["tasks"]),
        overlap=overlap_lines(report),
        nothing=NOTHING_COMPARED,
        shapes=SHAPES,
        methods=methods if len(methods) <= MANY else [],
        arms=_arm_rows(report),
        in_thought=in_thought_lines(report["tasks"]),
        unjudgeable=(unjudgeable_rows(report["tasks"]), UNJUDGEABLE),
        **_forest(report),
        **_distilled(run, report),
        shift=_shift_rows(_json(run / "shift.json")),
        **_curves(report),
        left_out=data["left_out"],
        count=len(data["items"]),
        **_repeat(manifest, recipe, report),
    )
    path = run / "report.html"
    write_atomic(path, html)
    return path


def style() -> str:
    """The page's style sheet, with a class for every method that gives its colour."""
    light = "".join(f".{name} {{ --hue: {method.colours[0]}; }}\n" for name, method in METHODS.items())
    dark = "".join(f"  .{name} {{ --hue: {method.colours[1]}; }}\n" for name, method in METHODS.items())
    return f"{_file('page.css')}{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n"


# --- what lies there ---------------------------------------------------------------------------------------------


def _file(name: str) -> str:
    return resources.files("selfdistill.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _json(path: Path) -> Any:
    """What a JSON file holds; None where it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _recipe(text: str | None) -> dict[str, Any]:
    try:
        return tomllib.loads(text or "")
    except tomllib.TOMLDecodeError:
        return {}


# --- the parts ---------------------------------------------------------------------------------------------------


def _standings(report: dict[str, Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """What every arm gives and what it cost: header, and rows of cells, each a value and what stands smaller below."""
    (header, gives), (more, costs) = gives_rows(report), costs_rows(report)
    rows = []
    for given, cost in zip(gives, costs, strict=True):
        parts = [cell.partition(" [") for cell in (*given, *cost[1:])]
        rows.append([(value, f"[{rest}" if mark else "") for value, mark, rest in parts])
        rows[-1][0] = (given[0], "")
    return [*header, *more[1:]], rows


def _arm_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What every arm is, and what trained."""
    rows = []
    for arm in report["arms"]:
        settings, repair = arm.get("settings"), arm.get("repair")
        sources = (report["training"][arm["folders"][0]].get("trained") or {}).get("sources")
        rows.append(
            [
                arm["name"],
                method_of(arm["method"]).label,
                arm["base"] or "the seed LM alone",
                "not recorded" if settings is None else ", ".join(f"{k} = {v}" for k, v in settings.items()) or "none",
                "not recorded" if repair is None else ", ".join(repair) or "none",
                "not recorded" if sources is None else ", ".join(f"{k} {v:,}" for k, v in sources.items() if v),
                str(len(arm["folders"])),
            ]
        )
    return ["arm", "method", "compared with", "settings", "repair", "rows by source", "trainings"], rows


def _facts(report: dict[str, Any], manifest: dict[str, Any], recipe: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers under the verdict: name, value, what else there is to say."""
    rows, kept = report["rows"], report["distilled"]
    seeds = [t["arms"]["seed"] for t in report["tasks"] if "seed" in t["arms"]]
    items = [count for r in seeds if (count := r["n"] + sum(r["unjudgeable"].values()))]
    gap = report["gap"]
    closed = "not measured" if gap["closed"] is None else f"{100 * gap['closed']:.0f} %"
    change = "" if gap["before"] is None else f"{gap['before']:.2f} to {gap['after']:.2f} nats a token"
    where = ", ".join(str(v) for v in (manifest.get("device"), manifest.get("dtype")) if v)
    ended = str(manifest.get("finished") or "")
    seconds = [s for s in manifest.get("seconds", {}).values() if isinstance(s, int | float)]
    took = f"{sum(seconds) / 60:.0f} minutes of work" if seconds else ""
    return [
        ("seed LM", str(recipe.get("model") or manifest.get("model") or "not recorded"), where),
        ("training rows", f"{rows:,}", str(recipe.get("data", {}).get("path") or "")),
        ("rewrites kept", f"{100 * kept / rows:.0f} %" if rows else "not measured", f"{kept:,} of {rows:,} rows"),
        ("gap closed", closed, change),
        (
            "tasks",
            str(len(report["tasks"])),
            f"{sum(items):,} item{'s' if sum(items) > 1 else ''}, every arm answers each" if items else "",
        ),
        (
            "finished",
            ended[:10] or str(manifest.get("status") or "not recorded"),
            ", ".join(x for x in (ended[11:16] and f"{ended[11:16]} UTC", took) if x),
        ),
    ]


def _point_rows(points: list[dict[str, Any]], curves: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The scatter's numbers."""
    rows = [
        [p["name"], *(mean_cell(p[role], [s[k] for s in p["seeds"]]) for k, role in ((1, "target"), (0, "retained")))]
        for p in points
    ]
    for arm, curve in curves.items():
        for p in curve:
            if float(p["strength"]) not in (0, 1):
                rows.append([f"{arm} × {p['strength']:g}", mean_cell(p["target"]), mean_cell(p["retained"])])
    return rows


def _forest(report: dict[str, Any]) -> dict[str, Any]:
    """Paired differences by task, each row with its bar: every arm against the seed LM, then against its base."""
    groups, method = [], {arm["name"]: lead(arm["method"]) for arm in report["arms"]}
    wanted = [*(("seed", name) for name in method), *pairs(report)]
    for task in report["tasks"]:
        found = {(d["a"], d["b"]): d for d in task["differences"]}
        rows: list[dict[str, Any]] = [{"d": found[pair]} for pair in wanted if pair in found]
        groups.append({"task": task["task"], "target": task["role"] == "target", "rows": rows})
    forest = charts.Forest([row["d"] for g in groups for row in g["rows"]])
    for row in (row for g in groups for row in g["rows"]):
        d = row["d"]
        kind = method[d["b"]]
        value, _, interval = difference_cell(d).replace("-", "−").partition(" ")
        row |= {"bar": forest.row(d, kind, METHODS[kind].shape), "value": value, "interval": interval}
        row["noise"] = d["low"] <= 0 <= d["high"]
    compared = [g for g in groups if g["rows"]]
    return {"groups": groups, "axis": forest.axis(), "compared": bool(compared), "against_base": bool(pairs(report))}


def _distilled(run: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Yield by reason and the gap as two distributions."""
    rewrites = {r.id: r.reference_nll for r in read_records(run / "rewrites.jsonl", Rewrite)}
    both = [
        (before, row.seed_nll)
        for row in read_records(run / "selected.jsonl", Selected)
        if (before := rewrites.get(row.id)) is not None and row.seed_nll is not None
    ]
    both = [(b, a) for b, a in both if math.isfinite(b) and math.isfinite(a)]
    reasons = []
    for reason, n in report["yield"].items():
        kept = reason in REWRITTEN
        share = n / max(1, report["rows"])
        row = {"reason": reason, "n": n, "share": f"{100 * share:.1f} %", "said": Reason(reason).explained}
        reasons.append(row | {"bar": charts.share_bar(share, "distilled" if kept else "muted")})
    gap = charts.distributions([b for b, _ in both], [a for _, a in both])
    return {
        "reasons": reasons,
        "gap": gap,
        "gap_said": gap_sentence(report["gap"]),
        "yield_said": yield_sentence(report["yield"]),
    }


def _curves(report: dict[str, Any]) -> dict[str, Any]:
    """Losses of every training, and their ends as rows; of many trainings each with a small curve of its own."""
    curves: list[dict[str, Any]] = []
    for arm in report["arms"]:
        for folder in arm["folders"]:
            record = report["training"][folder]
            kept = {k: [p for p in record[k] or () if math.isfinite(p["loss"])] for k in ("loss", "held_out")}
            nth = sum(c["method"] == lead(arm["method"]) for c in curves)
            curves.append({"name": folder, "method": lead(arm["method"]), "dash": nth % 4, "record": record, **kept})
    crowd = len(curves) > MANY
    rows: list[list[object]] = []
    for c in curves:
        steps = str(max((p["step"] for p in c["loss"]), default="not measured"))
        ends = [_end(c["loss"], 0), _end(c["loss"], -1), _end(c["held_out"], -1)]
        drawn = [charts.spark(c["loss"], c["method"])] if crowd else []
        rows.append([c["name"], *drawn, str(c["record"]["rows"]), str(len(c["record"]["dropped"])), steps, *ends])
    header = ["training", *(["loss"] if crowd else []), "rows", "too long", "steps", "first", "last", "held out"]
    drawn_together = None if crowd else charts.losses(curves)
    return {"losses": drawn_together, "loss_rows": (header, rows), "curves": curves, "sparks": crowd}


def _end(points: list[dict[str, Any]], index: int) -> str:
    return f"{points[index]['loss']:.3f}" if points else "not measured"


def _shift_rows(table: Any) -> dict[str, Any] | None:
    """shift.json, whatever its pairs hold: a measure a row, a pair a column; None without any."""
    found = table.get("pairs") if isinstance(table, dict) else None
    found = [p for p in found if isinstance(p, dict)] if isinstance(found, list) else []
    flat = [dict(_flat(p)) for p in found]
    names = [f"{p.pop('a', '')} → {p.pop('b', '')}" for p in flat]
    measures = list(dict.fromkeys(k for p in flat for k in p))
    rows = [[m, *(p.get(m, "not measured") for p in flat)] for m in measures]
    return {"main": _main_shift(found), "all": (["measure", *names], rows)} if rows else None


def _main_shift(found: list[Any]) -> tuple[list[str], list[list[str]]] | None:
    """The main measures, as `selfdistill shift` prints them; None where another program wrote the file."""
    try:
        return shift_table(found)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        return None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and cells of what is nested; long lists and tables are left out."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        ends = [value[k] for k in ("value", "low", "high")]
        known = [f"{v:.3f}" for v in ends if isinstance(v, int | float)]
        yield name, f"{known[0]} [{known[1]}, {known[2]}]" if len(known) == 3 else (known or ["not measured"])[0]
    elif isinstance(value, dict) and len(value) <= 16:
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(value, list) and len(value) <= 2:
        for side, inner in zip(("before", "after"), value, strict=False):
            yield from _flat(inner, f"{name}, {side}")
    elif value is None or isinstance(value, str | bool | int | float):
        yield name, "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _repeat(manifest: dict[str, Any], recipe: str | None, report: dict[str, Any]) -> dict[str, Any]:
    """How the run was made, and how to make it again."""
    kept = ("started", "finished", "status", "python", "platform", "device", "dtype", "git", "model", "data")
    names = {"model": "digest of the seed LM", "data": "digest of the data", "git": "commit of the working directory"}
    versions = {k: v for k, v in (manifest.get("versions") or {}).items() if v}
    return {
        "recipe": recipe,
        "command": shlex.join(map(str, manifest.get("command") or [])),
        "made": [[names.get(k, k), str(manifest[k])] for k in kept if manifest.get(k)],
        "versions": [[k, str(v)] for k, v in versions.items()],
        "seconds": [[k, f"{v:,.1f}"] for k, v in (manifest.get("seconds") or {}).items()],
        "chosen": _chosen(report["training"]),
    }


def _chosen(training: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What was chosen, the trainings with the same lines together."""
    found: dict[tuple[str, ...], list[str]] = {}
    for folder, record in training.items():
        if record.get("chosen"):
            found.setdefault(tuple(record["chosen"]), []).append(folder)
    alike = len(found) == 1 and len(training) > 1
    return [("every arm" if alike else ", ".join(folders), list(lines)) for lines, folders in found.items()]
