"""Tasks of lm-evaluation-harness as tasks of ours: answered by the model in this process, whatever engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selfdistill.core.records import Prediction
from selfdistill.core.worlds import quiz_world
from selfdistill.engines.protocol import Engine
from selfdistill.models.prompts import Prompter
from selfdistill.tasks.base import Task
from selfdistill.tasks.harness import harness_predictions

HARNESS_ROWS = 64
"""Rows that the harness scores together."""


QUIZ_ITEMS = 100
"""Items of a world's quiz where the task has no limit."""


def expected_steps(task: Task) -> int:
    """Steps of a harness task on the progress bar: its own count of items is not known before it has run."""
    return (task.settings.limit or 1) if task.harness else 0


def measured(task: Task, engine: Engine, prompter: Prompter) -> list[Prediction]:
    """A task of lm-evaluation-harness, answered by the model in this process."""
    name, limit = task.settings.path.partition(":")[2], task.settings.limit
    with TemporaryDirectory() as scratch, _in_memory(engine) as local:
        folder = task.harness if isinstance(task.harness, Path) else None
        world = quiz_world(name)
        asked_in_chat = world is not None and bool(prompter.tokenizer.chat_template)  # as the seed LM is
        chat = prompter.chat if asked_in_chat else None
        if world:
            folder = world.write_quizzes(Path(scratch), max(2, limit or QUIZ_ITEMS), 0)
        made = harness_predictions(name, local.seed_lm, local.model, limit, folder, HARNESS_ROWS, chat=chat)
    own = task.settings.name
    return [p.model_copy(update={"id": f"{own}/{p.id.partition('/')[2]}", "task": own}) for p in made]


@contextmanager
def _in_memory(engine: Any) -> Iterator[Any]:
    """The transformers engine for what another engine answers with: the harness wants the model itself."""
    from selfdistill.engines.transformers import TransformersEngine

    if isinstance(engine, TransformersEngine):
        yield engine
        return
    engine.close()  # it may hold the device
    local = TransformersEngine(engine.seed_lm, set())
    with local.adapter(engine.tuned):
        yield local
    engine.seed_lm.unload()
