"""The functions of the API: each stage, with settings as in a recipe."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfdistill.api.given import PLACE, given, place
from selfdistill.api.views import Adapter, Comparison, Evaluation, Kept, Rewrites, Rows, Run
from selfdistill.core.config import (
    DataSettings,
    DistillSettings,
    PromptSettings,
    RepairSettings,
    TaskSettings,
    TrainSettings,
)
from selfdistill.core.engine_settings import ENGINES, EngineSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.rewrites import MADE_BY
from selfdistill.core.settings import checked

if TYPE_CHECKING:
    from selfdistill.engines.protocol import Engine
    from selfdistill.models.prompts import Prompter
    from selfdistill.models.seed_lm import SeedLM
    from selfdistill.tasks.base import Task


def _progress() -> Progress:
    """Bars on a terminal; warnings alone in a notebook, which has its own way to show that a cell runs."""
    progress = Progress()
    return progress if progress.console.is_terminal else Progress(quiet=True)


MODEL, KEPT, TASKS = "what load() returned", "what select() returned", "what task() returned"
NAMED = "a path or a name"


def _rows(what: str, rows: Any) -> Rows:
    """The rows that were given; a list of their examples will do."""
    if isinstance(rows, list) and all(isinstance(row, Example) for row in rows):
        return Rows("a list", tuple(rows))
    found: Rows = given(f"{what}: rows", rows, Rows, "what read() returned")
    return found


# --- the model ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A seed LM and how it is asked: `format` and `template` as in a recipe's `[prompt]`, `prompt` what else stands
    there, `engine` as in its `engine`. Settings are checked at once; weights are read at the first use."""

    name: str
    format: Literal["chat", "paper"] = "chat"
    template: str = "using"
    engine: Mapping[str, Any] = field(default_factory=lambda: {"name": "transformers"})
    prompt: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None

    def __post_init__(self) -> None:
        from selfdistill.models.templates import load_template

        load_template(self._settings[1].template)

    @cached_property
    def _settings(self) -> tuple[EngineSettings, PromptSettings]:
        name = self.engine.get("name", "transformers")
        if name not in ENGINES or name == "openai":
            local = ", ".join(engine for engine in ENGINES if engine != "openai")
            raise UserError(f"engine {name!r}: expected one of {local}.")
        asked = {"format": self.format, "template": self.template, **self.prompt}
        prompt = checked(PromptSettings, asked, "prompt")
        return checked(ENGINES[name], dict(self.engine), "engine"), prompt

    @cached_property
    def opened(self) -> tuple[SeedLM, Prompter, Engine]:
        """The model, what makes its prompts, and what generates with it."""
        from selfdistill.engines.open import open_seed

        settings, prompt = self._settings
        return open_seed(settings, self.name, prompt, warn=_progress().warn, revision=self.revision)


def load(
    name: str | Path,
    format: Literal["chat", "paper"] = "chat",
    template: str = "using",
    engine: str | Mapping[str, Any] = "",
    revision: str | None = None,
    **prompt: Any,
) -> Model:
    """A model folder, a name on the hub (at `revision`: a commit, branch or tag), or `embedded`. `engine` is a name, or
    settings with a name. Further arguments are those of `[prompt]`: thinking, thinking_tokens, chat_template_kwargs,
    date. Settings are checked at once; the model is read when it is needed."""
    given("load: engine", engine, (str, Mapping), "a name, or settings")
    settings = {"name": engine or "transformers"} if isinstance(engine, str) else dict(engine)
    where = str(given("load: name", name, PLACE, "a folder or a name"))
    return Model(where, format, template, settings, prompt, revision)


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

    path = str(given("read: path", path, PLACE, NAMED))
    values = {"path": path, "format": format, "split": split, "sample": sample, "skip_bad": skip_bad}
    settings = checked(DataSettings, values | {"columns": columns}, "data")
    return Rows(path, tuple(read_examples(settings, seed=seed, data_dir=data_dir)))


def distill(
    model: Model,
    rows: Rows,
    out: str | Path,
    *,
    seed: int = 0,
    own: bool = False,
    check: str | None = None,
    repair: Mapping[str, Any] | None = None,
    allow_code_execution: bool = False,
    **settings: Any,
) -> Rewrites:
    """Let the model rewrite every reference (Equation 3) into the file `out`; with `own`, answer without the reference
    in sight. A call that was stopped goes on where it was. `settings` are those of `[distill]`: candidates,
    temperature, top_p, max_new_tokens, stop. Rows of which no rewrite passes `check` are repaired; `repair` are the
    settings of that: steps, candidates, temperature, retries."""
    from selfdistill.checks import load_check
    from selfdistill.stages.asked import check_prompts
    from selfdistill.stages.distill import distill as stage

    given("distill: model", model, Model, MODEL)
    rows, path = _rows("distill", rows), place("distill: out", out)
    made = checked(DistillSettings, settings, "distill")
    loaded = load_check(given("distill: check", check or "none", str, "a name"), allow_code_execution)
    if repair is not None and loaded is None:
        raise UserError("distill: repair is for rows of which no rewrite passes a check. Name one, check=...")
    steps = checked(RepairSettings, dict(repair or {}), "repair") if loaded else None
    lm, prompter, engine = model.opened
    check_prompts(rows, prompter, rows.path, _progress())
    asked = own, loaded, steps
    return Rewrites(path, stage(rows, path, lm.digest, engine, prompter, made, seed, _progress(), *asked))


def select(
    rows: Rows,
    rewrites: Rewrites | str | Path,
    check: str = "none",
    out: str | Path | None = None,
    *,
    allow_code_execution: bool = False,
    keep_thoughts: bool = False,
    repair: bool | Sequence[str] = False,
) -> Kept:
    """Keep each rewrite that is as good as its reference (Equation 4). `rewrites` may be a file that another program
    wrote. Thoughts are left out, or with `keep_thoughts` stay. With `repair`, rows of which no first rewrite passes
    take what all its steps made, or those that it names: candidates, retries, place. Without `out`, the file lives as
    long as what this returns."""
    from selfdistill.checks import load_check
    from selfdistill.stages.select import select as stage

    rows = _rows("select", rows)
    written = rewrites.path if isinstance(rewrites, Rewrites) else rewrites
    source = place("select: rewrites", written, "what distill() returned, or a path")
    loaded = load_check(given("select: check", check, str, "a name"), allow_code_execution)
    named = tuple(MADE_BY) if repair is True else tuple(repair or ())
    steps = checked(RepairSettings, {"steps": named}, "select: repair").steps if named else ()
    if steps and loaded is None:
        raise UserError("select: repair is for rows of which no rewrite passes a check. Name one, check=...")
    folder = tempfile.TemporaryDirectory() if out is None else None
    path = Path(folder.name) / "selected.jsonl" if folder else place("select: out", out)
    reasons = stage(rows, source, path, loaded, _progress(), keep_thoughts=keep_thoughts, repair=steps)
    return Kept(path, rows, reasons, folder, keep_thoughts)


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
    from selfdistill.methods import chosen
    from selfdistill.methods.rows import rows_of
    from selfdistill.stages.asked import check_prompts
    from selfdistill.stages.train import train as stage

    given("train: model", model, Model, MODEL)
    rows, path = _rows("train", rows), place("train: out", out)
    given("train: kept", kept, (Kept, type(None)), KEPT)
    made = checked(TrainSettings, settings, "train")
    if isinstance(made.mix_ratio, tuple) or isinstance(made.size, tuple):
        raise UserError("train: a list of mix_ratio or size makes several arms; `run` does that.")
    lm, prompter, _ = model.opened
    check_prompts(rows, prompter, rows.path, _progress())
    examples = drawn(rows, made.size, seed)
    kind = chosen(method, kept is not None, "train: method", "give train() what select() kept")
    by_id = {} if kept is None else kept.by_id
    trains, objective = rows_of(kind, examples, by_id, made.mix_ratio, seed, "train: method")
    return Adapter(stage(lm, trains, path, made, prompter, seed, progress=_progress(), objective=objective))


# --- evaluation --------------------------------------------------------------------------------------------------


def task(path: str | Path, check: str | None = None, *, seed: int = 0, **settings: Any) -> Task:
    """A task of evaluation: a dataset and a check. `settings` are those of `[[tasks]]`, such as role, limit, columns;
    the name is the file's, if none is given. `allow_code_execution=True` lets `python_tests` run what models write;
    `data_dir` holds local copies of `paper:` data."""
    from selfdistill.tasks.base import Permissions
    from selfdistill.tasks.load import load_tasks

    given("task: path", path, PLACE, NAMED)
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
    from selfdistill.models.folder import adapter_digest
    from selfdistill.run_folder import engine_errors
    from selfdistill.stages.asked import as_trained, check_prompts
    from selfdistill.stages.evaluate import evaluate as stage
    from selfdistill.tasks.base import Task

    given("evaluate: model", model, Model, MODEL)
    asked = [tasks] if isinstance(tasks, Task) else tasks
    if not isinstance(asked, Sequence) or not all(isinstance(one, Task) for one in asked):
        given("evaluate: tasks", asked, Task, TASKS)
    trained = "what train() returned, or a path"
    tuned = None if adapter is None else str(place("evaluate: adapter", adapter, trained))
    folder = tempfile.TemporaryDirectory() if out is None else None
    path = Path(folder.name) if folder else place("evaluate: out", out)
    if not asked:
        raise UserError("evaluate: no tasks. Give it at least one that task() returned.")
    names = Counter(one.settings.name for one in asked)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"evaluate: two tasks are named {twice[0]}. Name them apart, task(..., name=...).")
    lm, prompter, engine = model.opened
    for one in asked:
        check_prompts(one.items, prompter, f"task {one.settings.name}", _progress(), trains=False)
    prompter = as_trained(prompter, tuned, _progress())
    with closing(engine), engine.adapter(tuned):
        stage(asked, path, lm.digest, engine, prompter, adapter_digest(tuned), progress=_progress())
    if failed := engine_errors(path):
        raise UserError(f"{path}: the engine failed on {failed} items. The same call asks them again.")
    return Evaluation(path, folder)


def compare(*unnamed: Any, **arms: Evaluation | str | Path) -> Comparison:
    """Compare evaluations by name, in this order: `compare(seed=..., sdft=...)`. A path may also be a file of item
    scores that another program wrote. Raises UserError where they did not answer the same items."""
    from selfdistill.comparison.differences import compare as stage

    if unnamed or len(arms) < 2:
        raise UserError("compare: name two evaluations or more, compare(seed=..., sdft=...).")
    answers = "what evaluate() returned, or a path"
    places = {
        name: place(f"compare: {name}", arm.path if isinstance(arm, Evaluation) else arm, answers)
        for name, arm in arms.items()
    }
    first: dict[Path, str] = {}
    for name, where in places.items():
        if (other := first.setdefault(where.resolve(), name)) != name:
            raise UserError(f"compare: {other} and {name} are the same answers, {where}. Give it different ones.")
    return Comparison(places, stage(places), list(arms.values()))


# --- a whole run -------------------------------------------------------------------------------------------------


def run(recipe: str | Path, out: str | Path, *overrides: str) -> Run:
    """Run a recipe (a file, or one of ours by name) into `out`; a run that is there goes on, a finished one is read.
    `overrides` are as in `selfdistill run --set`: "train.epochs=1"."""
    from selfdistill.core.recipe import load_recipe
    from selfdistill.pipeline import run as chain

    source, path = place("run: recipe", recipe, "a path or a name of ours"), place("run: out", out)
    texts = [given("run: an override", text, str, 'text such as "train.epochs=1"') for text in overrides]
    chain(load_recipe(source, texts), path, _progress())
    return Run(path)
