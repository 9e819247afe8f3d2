"""Strength: how much of the fine-tuning to take, without another training.

In:  the folder of a finished run, and strengths s.
Out: RUN/scale/ARM-S for every arm and strength (adapter, predictions, results), and RUN/scale.json.

    selfdistill scale runs/mine --strengths 0.25,0.5,0.75

The weights between seed LM and tuned model are W + s dW: 0 is the seed LM, 1 the arm as it was trained, more than 1
goes on in the same direction. That is WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903) for LoRA, whose dW is B A up to
a factor. It is evaluated with the run's own tasks and engine; what is measured once is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfdistill.comparison.intervals import mean_of
from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.recipe import load_recipe
from selfdistill.core.store import locked, write_atomic
from selfdistill.engines.open import open_seed
from selfdistill.engines.protocol import Engine
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.run_folder import engine_errors, manifest, read_results
from selfdistill.stages.evaluate import evaluate
from selfdistill.stages.identity import evaluation_identity
from selfdistill.tasks.base import Permissions, Task
from selfdistill.tasks.load import load_tasks
from selfdistill.training.interpolate import check_scalable, scaled

# --- one arm at one strength -------------------------------------------------------------------------------------


# --- the curve ---------------------------------------------------------------------------------------------------


def strengths_of(text: str) -> list[float]:
    """`0.25,0.5` as numbers in rising order, without 0 and 1, which a run has measured. Raises UserError for what is no
    number or negative."""
    found = set()
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise UserError(f"--strengths {text}: {part.strip()!r} is no number. Expected 0.25,0.5 or so.") from None
        if not value >= 0 or math.isinf(value):
            raise UserError(f"--strengths {text}: {part.strip()} is not allowed. Expected numbers from 0 up.")
        found.add(value)
    if not found - {0.0, 1.0}:
        raise UserError(f"--strengths {text}: 0 is the seed LM and 1 the trained arm; the run has both. Name others.")
    return sorted(found - {0.0, 1.0})


def scale(
    run: Path, strengths: Sequence[float], arms: Sequence[str] = (), progress: Progress | None = None
) -> dict[str, Any]:
    """Evaluate arms of a finished run (all, if none is named) at several strengths, and write RUN/scale.json.

    Returns what is in it: {strengths, arms: {arm: [{strength, folder, target, retained, tasks}]}} with rising
    strengths, 0 (the seed LM) and 1 (the arm) among them; `target` and `retained` are `Mean`s or None, `tasks` the
    results by task. Raises UserError for a folder that is no finished run, an arm that is not there, and where the
    model, a task or the engine is no longer what the run had.
    """
    progress = progress or Progress()
    recipe, found = _finished(run)
    chosen = _chosen(run, found, arms)
    for name in chosen:
        check_scalable(run / name / "adapter")
    with locked(run):
        permissions = Permissions(recipe.allow_code_execution, recipe.judge, recipe.data_dir, recipe.code_without_walls)
        tasks = load_tasks(recipe.tasks, recipe.seed, permissions, progress)
        quantized = recipe.train.tune == "qlora"
        seed_lm, prompter, engine = open_seed(
            recipe.engine, recipe.model, recipe.prompt, quantized, progress.warn, recipe.revision
        )
        _same_as_the_run(run, evaluation_identity(tasks, seed_lm.digest, engine, prompter, None))
        curves: dict[str, list[dict[str, Any]]] = {}
        with closing(engine):
            for name in chosen:
                curve = {0.0: "seed", 1.0: name}
                for strength in strengths:
                    curve[strength] = _measured(run, name, strength, tasks, seed_lm, engine, prompter, progress)
                curves[name] = [_point(run, s, curve[s]) for s in sorted(curve)]
        table = {"strengths": sorted({0.0, 1.0, *strengths}), "arms": curves}
        write_atomic(run / "scale.json", json.dumps(table, indent=1) + "\n")
    return table


def _finished(run: Path) -> tuple[Recipe, dict[str, Any]]:
    found = manifest(run)
    if found.get("status") != "finished":
        raise UserError(f"{run}: the run is not finished ({found.get('status')}). Finish it with the same command.")
    return load_recipe(run / "recipe.toml", []), found


def _chosen(run: Path, found: dict[str, Any], arms: Sequence[str]) -> list[str]:
    names = [arm["name"] for arm in found["arms"]]
    if unknown := [name for name in arms if name not in names]:
        raise UserError(f"--arm {unknown[0]}: {run} has no such arm. There are: {', '.join(names)}.")
    return [name for name in names if name in arms or not arms]


def _same_as_the_run(run: Path, identity: dict[str, Any]) -> None:
    """A curve whose ends come from other items, another model or another data type would be none."""
    meta = json.loads((run / "seed" / "predictions.jsonl.meta.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(identity))
    if changed := [k for k in {**meta, **now} if meta.get(k) != now.get(k)]:
        raise UserError(f"{run}: {', '.join(changed)} changed since the run, so nothing can be compared with it.")


def _measured(
    run: Path,
    name: str,
    strength: float,
    tasks: Sequence[Task],
    seed_lm: SeedLM,
    engine: Engine,
    prompter: Prompter,
    progress: Progress,
) -> str:
    """Evaluate one arm at one strength. Returns the folder's name inside the run."""
    label = f"{name}-{strength!r}".removesuffix(".0")
    out = run / "scale" / label
    adapter = str(scaled(run / name / "adapter", strength, out / "adapter", seed_lm))
    with engine.adapter(adapter):
        evaluate(tasks, out, seed_lm.digest, engine, prompter, adapter_digest(adapter), f"evaluate {label}", progress)
    if failed := engine_errors(out):
        raise UserError(f"{out}: the engine failed on {failed} items. The same command asks them again.")
    return f"scale/{label}"


def _point(run: Path, strength: float, folder: str) -> dict[str, Any]:
    results = list(read_results(run / folder).values())
    point: dict[str, Any] = {"strength": strength, "folder": folder}
    for role in ("target", "retained"):
        mean = mean_of([r for r in results if r.role == role])
        point[role] = mean and asdict(mean)
    kept = ("n", "score", "low", "high", "unjudgeable")
    point["tasks"] = {r.task: {"role": r.role} | r.model_dump(include=set(kept)) for r in results}
    return point
