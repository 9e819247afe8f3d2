"""The lab: every arm of the studies is distilled, trained and evaluated once, and shared by its digest.

In:  a world (one recipe per dataset of the paper), a model, an output folder.
Out: OUT/distilled/NAME-DIGEST (rewrites, selected rows), OUT/arms/NAME-DIGEST (adapter), and in it TASK-DIGEST
     (predictions, result). A folder's digest is over all that decides its content, so a stopped study goes on where it
     was, and a study finds what another one made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

from selfdistill.checks import load_check
from selfdistill.checks.base import Check
from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.recipe import load_recipe
from selfdistill.core.records import Example, Prediction, TaskResult, Verdict, read_records
from selfdistill.core.rewrites import Selected
from selfdistill.core.store import digest_of, write_records
from selfdistill.data.examples import drawn, read_examples
from selfdistill.engines.open import open_seed
from selfdistill.engines.protocol import Engine
from selfdistill.methods import usual
from selfdistill.methods.rows import rows_of
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.run_folder import read_results
from selfdistill.stages.distill import distill, ids_digest
from selfdistill.stages.evaluate import evaluate, task_result
from selfdistill.stages.identity import evaluation_identity
from selfdistill.stages.select import read_selected, select
from selfdistill.stages.train import train
from selfdistill.tasks.base import Permissions, Task
from selfdistill.tasks.load import load_tasks
from selfdistill.training.lora import check_trainable


@dataclass(frozen=True)
class Arm:
    """One model of the paper: the seed LM (no dataset), or the seed LM tuned on a dataset.

    `mix` is the share of rows that take the rewrite: 0 trains on the rows as they stand. `share` of the rows train.
    `template` replaces the recipe's distillation template; without rewrites there is none, so arms stay shared.
    """

    dataset: str | None = None
    mix: float = 0.0
    share: float = 1.0
    template: str | None = None

    @property
    def method(self) -> str:
        """The arm's method by its name."""
        return usual(rewrites=self.mix > 0)

    @property
    def base(self) -> Arm:
        """The arm on the same rows as they stand."""
        return Arm(self.dataset, 0.0, self.share)

    @property
    def label(self) -> str:
        """A short name for folders and figures."""
        if self.dataset is None:
            return "seed"
        name = self.method if self.mix in (0, 1) else f"mix{self.mix:g}"
        parts = [self.dataset, name, self.template, None if self.share == 1 else f"share{self.share:g}"]
        return "-".join(p for p in parts if p)


SEED = Arm()


def load_world(name: str, overrides: list[str], limit: int | None) -> dict[str, Recipe]:
    """The recipes of a world by dataset. `limit` caps the items of every task."""
    folder = Path(str(resources.files("selfdistill") / "recipes" / name))
    world = {}
    for path in sorted(folder.glob("*.toml")):
        recipe = load_recipe(path, overrides)
        if limit:
            tasks = tuple(t.model_copy(update={"limit": min(limit, t.limit or limit)}) for t in recipe.tasks)
            recipe = recipe.model_copy(update={"tasks": tasks})
        world[path.stem] = recipe
    return world


class Lab:
    """Makes arms and results on demand, each once."""

    def __init__(
        self, world: Mapping[str, Recipe], out: Path, permissions: Permissions, only: set[str], progress: Progress
    ) -> None:
        """All recipes of `world` name one model and one seed. `only` are the datasets that may be trained on."""
        self.world, self.out, self.permissions, self.only, self.progress = world, out, permissions, only, progress
        self.recipe = next(iter(world.values()))
        if self.recipe.engine.name == "openai":
            raise UserError(
                'engine = "openai": studies measure adapters, which an endpoint does not take. Choose another.'
            )
        train = self.recipe.train
        if self.recipe.seeds or train.size is not None or train.mix_ratio != 1:
            raise UserError("seeds, train.size and train.mix_ratio: a study sets its own. Leave them out.")
        self._folders: dict[Arm, Path] = {}
        self._tasks: dict[str, Task] = {}
        self._read: dict[str, list[Example]] = {}
        self._measured: dict[tuple[Arm, str], Measured] = {}

    @property
    def seed_lm(self) -> SeedLM:
        """The seed LM, loaded at the first need."""
        return self._opened[0]

    @property
    def engine(self) -> Engine:
        """One engine for all arms: the seed LM stays loaded, adapters come and go."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[SeedLM, Engine]:
        recipe, quantized = self.recipe, self.recipe.train.tune == "qlora"
        seed_lm, _, engine = open_seed(
            recipe.engine, recipe.model, recipe.prompt, quantized, self.progress.warn, recipe.revision
        )
        check_trainable(seed_lm, recipe.train)
        return seed_lm, engine

    def _prompter(self, recipe: Recipe) -> Prompter:
        return Prompter.create(self.seed_lm.tokenizer, recipe.prompt, self.progress.warn)

    def _check(self, recipe: Recipe) -> Check | None:
        """The check of a dataset's rewrites."""
        permitted = self.permissions
        return load_check(
            recipe.select.check,
            permitted.allow_code,
            without_walls=permitted.without_walls,
            progress=self.progress,
        )

    def wants(self, arm: Arm) -> bool:
        """Whether this arm is to be made."""
        return arm.dataset is None or arm.dataset in self.only

    def _same(self, arm: Arm) -> Arm:
        """The arm without a template that makes no difference, so that it is made once."""
        if arm.dataset and (arm.mix == 0 or arm.template == self.world[arm.dataset].prompt.template):
            return replace(arm, template=None)
        return arm

    def _recipe(self, arm: Arm) -> Recipe:
        if arm.dataset is None:
            return self.recipe
        recipe = self.world[arm.dataset]
        if arm.template:
            recipe = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"template": arm.template})})
        return recipe

    def _distilled(self, recipe: Recipe, name: str) -> tuple[list[Example], dict[str, Selected], str]:
        """The dataset's examples, what was selected for each, and a digest of both."""
        examples = self._examples(recipe)
        template = self._prompter(recipe).template
        identity = digest_of(
            [
                self.seed_lm.digest,
                ids_digest(examples),
                # What is not set leaves the folders of before where they are.
                recipe.prompt.model_dump(exclude_defaults=True)
                | {"format": recipe.prompt.format, "template": recipe.prompt.template},
                recipe.distill.model_dump(),
                [template.intro, template.turn, template.prefill],
                recipe.select.check,
                recipe.seed,
                self.engine.describe(),
            ]
        )
        folder = self.out / "distilled" / f"{name}-{template.name}-{identity}"
        if not (folder / "selected.jsonl").is_file():
            rewrites = folder / "rewrites.jsonl"
            errors = distill(
                examples,
                rewrites,
                self.seed_lm.digest,
                self.engine,
                self._prompter(recipe),
                recipe.distill,
                recipe.seed,
                self.progress,
            )
            if errors:
                raise UserError(f"{rewrites}: the engine failed on {errors} rows. The same command tries them again.")
            write_records(folder / "examples.jsonl", examples)
            check = self._check(recipe)
            keeps = recipe.prompt.thinking == "keep"
            select(examples, rewrites, folder / "selected.jsonl", check, self.progress, keep_thoughts=keeps)
        return examples, read_selected(examples, folder / "selected.jsonl"), identity

    def _folder(self, arm: Arm) -> Path:
        """The arm's folder; the arm is trained if it was not yet."""
        if arm.dataset is None:
            return self.out / "arms" / f"seed-{self.seed_lm.digest.rpartition('/')[2]}"
        recipe = self._recipe(arm)
        examples, selected, identity = self._distilled(recipe, arm.dataset)
        rows = drawn(examples, max(1, round(arm.share * len(examples))), recipe.seed)
        # What trains on the rows as they stand does not depend on how rewrites were made.
        data = identity if arm.mix else [self.seed_lm.digest, ids_digest(examples)]
        prompter = self._prompter(recipe)
        form = [prompter.format, *prompter.template.train, *prompter.identity().values()]
        made = digest_of([data, recipe.train.model_dump(), form, recipe.seed, arm.mix, arm.share])
        folder = self.out / "arms" / f"{arm.label}-{made}"
        trains, objective = rows_of(arm.method, rows, selected, arm.mix, recipe.seed, "method")
        train(
            self.seed_lm,
            trains,
            folder / "adapter",
            recipe.train,
            prompter,
            recipe.seed,
            f"train {arm.label}",
            self.progress,
            objective,
        )
        return folder

    def measure(self, arm: Arm, task_names: Sequence[str]) -> dict[str, Measured]:
        """Results of one arm on tasks; what is there already is read, the rest is made."""
        arm = self._same(arm)
        new = [name for name in task_names if (arm, name) not in self._measured]
        if new:  # finding the folders hashes items and weights: once is enough, however many studies ask
            self._measured |= {(arm, name): found for name, found in self._measure(arm, new).items()}
        return {name: self._measured[arm, name] for name in task_names}

    def _measure(self, arm: Arm, task_names: Sequence[str]) -> dict[str, Measured]:
        recipe = self._recipe(arm)
        tasks = {name: self._task(recipe, name) for name in task_names}
        possible = {name: task for name, task in tasks.items() if task.items or task.harness}
        if possible and arm not in self._folders:
            self._folders[arm] = self._folder(arm)
        # All arms are asked in one form, whatever template their training used (Appendix B).
        prompter, model = self._prompter(recipe).for_task("using"), self.seed_lm.digest
        adapter = str(self._folders[arm] / "adapter") if possible and arm.dataset else None
        digest = adapter_digest(adapter)
        places = {
            name: self._folders[arm]
            / f"{name}-{digest_of(evaluation_identity([task], model, self.engine, prompter, digest))}"
            for name, task in possible.items()
        }
        if any(not (place / "result.json").is_file() for place in places.values()):
            with self.engine.adapter(adapter):
                for name, place in places.items():
                    label = f"{arm.label}: {name}"
                    evaluate([tasks[name]], place, model, self.engine, prompter, digest, label, self.progress)
        found = {name: Measured(task_result(task, []), None) for name, task in tasks.items()}
        for name, place in places.items():
            found[name] = Measured(read_results(place)[name], place / "predictions.jsonl")
        return found

    def adapter(self, arm: Arm) -> Path | None:
        """Where the arm's weights lie; None for the seed LM. The arm must have been measured."""
        return self._folders[self._same(arm)] / "adapter" if arm.dataset else None

    def preflight(self, needs: Mapping[Arm, Sequence[str]]) -> None:
        """Read every dataset and every task, so that what is missing shows before anything is made."""
        for arm, names in needs.items():
            recipe = self._recipe(arm)
            for name in names:
                self._task(recipe, name)
            if arm.dataset:
                self._check(recipe)
                self._prompter(recipe)
                self._examples(recipe)

    def _examples(self, recipe: Recipe) -> list[Example]:
        key = digest_of([recipe.data.model_dump(), recipe.seed])
        if key not in self._read:
            self._read[key] = read_examples(recipe.data, seed=recipe.seed, data_dir=self.permissions.data_dir)
        return self._read[key]

    def _task(self, recipe: Recipe, name: str) -> Task:
        """The loaded task; its items are read once for all arms."""
        settings = next(t for t in recipe.tasks if t.name == name)
        settings = settings.model_copy(update={"role": "retained"})  # one result, whatever a study aims at
        key = digest_of(settings.model_dump())
        if key not in self._tasks:
            self._tasks[key] = load_tasks([settings], self.recipe.seed, self.permissions, self.progress)[0]
        return self._tasks[key]


@dataclass(frozen=True)
class Measured:
    """A task's result and where its predictions lie; None where it could not be measured."""

    result: TaskResult
    predictions: Path | None


def item_values(predictions: Path, metric: str | None) -> dict[str, float]:
    """What a metric says of every judged item, by id; None is the task's own verdict."""
    values = {}
    for p in read_records(predictions, Prediction):
        if not p.verdict.judged:
            continue
        if metric is None:
            values[p.id] = float(p.verdict is Verdict.CORRECT)
        elif metric in p.metrics:
            values[p.id] = p.metrics[metric]
    return values
