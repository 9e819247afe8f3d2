"""Rows: from a file or the hub to plain dicts, one at a time.

In:  JSON lines, a JSON array, CSV, TSV or Parquet (gzip allowed), or a hub name.
Out: ("file, line k", row) for every row. Memory holds a row and a buffer, whatever the file's size.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from selfdistill.config import DataSettings
from selfdistill.errors import UserError
from selfdistill.sources import FILES, Row, local_copies


def rows(settings: DataSettings) -> Iterator[tuple[str, Row]]:
    """("file, line k", row) for every row of a file or hub dataset. Raises UserError for what cannot be read."""
    path = Path(settings.path)
    if not path.exists():
        yield from _hub_rows(settings)
        return
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected a JSON, JSONL, CSV or Parquet file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: empty file. Expected rows.")
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".json", ".jsonl", ".ndjson"):
        yield from _json_rows(path)
    else:
        raise UserError(f"{path}: unknown kind of file. Expected .json, .jsonl, .csv, .tsv or .parquet.")


def _open_text(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


# --- JSON --------------------------------------------------------------------------------------------------------


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """A .json file may hold one array or, as many do, JSON lines; the other endings are JSON lines."""
    number, array = 0, False
    try:
        with _open_text(path) as file:
            if ".json" in path.suffixes:
                array = file.read(4096).lstrip().startswith("[")
                file.seek(0)
            if array:
                for row in array_items(file.read):
                    number += 1
                    yield _object(row, f"{path}, row {number}")
                return
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield _object(_decoded(line), f"{path}, line {number}")
    except json.JSONDecodeError as error:
        line = error.lineno if array else number
        raise UserError(f"{path}, line {line}: broken JSON ({error.msg}, column {error.colno}).") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        after = f"after {'row' if array else 'line'} {number}"
        raise UserError(f"{path}, {after}: not UTF-8 text ({error}). Convert the file to UTF-8.") from None
    except (RecursionError, ValueError) as error:
        where = f"row {number + 1}" if array else f"line {number or 1}"
        raise UserError(f"{path}, {where}: JSON that cannot be read ({str(error)[:80]}).") from None


def _object(row: Any, where: str) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with named columns, got {type(row).__name__}.")
    return where, row


def _decoded(line: str) -> Any:
    try:
        return from_json(line)  # some times faster
    except ValueError:
        return json.loads(line)  # takes half a character, which is refused later, and says better what is wrong


_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = 16
"""No token of JSON but a string is longer where it can be cut in two unnoticed; "-Infinity" and a pair of \\uXXXX are
the longest. An error farther from the buffer's end is no matter of the cut."""


class _Text:
    """A file's text from the first character that is still needed, and where that one stood."""

    def __init__(self, read: Callable[[int], str], size: int) -> None:
        self.read, self.size = read, size
        self.buffer, self.at, self.ended = "", 0, False
        self.lines, self.columns = 0, 0  # before the buffer: whole lines, and characters of the line it begins in

    def more(self) -> None:
        """Drop what is done with, and read on; twice as much each time, so that a long value costs no square."""
        done, rest = self.buffer[: self.at], self.buffer[self.at :]
        if newlines := done.count("\n"):
            self.lines, self.columns = self.lines + newlines, len(done) - done.rindex("\n") - 1
        else:
            self.columns += len(done)
        new = self.read(max(self.size, len(rest)))
        self.buffer, self.at, self.ended = rest + new, 0, not new

    def space(self) -> str:
        """Skip white space. Returns the character behind it, "" at the end of the file."""
        while True:
            self.at = _SPACE.match(self.buffer, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self.at < len(self.buffer) or self.ended:
                return self.buffer[self.at : self.at + 1]
            self.more()

    def value(self, decode: Callable[[str, int], tuple[Any, int]]) -> Any:
        """The value that begins here, together with the comma or bracket behind it, which shows that it is whole."""
        while True:
            try:
                value, end = decode(self.buffer, self.at)
                end = _SPACE.match(self.buffer, end).end()  # type: ignore[union-attr]
                if self.buffer[end : end + 1] not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' delimiter", self.buffer, end)
                self.at = end
                return value
            except json.JSONDecodeError as error:
                whole = error.pos < len(self.buffer) - _TOKEN and not error.msg.startswith("Unterminated string")
                if whole or self.ended:
                    raise self.error(error.msg, error.pos) from None
            self.more()

    def error(self, message: str, position: int) -> json.JSONDecodeError:
        """The error with the line and column of the file."""
        error = json.JSONDecodeError(message, self.buffer, position)
        if error.lineno == 1:
            error.colno += self.columns
        error.lineno += self.lines
        error.args = (f"{message}: line {error.lineno} column {error.colno}",)
        return error


def array_items(read: Callable[[int], str], size: int = 1 << 16) -> Iterator[Any]:
    """The items of one JSON array, as its text comes in. `read(n)` gives up to n characters, "" at the end.

    Raises json.JSONDecodeError with the line and column of the file, as json.load does, when it comes to the place.
    """
    text, decode = _Text(read, size), json.JSONDecoder().raw_decode
    if text.space() != "[":
        raise text.error("Expecting '['", text.at)
    text.at += 1
    if text.space() != "]":
        while True:
            yield text.value(decode)
            if text.buffer[text.at] == "]":
                break
            text.at += 1
            text.space()
    text.at += 1
    if text.space():
        raise text.error("Extra data", text.at)


# --- tables ------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    reader: Any = None
    try:
        csv.field_size_limit(1 << 30)
        with _open_text(path) as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: expected {len(reader.fieldnames or ())} columns as in the header.")
                yield where, row
    except (csv.Error, UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}, line {reader.line_num if reader else 1}: broken CSV ({error}).") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: broken Parquet file ({str(error).splitlines()[0]}).") from None


# --- the hub -----------------------------------------------------------------------------------------------------


def _hub_rows(settings: DataSettings) -> Iterator[tuple[str, Row]]:
    name = settings.path
    files = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
    if name.startswith((".", "/", "~")) or (Path(name).suffix in files and not name.startswith(FILES)):
        raise UserError(f"{name}: no such file.")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes")
    import datasets

    datasets.disable_progress_bars()
    where: dict[str, Any] = {"path": name, "name": settings.config, "revision": settings.revision}
    if name.startswith(FILES):
        where = {"path": "csv" if name.endswith(".csv") else "json", "data_files": name}
    # A sample is drawn in two passes (data.py): the second reads what the first brought to the disk.
    streaming = not offline and settings.sample is None
    try:
        dataset = datasets.load_dataset(**where, split=settings.split, streaming=streaming)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: no such file, and no dataset of that name could be loaded from the hub"
            f"{' (HF_HUB_OFFLINE is set)' if offline else ''}: {str(error).splitlines()[0][:200]}{local_copies(name)}"
        ) from None
    for number, row in enumerate(dataset, 1):
        yield f"{name}, row {number}", dict(row)
