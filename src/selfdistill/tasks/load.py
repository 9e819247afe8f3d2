"""From a task's settings to its items and its check.

In:  task settings (a dataset by path or name, a check), and what the user permits.
Out: `Task`s for `evaluate`. What cannot be measured here is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from selfdistill.checks import NEED_NO_REFERENCE, load_check
from selfdistill.core.config import DataSettings, TaskSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.worlds import quizzes, world_of
from selfdistill.data.examples import read_examples
from selfdistill.data.notes import Notes
from selfdistill.data.sources import SOURCES, Source
from selfdistill.models.templates import load_template
from selfdistill.tasks import BENCHMARKS
from selfdistill.tasks.base import Permissions, Task, as_it_stands

LIMIT_SEED = 0
"""Draws the items of a task that has a limit. It is no setting: trainings with other seeds answer the same items."""


def load_tasks(settings: Iterable[TaskSettings], seed: int, permissions: Permissions, progress: Progress) -> list[Task]:
    """Read the items of every task. A task whose check needs what was not given is listed, but not run. Raises
    UserError where model-written code may be run, but walls of the sandbox are missing."""
    tasks: list[Task] = []
    for task in settings:
        if task.name in (t.settings.name for t in tasks):
            raise UserError(f"two tasks are named {task.name}. Name them apart.")
        name = _check_name(task)
        if task.template:
            load_template(task.template)
        if name == "lm-eval":
            tasks.append(Task(task, name, harness=_harness_folder(task, permissions.data_dir)))
            continue
        missing = _missing(name, permissions)
        if missing:
            progress.warn(f"task {task.name} is not measured: {missing}")
        allowed = permissions.allow_code, permissions.judge, permissions.without_walls
        check = None if missing else load_check(name, *allowed, progress)
        unread = missing and name == "python_tests"
        items = () if unread else tuple(_items(task, seed, name, permissions.data_dir, progress))
        judge = permissions.judge if name == "win_rate" else None
        tasks.append(Task(task, name, check, items, missing, judge=judge))
    return tasks


def _check_name(task: TaskSettings) -> str:
    """The check that the task names, or that its benchmark or ability brings."""
    kind, _, name = task.path.partition(":")
    own = None
    if world := world_of(task.path):
        try:
            own = world.check_of(name)
        except UserError as error:
            raise UserError(f"task {task.name}: {error}") from None
    elif kind == "paper":
        if name not in BENCHMARKS:
            raise UserError(f"task {task.name}: {task.path}: no such benchmark. There are: {', '.join(BENCHMARKS)}.")
        own = BENCHMARKS[name].check
    elif kind == "lm-eval":
        own = "lm-eval"
    if not (task.check or own):
        raise UserError(f'task {task.name}: no check. Name one, for example check = "last_number".')
    if task.check == "none":
        raise UserError(f'task {task.name}: check "none" judges nothing. Name a check.')
    return task.check or own or ""


def _missing(check: str, permissions: Permissions) -> str | None:
    if check == "python_tests" and not permissions.allow_code:
        return "it runs model-written code, and --allow-code-execution was not given"
    if check == "win_rate" and permissions.judge is None:
        return "it asks a judge, and none was named ([judge] in the recipe, or --judge-url and --judge-model)"
    return None


def _harness_folder(task: TaskSettings, data_dir: str | None) -> Path | Literal["hub"]:
    """Where the harness finds a task: the folder lm-eval of the data folder if there is one, else its own list."""
    from selfdistill.tasks.harness import HARNESS

    if find_spec("lm_eval") is None:
        raise UserError(f"task {task.name}: lm-evaluation-harness is missing: pip install 'selfdistill[paper]'.")
    folder, name = Path(data_dir or "") / "lm-eval", task.path.partition(":")[2]
    if data_dir and folder.is_dir() and name not in quizzes():
        return folder
    if name not in (*HARNESS, *quizzes()):
        raise UserError(f"task {task.name}: {task.path}: no such task. There are: {', '.join((*HARNESS, *quizzes()))}.")
    return "hub"


def _items(task: TaskSettings, seed: int, check: str, data_dir: str | None, progress: Progress) -> list[Example]:
    """The task's items (`limit` of them drawn at random, in their order), with ids that tell the task."""
    kind, _, name = task.path.partition(":")
    data = DataSettings(
        path=task.path,
        format=task.format,
        columns=task.columns,
        split=task.split,
        sample=task.limit,
        skip_bad=task.skip_bad,
    )
    ask: Callable[[str], str] = as_it_stands
    source: Source | None = None
    if kind == "paper":
        benchmark = BENCHMARKS[name]
        split = task.split if "split" in task.model_fields_set else benchmark.split
        source = benchmark.source if isinstance(benchmark.source, Source) else SOURCES[benchmark.source]
        data = data.model_copy(update={"path": f"paper:{source.name}", "split": split})
        ask = benchmark.ask
    drawn = seed if world_of(task.path) else LIMIT_SEED
    rows = read_examples(data, task.name, drawn, check not in NEED_NO_REFERENCE, data_dir, Notes(progress), source)
    items = []
    for row in rows:
        *before, last = row.prompt
        asked = last.copy()
        asked["content"] = ask(last["content"])
        prompt = (*before, asked)
        items.append(row.model_copy(update={"id": f"{task.name}/{row.id}", "task": task.name, "prompt": prompt}))
    return items


def template_of(task: TaskSettings) -> str | None:
    """The template whose evaluation prompt the task's items stand in; None is the run's own."""
    kind, _, name = task.path.partition(":")
    return task.template or (BENCHMARKS[name].template if kind == "paper" else None)
