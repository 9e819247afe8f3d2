"""What a benchmark is, and a task with its items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfdistill.checks.base import Check
from selfdistill.core.config import TaskSettings
from selfdistill.core.engine_settings import JudgeSettings
from selfdistill.core.records import Example
from selfdistill.data.sources import Source


def as_it_stands(question: str) -> str:
    """No change."""
    return question


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where its items come from (the name of a dataset of `data.sources`, or a `Source` of its own), how
    they are asked and how answers are judged.

    `split` is what a task reads that names none. `ask` changes the question; `template` names the template whose
    evaluation prompt the items stand in, in both prompt formats, where the paper asks them in a form of their own
    (Figure 13).
    """

    source: str | Source
    check: str
    split: str = "test"
    template: str = "using"
    ask: Callable[[str], str] = as_it_stands


JUDGED_AT_ONCE = 4
"""Answers judged at a time, where no judge's own number says otherwise."""


@dataclass(frozen=True)
class Task:
    """A task with its items. `check` is None where the task cannot be measured (`missing` says why), and for the
    tasks of lm-evaluation-harness, which bring their own items and judge them themselves. A task that only lacks its
    judge has items: they are answered, and wait."""

    settings: TaskSettings
    check_name: str
    check: Check | None = None
    items: tuple[Example, ...] = ()
    missing: str | None = None
    harness: Path | Literal["hub"] | None = None
    judge: JudgeSettings | None = None

    @property
    def at_once(self) -> int:
        """Threads that judge: each waits for a process of the sandbox or for the judge's answer."""
        return self.judge.concurrency if self.judge else JUDGED_AT_ONCE


@dataclass(frozen=True)
class Permissions:
    """What a judgement may need beside the answer: leave to run code (even where walls of the sandbox are missing), a
    judge, local copies of `paper:` data."""

    allow_code: bool = False
    judge: JudgeSettings | None = None
    data_dir: str | None = None
    without_walls: bool = False
