"""Report: what a run shows, for a person and for a program.

In:  a run folder.
Out: report.json, report.md, report.html (page/), and the same as tables on the terminal.

    selfdistill report runs/mine
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfdistill.comparison.differences import compare
from selfdistill.comparison.front import front_of
from selfdistill.core.errors import UserError
from selfdistill.core.records import read_records
from selfdistill.core.rewrites import Rewrite, Selected
from selfdistill.core.store import write_atomic
from selfdistill.methods import method_named
from selfdistill.report.costs import costs_of
from selfdistill.report.markdown import markdown
from selfdistill.report.summary import sentence, verdicts
from selfdistill.run_folder import arms, manifest, training_record


def build(run: Path) -> dict[str, Any]:
    """Read a finished run folder, write report.json, report.md and report.html, and return what is in report.json."""
    from selfdistill.report.page import write_page  # the page shows what this module says

    trained = arms(run)
    if not (run / "selected.jsonl").is_file():
        raise UserError(f"{run}: no selected.jsonl. Expected the folder of a finished `selfdistill run`.")
    selected = list(read_records(run / "selected.jsonl", Selected))
    rewrites = {r.id: r for r in read_records(run / "rewrites.jsonl", Rewrite)}
    reasons = Counter(row.reason.value for row in selected)
    for arm in trained:
        method_named(arm["method"], f"{run / 'run.json'}: arm {arm['name']}")
    listed = manifest(run)
    report: dict[str, Any] = {
        "rows": len(selected),
        "distilled": sum(row.rewritten for row in selected),
        "yield": dict(reasons.most_common()),
        "gap": gap(selected, rewrites),
        "arms": trained,
        "overlap": listed.get("overlap", {}),
        "training": {folder: training_record(run / folder) for arm in trained for folder in arm["folders"]},
        "tasks": compare(measured(run)),
    }
    report["front"] = asdict(front_of(report["tasks"], [arm["name"] for arm in trained]))
    report["costs"] = costs_of(trained, report["training"], listed.get("seconds") or {})
    report["verdicts"] = verdicts(report)
    report["summary"] = sentence(report)
    write_atomic(run / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_atomic(run / "report.md", markdown(report))
    write_page(run, report)
    return report


def measured(run: Path) -> dict[str, list[Path]]:
    """The folders of the seed LM and of every arm whose trainings were all evaluated, by its name."""
    return {
        arm["name"]: [run / folder for folder in arm["folders"]]
        for arm in [{"name": "seed", "folders": ["seed"]}, *arms(run)]
        if all((run / folder / "result.json").is_file() for folder in arm["folders"])
    }


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
