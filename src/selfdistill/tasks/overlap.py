"""Overlap: training rows that are also test items. A score on them says what was memorized, not what was learnt.

In:  training rows (a stream will do), and tasks with their items.
Out: by task how many rows, with examples. Tasks of lm-evaluation-harness bring their own items and are not looked at.

The same prompt is the same item, whatever its reference: the user's turns, case, white space and Unicode form aside.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from selfdistill.core.records import Example
from selfdistill.tasks.base import Task

NAMED = 3
"""Ids of rows that are given as examples."""


def overlaps(rows: Iterable[Example], tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """{task: {rows, of, examples}}: how many of all rows are items of the task, and the ids of the first. Tasks without
    any are left out. Memory holds a digest an item."""
    tasks_of: dict[bytes, set[str]] = {}
    for task in tasks:
        for item in task.items:
            *_, whole = _digests(item)
            tasks_of.setdefault(whole, set()).add(task.settings.name)
    found: dict[str, list[str]] = {task.settings.name: [] for task in tasks}
    count = 0
    for row in rows:
        count += 1
        # Each assistant turn of a conversation trains, so each beginning of it may be an item.
        for name in {name for digest in _digests(row) for name in tasks_of.get(digest, ())}:
            found[name].append(row.id)
    return {task: {"rows": len(ids), "of": count, "examples": ids[:NAMED]} for task, ids in found.items() if ids}


def overlap_line(task: str, found: dict[str, Any]) -> str:
    """One task's overlap in a sentence."""
    rows, listed = found["rows"], ", ".join(found["examples"])
    are = "is an item" if rows == 1 else "are items"
    named = f"for example {listed}" if rows > NAMED else listed
    return (
        f"{rows} of {found['of']} training rows {are} of task {task} ({named}): its score also shows what was memorized"
    )


def _digests(example: Example) -> Iterator[bytes]:
    """A digest of the user's turns up to each of them."""
    said = blake2b(digest_size=16)
    for turn in example.prompt:
        if turn["role"] == "user":
            text = " ".join(unicodedata.normalize("NFKC", turn["content"]).casefold().split())
            said.update(text.encode() + b"\0")
            yield said.digest()
