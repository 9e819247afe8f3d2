"""General prompts: what a model is asked in daily life. Self-replay trains the seed LM's own answers to them beside the
task's rows, so that the tuned model keeps what lies far from the task.

In:  the pool that ships (general_prompts.jsonl, {kind, prompt} a line, written for this), or the user's dataset.
Out: `Example`s, of which only the prompts are meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.data.examples import read_examples
from selfdistill.data.notes import Notes
from selfdistill.tasks.base import Task
from selfdistill.tasks.overlap import overlaps

SHIPPED = str(resources.files("selfdistill.methods") / "general_prompts.jsonl")

SHOWN = 60
"""Characters of a prompt that is named in a message."""


def general_prompts(path: str | None = None, notes: Notes | None = None) -> list[Example]:
    """The prompts of a pool, in the order of the file: None is the one that ships; `path` is any dataset that
    `data.examples` reads, with responses or without. A response that the pool brings is the example's reference, else
    that is "". `notes` gathers what there is to say of the rows.

    Raises UserError for what cannot be read, and for a pool without rows.
    """
    return read_examples(DataSettings(path=path or SHIPPED), "general", need_response=False, notes=notes)


def refuse_probes(pool: Sequence[Example], tasks: Sequence[Task], path: str | None = None) -> None:
    """Nothing, where no prompt of the pool is an item of a task. Else replay would train what the task then counts as
    kept. `path` is what `general_prompts` was given. What makes the same item is said in `tasks.overlap`.

    Raises UserError that names every such task with how many prompts, and the first prompt of the pool that is one.
    """
    found = overlaps(pool, tasks)
    if not found:
        return
    first = {hit["examples"][0] for hit in found.values()}
    row, example = next((n, e) for n, e in enumerate(pool, 1) if e.id in first)
    counts = ", ".join(f"{hit['rows']} of task {task}" for task, hit in found.items())
    raise UserError(
        f"{path or 'the general prompts that ship'}: {len(pool)} general prompts, of which these are items of a task: "
        f"{counts}; the first is prompt {row}, {_beginning(example)}. Replay would teach what the task measures: "
        f"{'take them out' if path else 'bring general prompts of your own'}, or leave the task out."
    )


def _beginning(example: Example) -> str:
    said = " ".join(next(t["content"] for t in reversed(example.prompt) if t["role"] == "user").split())
    return repr(said if len(said) <= SHOWN else said[:SHOWN] + "...")
