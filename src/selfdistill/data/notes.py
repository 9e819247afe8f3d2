"""Notes: what there is to say of a dataset's rows, once each with its count, and which bad rows were left out.

In:  rows as they are read.
Out: warnings on standard error; the list of bad rows for a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.turns import spoken
from selfdistill.data.conversations import missing
from selfdistill.data.sources import Row

SHOWN = 3
"""Bad rows that are shown on the terminal."""

MEDIA = ("images", "image", "videos", "video", "audios", "audio")

UNUSED = (
    "documents", "context", "chat_template_kwargs", "reasoning_content", "reasoning", "thinking",
    "rejected", "rejected_response", "rejected_messages", "weight", "sample_weight", "loss_weight",
)  # fmt: skip
"""Columns that change what a model sees or learns in other trainers, and do not here."""

LABELS = ("label", "kto_tag")
"""Columns that say in preference sets whether an answer is a good one."""

WATCHED = {*MEDIA, *UNUSED, *LABELS}

CONTROL = re.compile(
    r"<\|[A-Za-z][\w-]*\|>|<｜[^｜<>]{1,40}｜>|\[/?INST\]|<</?SYS>>|</s>|<(?:start|end)_of_turn>|<[be]os>"
)


class Notes:
    """What was seen in one dataset. `say` tells it, once; a second pass over the rows adds nothing."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress or Progress()
        self.counts: dict[str, tuple[int, str, str]] = {}  # how often, where first, and what stood there
        self.skipped: list[tuple[str, str]] = []
        self.said = False

    def add(self, what: str, where: str, example: str = "") -> None:
        """A row of which something is to be said; `what` completes "n rows ..."."""
        if self.said:
            return
        count, *first = self.counts.get(what, (0, where, example))
        self.counts[what] = count + 1, first[0], first[1]

    def skip(self, where: str, error: UserError) -> None:
        """A bad row that is left out."""
        if self.said:
            return
        self.skipped.append((where, str(error).removeprefix(f"{where}: ")))

    def say(self, path: str) -> None:
        """Tell it all; each thing once, with its count and its first row."""
        if self.said:
            return
        self.said = True
        for what, (count, first, example) in self.counts.items():
            shown = first.removeprefix(f"{path}, ") + (f": {example}" if example else "")
            self.progress.warn(f"{path}: {count} rows {what} (the first: {shown})")
        if self.skipped:
            shown = "; ".join(f"{w.removeprefix(f'{path}, ')}: {why.rstrip('.')}" for w, why in self.skipped[:SHOWN])
            more = "; ..." if len(self.skipped) > SHOWN else ""
            self.progress.warn(f"{path}: {len(self.skipped)} bad rows are left out ({shown}{more})")

    def write(self, path: Path) -> None:
        """List the bad rows that were left out, one JSON object a line; no file without one."""
        if self.skipped:
            lines = [json.dumps({"row": w, "why": why}, ensure_ascii=False) + "\n" for w, why in self.skipped]
            path.write_text("".join(lines), encoding="utf-8")
            self.progress.note(f"the {len(self.skipped)} bad rows are listed in {path}")


def watch(row: Row, used: Iterable[str], where: str, notes: Notes) -> None:
    """Note the columns of a row that would change what a model sees or learns and are not used.

    Raises UserError for those without which training on the row would be wrong.
    """
    for column in WATCHED.intersection(row).difference(used):
        value = row[column]
        if column in LABELS:
            if value is False or (isinstance(value, str) and value.strip().lower() == "false"):
                raise UserError(f"{where}: {column!r} is false: a bad answer, not one to train on. Remove the row.")
            if value == 0 and value is not False:
                notes.add(f"have {column!r} = 0, which is not used; leave them out if it marks bad answers", where)
        elif says_nothing(value):
            continue
        elif column in MEDIA:
            raise UserError(f"{where}: column {column!r} holds media, and only text is trained on. Remove the row.")
        else:
            notes.add(f"have {column!r}, which is not used", where)


def says_nothing(value: Any) -> bool:
    """Whether a column is as good as not there."""
    return missing(value) or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def watch_control(example: Example, where: str, notes: Notes) -> None:
    """Note an example whose texts hold control tokens of a usual chat template, written out."""
    for text in _texts(example):
        # Most texts have neither, which is seen in no time.
        if ("<" in text or "INST]" in text) and (found := CONTROL.search(text)):
            notes.add("hold control tokens written out, which tokenizers take for real ones", where, found[0])
            return


def warn_of_special(examples: Iterable[Example], tokenizer: Any, name: str, progress: Progress) -> None:
    """Warn of examples whose texts hold special tokens of this very tokenizer, but for those that `watch_control`
    knows. `name` tells which data; a tokenizer behind an endpoint (None) is not known."""
    if tokenizer is None:
        return
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = {token for token in special if len(token) > 2 and not CONTROL.fullmatch(token)}
    if not special:
        return
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    found = [m[0] for example in examples if (m := _first(pattern, example))]
    if found:
        progress.warn(
            f"{name}: {len(found)} rows hold special tokens of this model written out, which its tokenizer takes for "
            f"real ones: {found[0]}"
        )


def _texts(example: Example) -> list[str]:
    return [*map(spoken, example.prompt), example.reference]


def _first(pattern: re.Pattern[str], example: Example) -> re.Match[str] | None:
    return next((found for text in _texts(example) if (found := pattern.search(text))), None)
