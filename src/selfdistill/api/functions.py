"""The functions of the API: each stage, with settings as in a recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfdistill.api.views import Adapter, Comparison, Evaluation, Kept, Rewrites, Rows, Run
from selfdistill.core.config import (
    ENGINES,
    DataSettings,
    DistillSettings,
    PromptSettings,
    TaskSettings,
    TrainSettings,
    checked,
)
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress

if TYPE_CHECKING:
    from selfdistill.engines.protocol import Engine
    from selfdistill.models import SeedLM
    from selfdistill.tasks.base import Task
    from selfdistill.templates import Prompter


def _progress() -> Progress:
    """Bars on a terminal; warnings alone in a notebook, which has its own way to show that a cell runs."""
    progress = Progress()
    return progress if progress.console.is_terminal else Progress(quiet=True)


# --- the model ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A seed LM and how it is asked: `format` and `template` as in a recipe's `[prompt]`, `engine` as in its
    `engine`. Weights are read at the first use."""

    name: str
    format: Literal["chat", "paper"] = "chat"
    template: str = "using"
    engine: Mapping[str, Any] = field(default_factory=lambda: {"name": "transformers"})

    @cached_property
    def opened(self) -> tuple[SeedLM, Prompter, Engine]:
        """The model, what makes its prompts, and what generates with it."""
        from selfdistill.engines.open import open_seed

        name = self.engine.get("name", "transformers")
        if name not in ENGINES or name == "openai":
            local = ", ".join(engine for engine in ENGINES if engine != "openai")
            raise UserError(f"engine {name!r}: expected one of {local}.")
        settings: Any = checked(ENGINES[name], dict(self.engine), "engine")
        prompt = checked(PromptSettings, {"format": self.format, "template": self.template}, "prompt")
        return open_seed(settings, self.name, prompt, warn=_progress().warn)


def load(
    name: str, format: Literal["chat", "paper"] = "chat", template: str = "using", engine: str | Mapping[str, Any] = ""
) -> Model:
    """A model folder, a name on the hub, or `embedded`. `engine` is a name, or settings with a name. Nothing is read
    before it is needed."""
    settings = {"name": engine or "transformers"} if isinstance(engine, str) else dict(engine)
    return Model(name, format, template, settings)


# --- rows, rewrites, what was kept -------------------------------------------------------------------------------


def read(
    path: str | Path,
    *,
    format: str = "auto",
    split: str = "train",
    sample: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    data_dir: str | None = None,
    **columns: str,
) -> Rows:
    """The rows of a file, a folder, a hub dataset, `paper:NAME` or `micro:ABILITY`. Further arguments name columns:
    `prompt="question", response="answer"`. Raises UserError with file and line for what cannot be read."""
    from selfdistill.data.examples import read_examples

    values = {"path": str(path), "format": format, "split": split, "sample": sample, "skip_bad": skip_bad}
    settings = checked(DataSettings, values | {"columns": columns}, "data")
    return Rows(str(path), tuple(read_examples(settings, seed=seed, data_dir=data_dir)))


def distill(model: Model, rows: Rows, out: str | Path, *, seed: int = 0, **settings: Any) -> Rewrites:
    """Let the model rewrite every reference (Equation 3) into the file `out`. A call that was stopped goes on where it
    was. `settings` are those of `[distill]`: candidates, temperature, top_p, max_new_tokens, stop."""
    from selfdistill.stages.distill import distill as stage

    lm, prompter, engine = model.opened
    made = checked(DistillSettings, settings, "distill")
    return Rewrites(Path(out), stage(rows, Path(out), lm.digest, engine, prompter, made, seed, _progress()))


def select(
    rows: Rows,
    rewrites: Rewrites | str | Path,
    check: str = "none",
    out: str | Path | None = None,
    *,
    allow_code_execution: bool = False,
) -> Kept:
    """Keep each rewrite that is as good as its reference (Equation 4). `rewrites` may be a file that another program
    wrote. Without `out`, the file lives as long as what this returns."""
    from selfdistill.checks import load_check
    from selfdistill.stages.select import select as stage

    folder = tempfile.TemporaryDirectory() if out is None else None
    path = Path(folder.name) / "selected.jsonl" if folder else Path(str(out))
    source = rewrites.path if isinstance(rewrites, Rewrites) else Path(rewrites)
    loaded = load_check(check, allow_code_execution)
    return Kept(path, rows, stage(rows, source, path, loaded, _progress()), folder)


# --- training ----------------------------------------------------------------------------------------------------


def train(
    model: Model,
    rows: Rows,
    kept: Kept | None = None,
    *,
    out: str | Path,
    method: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> Adapter:
    """Fine-tune on what was kept, or without it on the references. `method` is a name of `methods.METHODS`; without it,
    the usual one for either. `settings` are those of `[train]`. An adapter that is there already, trained in the same
    way, is left as it is."""
    from selfdistill.data.examples import drawn
    from selfdistill.methods import method_named, responses, usual
    from selfdistill.stages.train import train as stage

    made = checked(TrainSettings, settings, "train")
    if isinstance(made.mix_ratio, tuple) or isinstance(made.size, tuple):
        raise UserError("train: a list of mix_ratio or size makes several arms; `run` does that.")
    lm, prompter, _ = model.opened
    examples = drawn(rows, made.size, seed)
    kind = method or usual(rewrites=kept is not None)
    if method_named(kind, "method").rewrites and kept is None:
        raise UserError(f"method {method!r} trains on selected rewrites; give train() what select() kept.")
    answers = responses(kind, examples, {} if kept is None else kept.by_id, made.mix_ratio, seed)
    return Adapter(stage(lm, examples, answers, Path(out), made, prompter, seed, progress=_progress()))


# --- evaluation --------------------------------------------------------------------------------------------------


def task(path: str | Path, check: str | None = None, *, seed: int = 0, **settings: Any) -> Task:
    """A task of evaluation: a dataset and a check. `settings` are those of `[[tasks]]`, such as role, limit, columns;
    the name is the file's, if none is given. `allow_code_execution=True` lets `python_tests` run what models write;
    `data_dir` holds local copies of `paper:` data."""
    from selfdistill.tasks.base import Permissions
    from selfdistill.tasks.load import load_tasks

    permissions = Permissions(settings.pop("allow_code_execution", False), None, settings.pop("data_dir", None))
    scheme, colon, last = str(path).partition(":")
    name = last if colon else Path(scheme).stem
    values = {"name": name, "path": str(path), "check": check} | settings
    return load_tasks([checked(TaskSettings, values, "task")], seed, permissions, _progress())[0]


def evaluate(
    model: Model,
    tasks: Task | Sequence[Task],
    adapter: Adapter | str | Path | None = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Ask the model, with or without an adapter, every item of the tasks and judge the answers. A call that was stopped
    goes on where it was. Without `out`, the folder lives as long as what this returns."""
    from selfdistill.models import adapter_digest
    from selfdistill.run_folder import engine_errors
    from selfdistill.stages.evaluate import evaluate as stage
    from selfdistill.tasks.base import Task

    folder = tempfile.TemporaryDirectory() if out is None else None
    path = Path(folder.name if folder else str(out))
    tuned = None if adapter is None else str(Path(adapter))
    lm, prompter, engine = model.opened
    asked = [tasks] if isinstance(tasks, Task) else list(tasks)
    with closing(engine), engine.adapter(tuned):
        stage(asked, path, lm.digest, engine, prompter, adapter_digest(tuned), progress=_progress())
    if failed := engine_errors(path):
        raise UserError(f"{path}: the engine failed on {failed} items. The same call asks them again.")
    return Evaluation(path, folder)


def compare(**arms: Evaluation | str | Path) -> Comparison:
    """Compare evaluations by name, in this order: `compare(seed=..., sdft=...)`. A path may also be a file of item
    scores that another program wrote. Raises UserError where they did not answer the same items."""
    from selfdistill.comparison.differences import compare as stage

    if len(arms) < 2:
        raise UserError("compare: name two evaluations or more, compare(seed=..., sdft=...).")
    places = {name: arm.path if isinstance(arm, Evaluation) else Path(arm) for name, arm in arms.items()}
    return Comparison(places, stage(places), list(arms.values()))


# --- a whole run -------------------------------------------------------------------------------------------------


def run(recipe: str | Path, out: str | Path, *overrides: str) -> Run:
    """Run a recipe (a file, or one of ours by name) into `out`; a run that is there goes on, a finished one is read.
    `overrides` are as in `selfdistill run --set`: "train.epochs=1"."""
    from selfdistill.core.recipe import load_recipe
    from selfdistill.pipeline import run as chain

    chain(load_recipe(Path(recipe), list(overrides)), Path(out), _progress())
    return Run(Path(out))
