"""Answers: evaluation folders of what is named on the command line, folders, models and adapters alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.store import digest_of
from selfdistill.core.worlds import model_folder
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.run_folder import engine_errors
from selfdistill.stages.asked import as_trained, check_prompts
from selfdistill.stages.evaluate import evaluate
from selfdistill.tasks.base import Task


def measure(
    places: Sequence[str],
    base: str | None,
    work: Path | None,
    load: Callable[[], Sequence[Task]],
    open_engine: Callable[[str], tuple[str, Prompter, Any]],
    progress: Progress,
) -> list[Path]:
    """Where the answers of each place lie. A model, or an adapter of `base`, is asked the tasks that `load` gives, into
    a folder of its own under `work`; asked before, it is not asked again.

    `open_engine` makes (digest, prompter, engine) of a model's name.
    """
    models: dict[str, list[str]] = {}
    for place in dict.fromkeys(places):
        kind = kind_of(place)
        if kind == "adapter" and base is None:
            raise UserError(f"{place}: an adapter. Name its model with --model.")
        if kind != "answers":
            models.setdefault(str(base) if kind == "adapter" else place, []).append(place)
    if not models:
        return [Path(place) for place in places]
    if work is None:
        for place in (place for arms in models.values() for place in arms if not Path(place).exists()):
            if not model_folder(place):
                raise UserError(
                    f"{place}: no such file or folder. If it is a model on the hub, add --out FOLDER and --task."
                )
        raise UserError(f"{next(iter(models.values()))[0]}: a model, not answers. Name a folder for them with --out.")
    tasks, found = load(), {}
    for model, arms in models.items():
        digest, prompter, engine = open_engine(model)
        for place in (place for place in arms if kind_of(place) == "adapter"):  # all are asked on the same day
            prompter = as_trained(prompter, place, progress)
        for task in tasks:
            check_prompts(task.items, prompter, f"task {task.settings.name}", progress, trains=False)
        with closing(engine):
            for place in arms:
                adapter = place if kind_of(place) == "adapter" else None
                found[place] = out = (
                    work / f"{re.sub('[^A-Za-z0-9_.-]+', '-', Path(place).name)}-{digest_of(place)[:8]}"
                )
                with engine.adapter(adapter):
                    evaluate(tasks, out, digest, engine, prompter, adapter_digest(adapter), place, progress)
                if failed := engine_errors(out):
                    raise UserError(f"{place}: the engine failed on {failed} items. The same command asks them again.")
    return [found.get(place, Path(place)) for place in places]


FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")


def kind_of(place: str) -> Literal["answers", "adapter", "model"]:
    """What a name on the command line means. What is nothing yet is a hub's model, if it can be one."""
    path = Path(place)
    if path.is_dir():
        if (path / "result.json").is_file() or any(path.glob("samples_*.jsonl")):
            return "answers"
        if is_adapter(path):
            return "adapter"
        return "model" if (path / "config.json").is_file() else "answers"
    nowhere = place.startswith((".", "/", "~")) or place.count("/") > 1
    return "answers" if path.is_file() or path.suffix in FILES or nowhere else "model"
