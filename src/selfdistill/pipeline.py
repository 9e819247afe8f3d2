"""Run: the whole chain for the seed LM and every arm, into one folder that explains itself.

In:  a recipe.
Out: recipe.toml (resolved, runs again), run.json (versions, device, digests, arms, seconds, status, and the sandbox's
     walls where code is run), examples.jsonl, rewrites.jsonl, selected.jsonl, exports, skipped.jsonl where bad rows
     were left out, one folder per arm (adapter, predictions, results), report.json, report.md, report.html.

    selfdistill run recipe.toml --out runs/mine
    accelerate launch --num_processes 8 -m selfdistill run recipe.toml --out runs/mine

The same command goes on where a killed run stopped. A changed recipe is refused, naming what changed. Under a launcher
all processes train, and one does the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from selfdistill.checks import load_check
from selfdistill.checks.base import Check
from selfdistill.checks.sandbox import walls
from selfdistill.core.config import Recipe
from selfdistill.core.dates import today
from selfdistill.core.engine_settings import OpenAISettings
from selfdistill.core.errors import UserError
from selfdistill.core.launch import process
from selfdistill.core.progress import Progress
from selfdistill.core.recipe import load_recipe, to_toml
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.core.store import locked, write_atomic, write_records
from selfdistill.core.turns import readable
from selfdistill.data.examples import drawn, read_examples
from selfdistill.data.notes import Notes, warn_of_special
from selfdistill.engines.open import open_endpoint, open_seed
from selfdistill.engines.protocol import Engine, Request, Sampling
from selfdistill.methods import METHODS, USUAL, method_named, responses
from selfdistill.methods.base import Responses
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.models.tools_check import require_tools
from selfdistill.publish.card import write_cards
from selfdistill.report.build import build
from selfdistill.report.tables import yield_sentence
from selfdistill.run_folder import Arm, Manifest, claim, engine_errors, same_arms, same_data
from selfdistill.stages.asked import advice, check_prompts
from selfdistill.stages.distill import distill, ids_digest
from selfdistill.stages.evaluate import evaluate
from selfdistill.stages.select import read_selected, select
from selfdistill.stages.train import train
from selfdistill.tasks.base import Permissions, Task
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.overlap import overlap_line, overlaps
from selfdistill.training.lora import check_trainable

SAMPLES = 6
"""Training rows that every arm answers, to be read side by side."""


def run(recipe: Recipe, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run a recipe into `out` and return the report (an empty one in a launcher's further processes). Raises UserError
    for bad input and for an `out` that holds another run."""
    progress = progress or Progress()
    recipe = _on_its_day(recipe, out)
    claim(out, recipe)
    if not recipe.tasks:
        progress.warn("no [[tasks]]: nothing will be measured")
    # Everything that can be wrong with the input shows here, before anything is written or made.
    check = load_check(recipe.select.check, recipe.allow_code_execution, None, recipe.code_without_walls, progress)
    notes = Notes(progress)
    examples = read_examples(recipe.data, seed=recipe.seed, data_dir=recipe.data_dir, notes=notes)
    permissions = Permissions(recipe.allow_code_execution, recipe.judge, recipe.data_dir, recipe.code_without_walls)
    tasks = load_tasks(recipe.tasks, recipe.seed, permissions, progress)
    quantized = recipe.train.tune == "qlora"
    seed_lm, prompter, engine = open_seed(
        recipe.engine, recipe.model, recipe.prompt, quantized, progress.warn, recipe.revision
    )
    check_trainable(seed_lm, recipe.train)
    _leave_device(recipe, seed_lm)
    for name, rows in (("data", examples), *((f"task {t.settings.name}", t.items) for t in tasks)):
        warn_of_special(rows, seed_lm.tokenizer, name, progress)
        require_tools(prompter, rows, name)
        check_prompts(rows, prompter, name, progress, trains=name == "data")
    if said := advice(recipe.model, prompter, recipe.distill.temperature):
        progress.warn(said)
    arms = arms_of(recipe, len(examples))
    for form, name in recipe.select.export.items():
        if name.split(".")[0] in [arm.name for arm in arms]:
            raise UserError(f"select.export: {form} = {name!r} is the folder of an arm. Name it otherwise.")
    asker, writer = prompter, engine
    if isinstance(recipe.engine, OpenAISettings):
        asker, writer = open_endpoint(recipe.engine, recipe.prompt)
    loaded = _Loaded(check, examples, tasks, arms, seed_lm, asker, writer, prompter, engine)
    if not process().main:
        _help_to_train(recipe, out, loaded, progress)
        return {}
    with locked(out):
        same_data(out / "examples.jsonl", examples)
        same_arms(out / "run.json", arms)
        write_atomic(out / "recipe.toml", to_toml(recipe))
        notes.write(out / "skipped.jsonl")
        manifest = Manifest(out / "run.json")
        with manifest.status():
            _stages(recipe, out, loaded, manifest, progress)
            manifest.finish()
            return build(out)  # it tells how the run ended


def _on_its_day(recipe: Recipe, out: Path) -> Recipe:
    """The recipe with the day on which the run began, for chat templates that write it: the same when it goes on."""
    if recipe.prompt.date:
        return recipe
    old = out / "recipe.toml"
    day = load_recipe(old, []).prompt.date if old.is_file() else None
    return recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"date": day or today()})})


def arms_of(recipe: Recipe, examples: int) -> list[Arm]:
    """The arms of a recipe: its methods, or the usual ones, for each number of rows and each seed, those that take
    rewrites also for each mix ratio. An arm is compared with the first arm of its method's base, of the same mix ratio
    where both have one.

    A name says what differs: `sdft-mix0.5-size200-seed1`. Raises UserError for more rows than there are, and for an
    unknown method.
    """
    named = {arm.name or arm.method: arm.method for arm in recipe.arms} or {name: name for name in USUAL}
    first = {method: name for name, method in reversed(named.items())}
    mixes = recipe.train.mix_ratio if isinstance(recipe.train.mix_ratio, tuple) else (recipe.train.mix_ratio,)
    sizes = recipe.train.size if isinstance(recipe.train.size, tuple) else (recipe.train.size,)
    seeds = recipe.seeds or (recipe.seed,)
    for values, key in ((mixes, "train.mix_ratio"), (sizes, "train.size"), (seeds, "seeds")):
        if len(set(values)) < len(values):
            raise UserError(f"{key}: a value stands there twice.")
    if (most := max(size or 0 for size in sizes)) > examples:
        raise UserError(f"train.size = {most}: the data has {examples} rows.")
    arms = []
    for size, seed in product(sizes, seeds):
        end = ([f"size{size}"] if len(sizes) > 1 else []) + ([f"seed{seed}"] if len(seeds) > 1 else [])
        for name, kind in named.items():
            method = method_named(kind, "arms")
            base = first.get(method.base or "")
            for mix in mixes if method.rewrites else mixes[-1:]:
                share = [f"mix{mix:g}"] if len(mixes) > 1 else []
                of_base = share if base and METHODS[named[base]].rewrites else []
                against = base and "-".join([base, *of_base, *end])
                if method.rewrites:
                    arms.append(Arm("-".join([name, *share, *end]), kind, against, mix, size, seed))
                else:
                    arms.append(Arm("-".join([name, *end]), kind, against, 0.0, size, seed))
    return arms


@dataclass(frozen=True)
class _Loaded:
    """What a run works with. `writer` rewrites, asked by `asker`; `engine` measures the arms, asked by `prompter`: the
    same pair, but for an endpoint."""

    check: Check | None
    examples: list[Example]
    tasks: list[Task]
    arms: list[Arm]
    seed_lm: SeedLM
    asker: Prompter
    writer: Engine
    prompter: Prompter
    engine: Engine


def _stages(recipe: Recipe, out: Path, loaded: _Loaded, manifest: Manifest, progress: Progress) -> None:
    """All stages, top to bottom."""
    examples, seed_lm, prompter, engine = loaded.examples, loaded.seed_lm, loaded.prompter, loaded.engine
    write_records(out / "examples.jsonl", examples)
    manifest.add(arms=[asdict(arm) for arm in loaded.arms])
    overlap = overlaps(examples, loaded.tasks)
    manifest.add(overlap=overlap)
    for task, found in overlap.items():
        progress.warn(overlap_line(task, found))
    if recipe.select.check == "python_tests" or any(t.check and t.check_name == "python_tests" for t in loaded.tasks):
        manifest.add(walls=walls())
    manifest.add(model=seed_lm.digest, data=ids_digest(examples), device=seed_lm.device, dtype=seed_lm.dtype)
    progress.note(
        f"{recipe.model} on {seed_lm.device} in {seed_lm.dtype}, engine {recipe.engine.name}, {len(examples)} rows, "
        f"{len(loaded.tasks)} tasks"
    )
    with manifest.timed("distill"), closing(loaded.writer):
        rewrites = out / "rewrites.jsonl"
        errors = distill(
            examples,
            rewrites,
            seed_lm.digest,
            loaded.writer,
            loaded.asker,
            recipe.distill,
            recipe.seed,
            progress,
        )
    if errors:
        raise UserError(
            f"{rewrites}: the engine failed on {errors} of {len(examples)} rows (their notes say why). Nothing "
            "is lost: the same command tries them again."
        )
    with manifest.timed("select"):
        exports: dict[str, Path] = {form: out / name for form, name in recipe.select.export.items()}
        keeps = recipe.prompt.thinking == "keep"
        reasons = select(examples, rewrites, out / "selected.jsonl", loaded.check, progress, None, exports, keeps)
    selected = read_selected(examples, out / "selected.jsonl")
    kept = sum(row.rewritten for row in selected.values())
    progress.note(f"{yield_sentence(reasons)} ({', '.join(f'{r} {n}' for r, n in reasons.items())})")
    if not kept:
        progress.warn("no rewrite was kept: all arms train on the references")

    samples = _first_samples(examples, selected)
    for arm in loaded.arms:
        with manifest.timed(f"train {arm.name}"):
            _train(recipe, arm, out, loaded, selected, progress)
    _leave_device(recipe, seed_lm)
    with closing(engine):
        for name in ("seed", *(arm.name for arm in loaded.arms)):
            adapter = None if name == "seed" else str(out / name / "adapter")
            with manifest.timed(f"evaluate {name}"), engine.adapter(adapter):
                digest = adapter_digest(adapter)
                label = f"evaluate {name}"
                evaluate(loaded.tasks, out / name, seed_lm.digest, engine, prompter, digest, label, progress)
                if failed := engine_errors(out / name):
                    raise UserError(
                        f"{out / name}: the engine failed on {failed} items. The same command asks them again."
                    )
                _answer_samples(samples, name, engine, prompter, recipe.distill.max_new_tokens)
    write_atomic(out / "samples.json", json.dumps([s for _, s in samples], indent=1, ensure_ascii=False) + "\n")
    write_cards(out)


def _leave_device(recipe: Recipe, seed_lm: SeedLM) -> None:
    """Engines of other processes need it."""
    if recipe.engine.name in ("vllm", "ray"):
        seed_lm.unload()


def _train(
    recipe: Recipe, arm: Arm, out: Path, loaded: _Loaded, selected: dict[str, Selected], progress: Progress
) -> None:
    def rows_of(method: str, mix_ratio: float) -> Responses:
        return responses(method, rows, selected, mix_ratio, recipe.seed)

    rows = drawn(loaded.examples, arm.size, recipe.seed)
    others = [rows_of(method, 1.0) for method in dict.fromkeys(a.method for a in loaded.arms)]
    train(
        loaded.seed_lm,
        rows,
        rows_of(arm.method, arm.mix_ratio),
        out / arm.name / "adapter",
        recipe.train,
        loaded.prompter,
        arm.seed,
        f"train {arm.name}",
        progress,
        others,
    )


def _help_to_train(recipe: Recipe, out: Path, loaded: _Loaded, progress: Progress) -> None:
    """What the processes beside the first do: wait for its rows, and train with it."""
    while not (out / "selected.jsonl").is_file():  # a waiting collective would run into its timeout
        time.sleep(1)
    selected = read_selected(loaded.examples, out / "selected.jsonl")
    for arm in loaded.arms:
        _train(recipe, arm, out, loaded, selected, progress)


def _first_samples(examples: Sequence[Example], selected: dict[str, Selected]) -> list[tuple[Example, dict[str, Any]]]:
    """The first rows whose rewrite was kept (then others), as {title, texts}."""
    ordered = sorted(examples, key=lambda e: not selected[e.id].rewritten)[:SAMPLES]
    return [
        (
            e,
            {
                "title": f"training row {e.id}",
                "texts": {
                    "prompt": e.prompt[-1]["content"],
                    "reference": readable(e.answers[-1]),
                    "rewrite": readable(e.turn(-1, selected[e.id].response)),
                },
            },
        )
        for e in ordered
    ]


def _answer_samples(
    samples: list[tuple[Example, dict[str, Any]]], arm: str, engine: Engine, prompter: Prompter, max_new_tokens: int
) -> None:
    sampling = Sampling(max_new_tokens, thinking_tokens=prompter.settings.thinking_tokens or 0)
    requests = [Request(e.id, prompter.evaluate(e.prompt, e.tools), sampling) for e, _ in samples]
    texts = {a.id: a.text for a in engine.generate(requests) if not a.error}
    for example, sample in samples:
        if example.id in texts:
            sample["texts"][f"{arm} answers"] = texts[example.id]


# --- the folder --------------------------------------------------------------------------------------------------
