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
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from selfdistill.checks import load_check
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
from selfdistill.core.rows import TrainingRow
from selfdistill.core.store import digest_of, locked, write_atomic, write_records
from selfdistill.core.turns import readable
from selfdistill.data.examples import read_examples
from selfdistill.data.notes import Notes, warn_of_special
from selfdistill.engines.open import open_endpoint, open_seed
from selfdistill.engines.protocol import Engine, Request, Sampling
from selfdistill.methods import METHODS, USUAL, method_named
from selfdistill.methods.arms import arms_of, general_of, settings_of, training_of
from selfdistill.methods.general import general_prompts, refuse_probes
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.models.tools_check import require_tools
from selfdistill.publish.card import write_cards
from selfdistill.report.build import build
from selfdistill.run_folder import Arm, Manifest, claim, engine_errors, same_arms, same_data
from selfdistill.seed_pass import Loaded, SeedPass
from selfdistill.stages.asked import advice, check_prompts
from selfdistill.stages.distill import ids_digest
from selfdistill.stages.evaluate import evaluate
from selfdistill.stages.train import train
from selfdistill.tasks.base import Permissions, Task
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.overlap import overlap_line, overlaps
from selfdistill.training.lora import check_trainable

SAMPLED, SAMPLES = "samples.json", 6
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
    arms, quantized = arms_of(recipe, len(examples)), recipe.train.tune == "qlora"
    seed_lm, prompter, engine = open_seed(
        recipe.engine, recipe.model, recipe.prompt, quantized, progress.warn, recipe.revision
    )
    for arm in arms:
        check_trainable(seed_lm, training_of(arm, recipe))
    _leave_device(recipe, seed_lm)
    for name, rows in (("data", examples), *((f"task {t.settings.name}", t.items) for t in tasks)):
        warn_of_special(rows, seed_lm.tokenizer, name, progress)
        require_tools(prompter, rows, name)
        check_prompts(rows, prompter, name, progress, trains=name == "data")
    if said := advice(recipe.model, prompter, recipe.distill.temperature):
        progress.warn(said)
    general = _general(recipe, arms, len(examples), tasks, progress)
    for form, name in recipe.select.export.items():
        if name.split(".")[0] in [arm.name for arm in arms]:
            raise UserError(f"select.export: {form} = {name!r} is the folder of an arm. Name it otherwise.")
    asker, writer = prompter, engine
    if isinstance(recipe.engine, OpenAISettings):
        asker, writer = open_endpoint(recipe.engine, recipe.prompt)
    loaded = Loaded(check, examples, general, tasks, arms, seed_lm, asker, writer, prompter, engine)
    if not process().main:
        _help_to_train(recipe, out, loaded, progress)
        return {}
    with locked(out):
        same_data(out / "examples.jsonl", examples)
        same_arms(out / "run.json", arms)
        write_atomic(out / "recipe.toml", to_toml(recipe))
        notes.write(out / "skipped.jsonl")
        manifest = Manifest(out / "run.json")
        manifest.add(arms=[asdict(arm) for arm in arms])
        with manifest.status():
            _stages(recipe, out, loaded, manifest, progress)
            manifest.finish()
            return build(out)  # it tells how the run ended


def _general(
    recipe: Recipe, arms: Sequence[Arm], rows: int, tasks: Sequence[Task], progress: Progress
) -> list[Example]:
    """General prompts, as many as an arm asks for. Raises UserError where they hold items of a task."""
    count = max((general_of(arm, rows) for arm in arms), default=0)
    if not count:
        return []
    prompts = general_prompts(recipe.general_prompts)
    if count > len(prompts):
        progress.warn(f"general prompts: {count} are asked for, and there are {len(prompts)}; all of them are replayed")
    refuse_probes(prompts, tasks, recipe.general_prompts)
    by_id = {e.id: e for e in prompts}
    ids = sorted(by_id)
    random.Random(f"general-{recipe.seed}").shuffle(ids)  # an arm takes the first so many, whatever others take
    return [by_id[id] for id in ids[:count]]


def _on_its_day(recipe: Recipe, out: Path) -> Recipe:
    """The recipe with the day on which the run began, for chat templates that write it: the same when it goes on."""
    if recipe.prompt.date:
        return recipe
    old = out / "recipe.toml"
    day = load_recipe(old, []).prompt.date if old.is_file() else None
    return recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"date": day or today()})})


def _stages(recipe: Recipe, out: Path, loaded: Loaded, manifest: Manifest, progress: Progress) -> None:
    """All stages, top to bottom."""
    examples, seed_lm, prompter, engine = loaded.examples, loaded.seed_lm, loaded.prompter, loaded.engine
    write_records(out / "examples.jsonl", examples)
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
    seen = SeedPass(recipe, out, loaded, progress, seconds=manifest)
    seen.make()
    selected = seen.selected(max((arm.repair for arm in loaded.arms), key=len))
    if not any(row.rewritten for row in selected.values()):
        progress.warn("no rewrite was kept: rows train on their references")
    for arm in loaded.arms:
        seen.rows(arm)  # sees that there are some, and scores their tokens where a method asks for it
    if recipe.engine.name in ("vllm", "ray"):
        engine.close()  # trainings need the device
    manifest.add(seed_pass=_pass_of(loaded.arms))

    samples = _first_samples(examples, selected, out / SAMPLED)
    for arm in loaded.arms:
        with manifest.timed(f"train {arm.name}"):
            _train(recipe, arm, seen.rows(arm), out, loaded, progress)
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
    write_atomic(out / SAMPLED, json.dumps([s for _, s in samples], indent=1, ensure_ascii=False) + "\n")
    write_cards(out)


def _leave_device(recipe: Recipe, seed_lm: SeedLM) -> None:
    """Engines of other processes need it."""
    if recipe.engine.name in ("vllm", "ray"):
        seed_lm.unload()


def _train(
    recipe: Recipe, arm: Arm, rows: Sequence[TrainingRow], out: Path, loaded: Loaded, progress: Progress
) -> None:
    """Train an arm into ARM/adapter. Where its method does something with the weights afterwards, they train under the
    name of the arm that stops there, or else into ARM/trained."""
    method, settings = method_named(arm.method, "arms"), settings_of(arm)
    trained = out / arm.name / "adapter"
    if method.after:
        own = out / arm.name / "trained"
        trained = own if own.exists() else _trained_elsewhere(arm, out, loaded.arms) or own
    train(
        loaded.seed_lm,
        rows,
        trained,
        training_of(arm, recipe),
        loaded.prompter,
        arm.seed,
        f"train {arm.name}",
        progress,
        method.objective(settings),
    )
    if process().main:
        for number, step in enumerate(method.after, 1):
            last = number == len(method.after)
            made = out / arm.name / ("adapter" if last else f"trained-{number}")
            step(trained, made, loaded.seed_lm, settings)
            shutil.copy(trained / "training.json", made)
            trained = made


def _trained_elsewhere(arm: Arm, out: Path, arms: Sequence[Arm]) -> Path | None:
    """Where another arm has the same training, and nothing after it."""
    before = "+".join(name for name in arm.method.split("+") if not METHODS[name].after) or USUAL[0]
    keys = method_named(before, "arms").settings.model_fields
    wanted = replace(arm, settings={k: v for k, v in arm.settings.items() if k in keys}).made_like
    return next((out / a.name / "adapter" for a in arms if a.method == before and a.made_like == wanted), None)


def _pass_of(arms: Sequence[Arm]) -> str:
    """What run.json says when all is there that these arms train on: the processes beside the first wait for it."""
    return digest_of([asdict(arm) for arm in arms])


def _help_to_train(recipe: Recipe, out: Path, loaded: Loaded, progress: Progress) -> None:
    """What the processes beside the first do: wait for its rows, and train with it."""
    record = out / "run.json"
    while not record.is_file() or json.loads(record.read_text("utf-8")).get("seed_pass") != _pass_of(loaded.arms):
        time.sleep(1)  # a waiting collective would run into its timeout
    seen = SeedPass(recipe, out, loaded, progress, makes=False)
    for arm in loaded.arms:
        _train(recipe, arm, seen.rows(arm), out, loaded, progress)


def _first_samples(
    examples: Sequence[Example], selected: dict[str, Selected], before: Path
) -> list[tuple[Example, dict[str, Any]]]:
    """The first rows whose rewrite was kept (then others), as {title, texts}, with the answers that were there
    `before`."""
    old = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else []
    answers = {s["title"]: {k: v for k, v in s["texts"].items() if k.endswith(" answers")} for s in old}
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
                    **answers.get(f"training row {e.id}", {}),
                },
            },
        )
        for e in ordered
    ]


def _answer_samples(
    samples: list[tuple[Example, dict[str, Any]]], arm: str, engine: Engine, prompter: Prompter, max_new_tokens: int
) -> None:
    sampling = Sampling(max_new_tokens, thinking_tokens=prompter.settings.thinking_tokens or 0)
    new = [e for e, sample in samples if f"{arm} answers" not in sample["texts"]]
    requests = [Request(e.id, prompter.evaluate(e.prompt, e.tools), sampling) for e in new]
    texts = {a.id: a.text for a in engine.generate(requests) if not a.error} if requests else {}
    for example, sample in samples:
        if example.id in texts:
            sample["texts"][f"{arm} answers"] = texts[example.id]


# --- the folder --------------------------------------------------------------------------------------------------
