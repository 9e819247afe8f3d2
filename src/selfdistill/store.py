"""Where records lie: files that are appended whole or not at all, resume, and refuse a changed setting.

While a stage runs, finished records are appended to `NAME.partial` in whole batches, one write each. Beside it lies
`NAME.meta.json` with the settings that decide the content. At the end the records are put in input order and renamed
to NAME in one step, so NAME is either absent or complete, and the same bytes whether or not the run was interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, KeysView, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import ValidationError

from selfdistill.errors import UserError
from selfdistill.records import Record, dump

R = TypeVar("R", bound=Record)


class Journal(Generic[R]):
    """The output file of a stage: one record per id. A context manager that keeps other processes out.

    Opening it reads what an earlier, killed run left: whole lines count, a torn last line is cut off.
    Raises UserError if the earlier run had other settings (named), or if the finished file is not ours.
    """

    def __init__(self, path: Path, kind: type[R], settings: dict[str, Any]) -> None:
        self.path, self.kind = path, kind
        self.partial = path.with_name(path.name + ".partial")
        meta = path.with_name(path.name + ".meta.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not meta.exists():
            raise UserError(f"{path}: exists and was not written by this command. Choose another output.")
        # The meta file is the lock: opened before anything is read, and written in place, so that it stays the same.
        self._lock = _lock(meta, f"{path}: another process is writing this file. Wait for it, or stop it.", create=True)
        try:
            self._open(meta, settings)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, meta: Path, settings: dict[str, Any]) -> None:
        path = self.path
        if path.exists() or self.partial.exists():
            _same_settings(meta, settings)
        else:
            meta.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self.finished = path.exists()
        self._offsets: dict[str, tuple[int, int]] = {}
        source = path if self.finished else self.partial
        if source.exists():
            self._scan(source)

    def _scan(self, source: Path) -> None:
        position = 0
        with source.open("rb") as lines:
            for line in lines:
                try:
                    if not line.endswith(b"\n"):
                        break
                    record = self.kind.model_validate_json(line)
                except ValidationError:
                    break
                self._offsets[record.id] = (position, len(line))
                position += len(line)
        if self.finished:
            if position != source.stat().st_size:
                raise UserError(f"{source}: damaged after byte {position}. Remove it and run again.")
            return
        with source.open("rb+") as file:  # what follows a torn line was never promised
            file.truncate(position)

    @property
    def done(self) -> KeysView[str]:
        """Ids that are on disk."""
        return self._offsets.keys()

    def append(self, records: Sequence[R]) -> None:
        """Add a batch in one write, and wait until it is on disk."""
        data, start = b"", self.partial.stat().st_size if self.partial.exists() else 0
        for record in records:
            line = dump(record)
            self._offsets[record.id] = (start + len(data), len(line))
            data += line
        with self.partial.open("ab", buffering=0) as file:
            written = file.write(data)
            if written != len(data):
                raise OSError(28, "No space left on device", str(self.partial))
            os.fsync(file.fileno())

    def finish(self, order: Sequence[str]) -> None:
        """Put the records into the order of the input, under the final name."""
        if self.finished:
            return
        new = self.path.with_name(self.path.name + ".new")
        self.partial.touch()
        with self.partial.open("rb") as source, new.open("wb") as target:
            for key in order:
                offset, length = self._offsets[key]
                source.seek(offset)
                target.write(source.read(length))
            target.flush()
            os.fsync(target.fileno())
        new.replace(self.path)
        self.partial.unlink()
        self.finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._lock)  # the end of the process does so too


def _same_settings(meta: Path, settings: dict[str, Any]) -> None:
    try:
        old = json.loads(meta.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{meta}: damaged. Remove it and the file it belongs to, and run again.") from None
    new = json.loads(json.dumps(settings))
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    if changed:
        listed = "; ".join(f"{k}: {_short(old.get(k))} -> {_short(new.get(k))}" for k in changed)
        raise UserError(
            f"{meta.parent}: holds a run with other settings ({listed}). Choose another output folder, or restore the "
            "settings."
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def write_atomic(path: Path, text: str) -> None:
    """Write a small file under its final name in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def write_records(path: Path, records: Iterator[Record] | Sequence[Record]) -> int:
    """Write a whole file of records under its final name in one step. Returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, count = path.with_name(path.name + ".new"), 0
    with new.open("wb") as file:
        for record in records:
            file.write(dump(record))
            count += 1
    new.replace(path)
    return count


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises UserError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder, f"{folder}: another process is working in this folder. Wait for it, or stop it.")
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path, taken: str, create: bool = False) -> int:
    """An exclusive lock on a file or folder, held until the descriptor is closed or the process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(taken) from None
    return descriptor


def digest_file(path: Path) -> str:
    """SHA-256 of a file, first 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of(value: Any) -> str:
    """SHA-256 of a value as JSON, first 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
