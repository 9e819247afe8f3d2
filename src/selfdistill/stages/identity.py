"""Identity: everything that decides what an evaluation folder holds, kept beside its answers.

In:  tasks, the model's digest, the engine, the prompter, the adapter's digest.
Out: a plain dict. A folder with another one is refused, naming what differs; where only checks have changed, their
     stored answers need no model to be judged again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from selfdistill.checks import source_digest
from selfdistill.core.records import Example
from selfdistill.core.store import digest_file, digest_of
from selfdistill.engines.protocol import Engine
from selfdistill.models.prompts import Prompter
from selfdistill.run_folder import META
from selfdistill.tasks.base import Task
from selfdistill.tasks.load import template_of

_CHECK = "check of "


def evaluation_identity(
    tasks: Sequence[Task], model: str, engine: Engine, prompter: Prompter, adapter: str | None
) -> dict[str, Any]:
    """The identity of an evaluation. "check of T" is what judged the answers to task T; it changes with the check's
    source, and `regrade` brings it up to date."""
    identity: dict[str, Any] = {
        "stage": "evaluate",
        "model": model,
        "engine": engine.describe(),
        "adapter": adapter,
        "prompts": [prompter.format, *prompter.template.evaluate],
        **prompter.identity(),
    }
    for task in tasks:
        if task.items or task.harness:
            settings = task.settings.model_dump(exclude={"role", "path"} if task.items else {"role"})
            items = digest_of([_item(e) for e in task.items] or _files(task.harness))
            judge = task.judge.model if task.judge else None
            asked = prompter.for_task(template_of(task.settings))
            form = [*asked.template.evaluate, asked.asks_form]
            identity[f"task {task.settings.name}"] = [settings, task.check_name, judge, form, items]
            identity[_CHECK + task.settings.name] = [task.check_name, _judged_by(task)]
    return identity


def _item(example: Example) -> dict[str, Any]:
    """An item as it is identified: what only rows with tools have is not there in others."""
    return example.model_dump(exclude={key for key in ("tools", "answer") if not getattr(example, key)})


def _files(folder: Path | Literal["hub"] | None) -> list[list[str]]:
    """What identifies a folder of task files."""
    if not isinstance(folder, Path):
        return []
    return [[str(f.relative_to(folder)), digest_file(f)] for f in sorted(folder.rglob("*")) if f.is_file()]


def _judged_by(task: Task) -> str:
    """What the verdicts of a task depend on beside its settings."""
    return f"lm-eval {version('lm_eval')}" if task.harness else source_digest(task.check_name)


def changed_checks(out: Path, identity: dict[str, Any]) -> list[str]:
    """The tasks whose answers in `out` were judged by a check of another source, where nothing else has changed: these
    answers need no model to be judged again."""
    try:
        old = json.loads((out / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    new = json.loads(json.dumps(identity))
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    if all(k.startswith(_CHECK) and k in new and "lm-eval" not in new[k] for k in changed):
        return [k.removeprefix(_CHECK) for k in changed]
    return []


def note_checks(out: Path, tasks: Sequence[Task]) -> None:
    """Record which source of their checks judged these tasks. The file is the journal's lock: it stays the same one."""
    meta = out / META
    if meta.is_file():
        identity = json.loads(meta.read_text(encoding="utf-8"))
        identity |= {_CHECK + t.settings.name: [t.check_name, _judged_by(t)] for t in tasks}
        meta.write_text(json.dumps(identity, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
