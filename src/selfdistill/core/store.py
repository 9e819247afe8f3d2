"""Where records lie: files that are appended whole or not at all, resume, and refuse a changed setting.

While a stage runs, finished records are appended to `NAME.partial` in whole batches, one write each. Beside it lies
`NAME.meta.json` with the settings that decide the content. At the end the records are put in input order and renamed
to NAME in one step, so NAME is either absent or complete, and the same bytes whether or not the run was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from selfdistill.core.errors import UserError
from selfdistill.core.records import Record, dump

R = TypeVar("R", bound=Record)
T = TypeVar("T")

LOCK = ".lock"
"""What a lock's name ends with. One that a killed process leaves locks nothing."""


class Journal(Generic[R]):
    """The output file of a stage: one record per id. A context manager that keeps other processes out.

    Opening it reads what an earlier, killed run left: whole lines count, a torn last line is cut off. Records for which
    `again` is true are errors that may pass: they are dropped, also from a finished file, so that they are made anew.
    Raises UserError if the earlier run had other settings (named), or if the finished file is not ours.
    """

    def __init__(
        self, path: Path, kind: type[R], settings: dict[str, Any], again: Callable[[R], bool] = lambda record: False
    ) -> None:
        if path.is_dir():
            raise UserError(f"{path}: a folder; expected the name of a file to write.")
        self.path, self.kind, self.again = path, kind, again
        self.partial = path.with_name(path.name + ".partial")
        meta = path.with_name(path.name + ".meta.json")
        make_folder(path.parent)
        if path.exists() and not meta.exists():
            raise UserError(f"{path}: exists and was not written by this command. Choose another output.")
        self._held = ExitStack()
        taken = f"{path}: another process is writing this file. Wait for it, or stop it."
        self._held.enter_context(_lock(path.with_name(path.name + LOCK), taken))
        try:
            self._open(meta, settings)
        except BaseException:
            self._held.close()
            raise

    def _open(self, meta: Path, settings: dict[str, Any]) -> None:
        path = self.path
        if path.exists() or self.partial.exists():
            _same_settings(path, meta, f"{self.kind.__name__.lower()}s", settings)
        else:
            meta.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self.finished = path.exists()
        self._offsets: dict[str, tuple[int, int]] = {}
        source = path if self.finished else self.partial
        if source.exists() and self._scan(source):
            self._drop(source)

    def _scan(self, source: Path) -> bool:
        """Note where the good records lie. Whether there are some to be made again."""
        position, dropped = 0, False
        with source.open("rb") as lines:
            for line in lines:
                try:
                    if not line.endswith(b"\n"):
                        break
                    record = self.kind.model_validate_json(line)
                except ValidationError:
                    if lines.read(1):  # only the last line can be torn
                        raise UserError(f"{source}: damaged at byte {position}. Repair or remove that line.") from None
                    break
                if self.again(record):
                    dropped = True
                else:
                    self._offsets[record.id] = (position, len(line))
                position += len(line)
        if self.finished:
            if position != source.stat().st_size:
                raise UserError(f"{source}: damaged after byte {position}. Remove it and run again.")
        else:
            with source.open("rb+") as file:  # what follows a torn line was never promised
                file.truncate(position)
        return dropped

    def _drop(self, source: Path) -> None:
        """Go on with the good records only."""
        new = self.path.with_name(self.path.name + ".new")
        self._copy(source, new, list(self._offsets))
        new.replace(self.partial)
        if self.finished:
            source.unlink()
            self.finished = False
        self._offsets = {}
        self._scan(self.partial)

    def _copy(self, source: Path, target: Path, order: Iterable[str]) -> None:
        with source.open("rb") as old, target.open("wb") as file:
            for key in order:
                offset, length = self._offsets[key]
                old.seek(offset)
                file.write(old.read(length))
            file.flush()
            os.fsync(file.fileno())

    @property
    def done(self) -> KeysView[str]:
        """Ids that are on disk."""
        return self._offsets.keys()

    def append(self, records: Sequence[R]) -> None:
        """Add a batch in one write, and wait until it is on disk."""
        if not records:
            return
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

    def read(self, key: str) -> R:
        """The record of an id that is done."""
        offset, length = self._offsets[key]
        with (self.path if self.finished else self.partial).open("rb") as file:
            file.seek(offset)
            return self.kind.model_validate_json(file.read(length))

    def finish(self, order: Iterable[str]) -> None:
        """Put the records into the order of the input, under the final name."""
        if self.finished:
            return
        new = self.path.with_name(self.path.name + ".new")
        self.partial.touch()
        self._copy(self.partial, new, order)
        new.replace(self.path)
        self.partial.unlink()
        self.finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()  # the end of the process does so too


def in_time(found: Iterator[T | None], seconds: float = 0.5) -> Iterator[list[T]]:
    """What comes from `found`, gathered over about half a second, so that it can be written down in one go. None is a
    tick that only looks at the clock. What is there is handed on also when the source stops with an error."""
    ready: list[T] = []
    last = time.monotonic()
    try:
        for item in found:
            if item is not None:
                ready.append(item)
            if ready and time.monotonic() - last > seconds:
                yield ready
                ready, last = [], time.monotonic()
    except (Exception, KeyboardInterrupt):
        if ready:
            yield ready
        raise
    if ready:
        yield ready


def discard(path: Path) -> None:
    """Delete a journal whose content is elsewhere."""
    for name in (path.name, f"{path.name}.partial", f"{path.name}.meta.json"):
        path.with_name(name).unlink(missing_ok=True)


def _same_settings(path: Path, meta: Path, what: str, settings: dict[str, Any]) -> None:
    """Raises UserError that names the settings in which those of before and `settings` differ, and no others."""
    try:
        old = json.loads(meta.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{meta}: damaged. Remove it and the file it belongs to, and run again.") from None
    new = json.loads(json.dumps(settings))
    if changed := list(_changes(old, new)):
        raise UserError(
            f"{path}: holds {what} with other settings ({'; '.join(changed)}). Choose another output, or restore the "
            "settings."
        )


def _changes(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Dotted names whose values differ, as `name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def make_folder(folder: Path) -> None:
    """The folder with those above it. Raises UserError where one of them is a file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{file_above(folder) or folder}: a file; expected a folder.") from None


def file_above(path: Path) -> Path | None:
    """The file that stands where the path needs a folder; None where there is none."""
    return next((place for place in (path, *path.parents) if place.is_file()), None)


def write_atomic(path: Path, text: str) -> None:
    """Write a small file under its final name in one step."""
    make_folder(path.parent)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write a whole file of records under its final name in one step. Returns how many."""
    count = 0
    with new_files(path) as (file,):
        for record in records:
            file.write(dump(record))
            count += 1
    return count


@contextmanager
def new_files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files to write, which all get their names when the block ends well; else none of them does.

    Raises UserError if two of them are the same.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{', '.join(map(str, paths))}: one file for two outputs. Choose another name for one of them.")
    news = [path.with_name(path.name + ".new") for path in paths]
    try:
        with ExitStack() as opened:
            for path in paths:
                make_folder(path.parent)
            yield [opened.enter_context(new.open("wb")) for new in news]
        for new, path in zip(news, paths, strict=True):
            new.replace(path)
    finally:
        for new in news:
            with suppress(NotADirectoryError):
                new.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, beside: bool = False) -> Iterator[None]:
    """Hold the folder for this process. Raises UserError if another process has it.

    The lock lies in the folder; `beside` it where the folder gets another name meanwhile.
    """
    make_folder(folder)
    lock = folder.with_name(folder.name + LOCK) if beside else folder / LOCK
    with _lock(lock, f"{folder}: another process is working in this folder. Wait for it, or stop it."):
        yield


@contextmanager
def _lock(path: Path, taken: str) -> Iterator[None]:
    """An exclusive lock on a file made for it, held until the block or the process ends."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(taken) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes it on release
            path.unlink()  # before the release: one who has it open by then sees that it is gone
        lock.release()


def digest_file(path: Path) -> str:
    """SHA-256 of a file, first 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of(value: Any) -> str:
    """SHA-256 of a value as JSON, first 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
