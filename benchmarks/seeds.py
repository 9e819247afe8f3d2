"""Does the demo hold over seeds, targets and LoRA strengths? Five seeds x both targets x weak and strong LoRA.

    python benchmarks/seeds.py --out runs/seeds

The seed decides which rows are drawn, LoRA's initial weights and the order of the rows. Both arms of a cell share all
hyperparameters, and all cells answer the same items. Distilling is shared by the two strengths, the seed LM's own
answers by all cells. "strong" is the demo's own recipe. Writes OUT/table.md from all cells that are done; a stopped
sweep goes on where it was, and --target lets two processes share the work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import selfdistill as sd
from selfdistill.cli.demo import TARGETS, demo_recipe
from selfdistill.core.config import Recipe
from selfdistill.core.progress import Progress
from selfdistill.core.records import TaskResult
from selfdistill.core.store import write_atomic

STRENGTHS: dict[str, dict[str, Any]] = {"weak": {"preset": "paper", "lr": 6e-3, "epochs": 5.0}, "strong": {}}
Scores = dict[str, dict[str, TaskResult]]


def cell(lm: sd.Model, recipe: Recipe, items: int, folder: Path, seed: int, seed_results: Path) -> dict[str, Scores]:
    """Distill once, then train and evaluate both arms at every strength. Returns strength -> arm -> task -> result."""
    data, distilling, training, *tasks = (
        settings.model_dump(exclude_unset=True)
        for settings in (recipe.data, recipe.distill, recipe.train, *recipe.tasks)
    )
    asked = [sd.task(**task | {"limit": items}, allow_code_execution=True) for task in tasks]
    rows = sd.read(**data, seed=seed)
    made = sd.distill(lm, rows, folder / "rewrites.jsonl", seed=seed, **distilling)
    kept = sd.select(rows, made, recipe.select.check, folder / "selected.jsonl")
    reference = sd.evaluate(lm, asked, out=seed_results).results
    found: dict[str, Scores] = {}
    for strength, changed in STRENGTHS.items():
        found[strength] = {"seed": reference}
        for arm, chosen in (("vanilla", None), ("sdft", kept)):
            out = folder / strength / arm
            tuned = sd.train(lm, rows, chosen, out=out / "adapter", seed=seed, **training | changed)
            found[strength][arm] = sd.evaluate(lm, asked, tuned, out).results
    return found


def figures(scores: Scores, target: str) -> dict[str, float]:
    """Target score of the three models, and the mean loss of the other abilities, in points."""

    def points(arm: str, task: str) -> float:
        value = scores[arm][task].score
        assert value is not None
        return 100 * value

    others = [t for t in scores["seed"] if t != target]
    row = {f"{arm} target": points(arm, target) for arm in scores}
    for arm in ("vanilla", "sdft"):
        row[f"{arm} loses"] = mean(points("seed", t) - points(arm, t) for t in others)
    return row


def table(cells: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, and whether the expectation holds in the mean."""
    header = [
        "target", "LoRA", "seeds", "seed LM", "vanilla", "SDFT", "gain kept", "vanilla loses elsewhere",
        "SDFT loses elsewhere", "share", "expectation",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for (target, strength), rows in cells.items():
        spread = {
            k: f"{mean(r[k] for r in rows):.1f} ± {stdev([r[k] for r in rows]) if len(rows) > 1 else 0:.1f}"
            for k in rows[0]
        }
        m = {k: mean(r[k] for r in rows) for k in rows[0]}
        gain, loss = m["vanilla target"] - m["seed target"], m["vanilla loses"]
        kept = (m["sdft target"] - m["seed target"]) / gain if gain > 1 else None
        share = m["sdft loses"] / loss if loss > 1 else None
        gain_holds = "no gain to keep" if kept is None else "yes" if kept >= 0.8 else "no"
        loss_holds = "no loss" if share is None else "yes" if share <= 0.25 else "no"
        lines.append(
            f"| {target} | {strength} | {len(rows)} | {m['seed target']:.1f} | {spread['vanilla target']} | "
            f"{spread['sdft target']} | {'-' if kept is None else f'{kept:.2f}'} | {spread['vanilla loses']} | "
            f"{spread['sdft loses']} | {'-' if share is None else f'{share:.2f}'} | "
            f"gain: {gain_holds}, loss: {loss_holds} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--items", type=int, default=100, help="items per ability")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this target")
    args = parser.parse_args()
    progress, lm = Progress(), sd.load("embedded")
    for seed in range(args.seeds):
        for target in args.target or TARGETS:
            folder = args.out / target / str(seed)
            if not (folder / "figures.json").is_file():
                recipe = demo_recipe(target, allow_code=True)
                found = cell(lm, recipe, args.items, folder, seed, args.out / target / "seed")
                made = {strength: figures(scores, target) for strength, scores in found.items()}
                write_atomic(folder / "figures.json", json.dumps(made, indent=1) + "\n")
            write_atomic(args.out / "table.md", table(_cells(args.out)))
            progress.note(f"seed {seed}, {target}: done")
    print(table(_cells(args.out)))


def _cells(out: Path) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Figures of all cells that are done, by (target, strength)."""
    cells: dict[tuple[str, str], list[dict[str, float]]] = {}
    for target in TARGETS:
        for path in sorted(out.glob(f"{target}/*/figures.json")):
            for strength, row in json.loads(path.read_text(encoding="utf-8")).items():
                cells.setdefault((target, strength), []).append(row)
    return cells


if __name__ == "__main__":
    main()
