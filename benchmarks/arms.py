"""Who learns, and who keeps? Arms x targets x weak and strong LoRA x training seeds, on the microworld.

    python benchmarks/arms.py --out runs/arms --target rare_tools --seeds 1 --items 50      # all arms, to screen them
    python benchmarks/arms.py --out runs/arms --target rare_tools --arms vanilla sdft repaired --seeds 5

A target is one run: its arms share the rows, one seed pass and the seed LM's answers. A stopped sweep goes on where it
was; more arms and more seeds repeat nothing. Writes OUT/cells/TARGET-ITEMS/ARM-STRENGTH-SEED.json, one small file a
trained arm with its scores, and OUT/table.md, made of all cells that are there.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from selfdistill.cli.demo import demo_recipe
from selfdistill.core.config import ArmSettings, Recipe
from selfdistill.core.progress import Progress
from selfdistill.core.store import write_atomic
from selfdistill.pipeline import run
from selfdistill.run_folder import read_results

STRENGTHS: dict[str, dict[str, Any]] = {"strong": {}, "weak": {"preset": "paper", "lr": 6e-3, "epochs": 5.0}}
ARMS: dict[str, dict[str, Any]] = {
    "vanilla": {"method": "vanilla"},
    "sdft": {"method": "sdft"},
    "repaired": {"method": "sdft", "repair": True},
    "s3ft": {"method": "s3ft"},
    "s3ft-repaired": {"method": "s3ft", "repair": True},
    "self_only": {"method": "self_only"},
    "stm": {"method": "stm"},
    "flow": {"method": "flow"},
    "eaft": {"method": "eaft"},
    "dft": {"method": "dft"},
    "kl": {"method": "kl"},
    "asft": {"method": "asft"},
    "replay": {"method": "replay"},
    "sdft+replay": {"method": "sdft+replay"},
    "repaired+replay": {"method": "sdft+replay", "repair": True},
    "interpolate": {"method": "interpolate"},
    "sdft+interpolate": {"method": "sdft+interpolate"},
}
"""What is tried, with the defaults of every method: nothing is tuned for one of them."""
POOL = defaultdict(lambda: "micro:chat", chat="micro:facts")
"""Prompts to replay, by target: the embedded model does not know the world of those that ship. They are of the train
split of one ability, another one than the target."""


def recipe_of(target: str, arms: Mapping[str, dict[str, Any]], seeds: int, items: int) -> Recipe:
    """The demo's recipe of a target with these arms, each with a weak and a strong LoRA."""
    base = demo_recipe(target, allow_code=True)
    listed = [
        ArmSettings(**arm, name=f"{name}-{strength}", train=train)
        for strength, train in STRENGTHS.items()
        for name, arm in arms.items()
        if base.select.check != "none" or not (arm.get("repair") or arm["method"] in ("s3ft", "self_only"))
    ]
    tasks = tuple(task.model_copy(update={"limit": items}) for task in base.tasks)
    changed = {"arms": tuple(listed), "seeds": tuple(range(seeds)), "tasks": tasks, "general_prompts": POOL[target]}
    return base.model_copy(update=changed)


def write_cells(run: Path, recipe: Recipe, out: Path) -> None:
    """One small file for each trained arm, and one for the seed LM: its score of every task, in percent."""
    target = next(task.name for task in recipe.tasks if task.role == "target")
    arms = json.loads((run / "run.json").read_text(encoding="utf-8"))["arms"]
    for arm in [{"name": "seed"}, *arms]:
        name = arm["name"]
        scores = {task: r.score and round(100 * r.score, 2) for task, r in read_results(run / arm["name"]).items()}
        cell = {"target": target, "method": arm.get("method"), "repair": arm.get("repair", []), "scores": scores}
        write_atomic(out / f"{name}.json", json.dumps(cell, indent=1) + "\n")


def table(cells: Path) -> str:
    """Of every folder of cells a table: target score, and what the other abilities lost in the mean, over seeds."""
    parts = []
    for folder in sorted(p for p in cells.glob("*") if p.is_dir()):
        seed = json.loads((folder / "seed.json").read_text(encoding="utf-8"))
        target, before = seed["target"], seed["scores"]
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for path in sorted(folder.glob("*-seed*.json")):
            scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
            lost = mean(before[t] - scores[t] for t in before if t != target)
            found[path.stem.rpartition("-seed")[0]].append((scores[target], lost))
        parts += [f"## {folder.name} (seed LM: {before[target]:.1f} on the target)", ""]
        parts += ["| arm | seeds | target | points lost elsewhere |", "| --- | ---: | ---: | ---: |"]
        for arm, rows in sorted(found.items()):
            target_scores, losses = zip(*rows, strict=True)
            parts.append(f"| {arm} | {len(rows)} | {_spread(target_scores)} | {_spread(losses)} |")
        parts.append("")
    return "\n".join(parts)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="without it, all")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of every arm")
    parser.add_argument("--items", type=int, default=100, help="items per ability")
    args = parser.parse_args()
    progress = Progress()
    for target in args.target:
        name = f"{target}-{args.items}"
        recipe = recipe_of(target, {arm: ARMS[arm] for arm in args.arms}, args.seeds, args.items)
        run(recipe, args.out / "runs" / name, progress)
        write_cells(args.out / "runs" / name, recipe, args.out / "cells" / name)
        progress.note(f"{name}: done")
    text = table(args.out / "cells")
    write_atomic(args.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    main()
