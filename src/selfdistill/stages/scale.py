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
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfdistill.compare.intervals import mean_score
from selfdistill.core.config import OpenAISettings, Recipe, TransformersSettings, load_recipe
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import TaskResult
from selfdistill.core.store import locked, write_atomic
from selfdistill.engines import Engine
from selfdistill.engines.open import load_for, make_engine
from selfdistill.models import SeedLM, load_model
from selfdistill.stages.evaluate import adapter_digest, engine_errors, evaluate, read_results
from selfdistill.stages.identity import evaluation_identity
from selfdistill.tasks.load import Permissions, Task, load_tasks
from selfdistill.templates import Prompter

RECORD = "strength.json"
"""In the folder of scaled weights: what they were made from. It is written last."""


# --- one arm at one strength -------------------------------------------------------------------------------------


def scaled(folder: Path, strength: float, out: Path, seed_lm: SeedLM) -> Path:
    """Write the weights W + s dW of an adapter or a fully tuned model in `folder` into `out`; what is there already is
    left as it is.

    Of an adapter, the factors B [outputs, r] become s B, in fp32 (whatever alpha, and for rsLoRA too, since dW is
    proportional to B). Of a whole model, each weight becomes (1 - s) seed + s tuned, computed in fp64 and rounded to
    the data type that the tuned model was saved in, which is that of the seed LM in the run. Raises UserError for a
    negative strength, for adapters that are more than B A (DoRA, trained biases or embeddings), and for an `out` that
    was made from other weights: what was measured beside it is of those.
    """
    if not strength >= 0 or math.isinf(strength):
        raise UserError(f"strength {strength}: expected a number from 0 up; 0 is the seed LM, 1 the trained arm.")
    made_from = {"strength": strength, "tuned": adapter_digest(str(folder)), "seed": seed_lm.digest}
    record = out / RECORD
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == made_from:
        return out
    partial = out.with_name(out.name + ".partial")
    if out.exists():
        raise UserError(f"{out}: was made from other weights than the arm's of today. Remove {out.parent}.")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    partial.mkdir(parents=True)
    if (folder / "adapter_config.json").is_file():
        _scale_adapter(folder, strength, partial)
    else:
        _interpolate(folder, strength, partial, seed_lm)
    (partial / RECORD).write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)
    return out


def check_scalable(folder: Path) -> None:
    """Raises UserError for an adapter whose weight change is more than the product of two factors."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        return
    from safetensors import safe_open

    if json.loads(config.read_text(encoding="utf-8")).get("use_dora"):
        raise UserError(f"{folder}: a DoRA adapter also rescales the base's weights, so no strength of it is W + s dW.")
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        odd = [name for name in weights.keys() if ".lora_A." not in name and ".lora_B." not in name]  # noqa: SIM118
    if odd:
        raise UserError(f"{folder}: cannot be scaled: {odd[0]} is no factor of LoRA.")


def _scale_adapter(folder: Path, strength: float, out: Path) -> None:
    from safetensors.torch import load_file, save_file

    check_scalable(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    for name, weight in weights.items():
        if ".lora_B." in name:
            weights[name] = weight.float() * strength
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(folder / "adapter_config.json", out)


def _interpolate(folder: Path, strength: float, out: Path, seed_lm: SeedLM) -> None:
    """Both models are read by transformers, since files may name or tie the same weights in different ways."""
    import torch

    seed_lm.unload()  # an engine may have left it on the device
    on_cpu = replace(seed_lm, device="cpu")
    tuned = replace(load_model(str(folder), seed_lm.dtype), device="cpu")
    before = dict(on_cpu.model.named_parameters())
    with torch.no_grad():
        for name, weight in tuned.model.named_parameters():  # tied weights once
            weight.copy_(torch.lerp(before[name].double(), weight.double(), strength))  # exact at 0 and 1
    tuned.model.save_pretrained(out)
    tuned.tokenizer.save_pretrained(out)


# --- the curve ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """Mean score over `tasks` tasks with its 95 % interval, from 0 to 1."""

    tasks: int
    value: float
    low: float
    high: float


def mean_of(results: Sequence[TaskResult]) -> Mean | None:
    """`stats.mean_score` of the tasks that were measured; None without any."""
    bounds = [(r.score, r.low, r.high) for r in results]
    found = [(p, low, high) for p, low, high in bounds if p is not None and low is not None and high is not None]
    return Mean(len(found), *mean_score(found)) if found else None


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
    recipe, manifest = _finished(run)
    chosen = _chosen(run, manifest, arms)
    for name in chosen:
        check_scalable(run / name / "adapter")
    with locked(run):
        permissions = Permissions(recipe.allow_code_execution, recipe.judge, recipe.data_dir, recipe.code_without_walls)
        tasks = load_tasks(recipe.tasks, recipe.seed, permissions, progress)
        # An endpoint takes no adapters, so `run` measured its arms here, too.
        settings = TransformersSettings() if isinstance(recipe.engine, OpenAISettings) else recipe.engine
        seed_lm = load_for(settings, recipe.model, recipe.train.tune == "qlora")
        prompter = Prompter.create(seed_lm.tokenizer, recipe.distill.format, recipe.distill.template, progress.warn)
        engine = make_engine(settings, seed_lm, prompter)
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
    try:
        manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict):
        raise UserError(f"{run}: no run.json. Expected the folder of a finished `selfdistill run`.")
    if manifest.get("status") != "finished":
        raise UserError(f"{run}: the run is not finished ({manifest.get('status')}). Finish it with the same command.")
    if "arms" not in manifest:
        raise UserError(f"{run}: run.json names no arms; an older version wrote it. Run it again.")
    return load_recipe(run / "recipe.toml", []), manifest


def _chosen(run: Path, manifest: dict[str, Any], arms: Sequence[str]) -> list[str]:
    names = [arm["name"] for arm in manifest["arms"]]
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


def show(table: dict[str, Any], console: Any) -> None:
    """Print the curves on a rich console, in percent."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title="percent correct [95 % interval], mean over tasks", title_justify="left")
    for i, title in enumerate(("arm", "strength", "target", "retained")):
        shown.add_column(title, justify="left" if i == 0 else "right", no_wrap=i < 2)
    for name, curve in table["arms"].items():
        for point in curve:
            shown.add_row(name, f"{point['strength']:g}", *(escape(_cell(point[r])) for r in ("target", "retained")))
    console.print(shown)


def _cell(mean: dict[str, Any] | None) -> str:
    if mean is None:
        return "not measured"
    return f"{100 * mean['value']:.1f} [{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]"
