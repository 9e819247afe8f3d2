"""Rows: from a file, a folder or the hub to plain dicts, one at a time.

In:  JSON lines, a JSON array, an object that holds one, CSV, TSV, Parquet or Arrow (packed with gzip, bzip2, xz or
     zstd); a folder of such files, or one of `save_to_disk`; or a hub name.
Out: ("file, line k", row) for every row. Memory holds a row and a buffer, whatever the file's size.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.data.arrays import MORE, array_items, object_members
from selfdistill.data.packed import DAMAGED, damaged, kind, open_text, refuse_pointer
from selfdistill.data.shards import KINDS, shards
from selfdistill.data.sources import FILES, Row, local_copies

CONVERSATIONS = ("messages", "conversations", "conversation")
"""Columns that hold a whole conversation."""

_ROW_COLUMNS = {"prompt", "instruction", "question"}
_TURN_KEYS = {"role", "from"}


Bad = Callable[[str, UserError], None]
"""Takes where a row is that cannot be read, and why."""


def rows(settings: DataSettings, bad: Bad | None = None) -> Iterator[tuple[str, Row]]:
    """("file, line k", row) for every row of a file, folder or hub dataset. Lines of JSON that cannot be read go to
    `bad`. Raises UserError for them where there is none, for a last line that is cut off, and for all else that cannot
    be read."""
    path = Path(settings.path)
    if not path.exists():
        yield from _hub_rows(settings)
    elif not path.is_dir():
        yield from _file_rows(path, settings, bad)
    elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from _saved_rows(path, settings.split)
    else:
        for file in shards(path, settings.split, settings.config):
            yield from _file_rows(file, settings, bad)


def _file_rows(path: Path, settings: DataSettings, bad: Bad | None = None) -> Iterator[tuple[str, Row]]:
    if path.stat().st_size == 0:
        raise UserError(f"{path}: empty file. Expected rows.")
    refuse_pointer(path)
    suffix = kind(path)
    if suffix in (".parquet", ".arrow"):
        yield from _columnar_rows(path)
    elif suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".json", ".jsonl", ".ndjson"):
        yield from _json_rows(path, settings, bad)
    else:
        raise UserError(f"{path}: unknown kind of file. Expected {', '.join(KINDS)}, also packed (.gz, .zst).")


# --- JSON --------------------------------------------------------------------------------------------------------


def _json_rows(path: Path, settings: DataSettings, bad: Bad | None) -> Iterator[tuple[str, Row]]:
    """One array, one object that holds an array or is the only row, or a row a line; whatever the ending says."""
    number, unit, name = 0, "line", str(path)
    try:
        first = _first_character(path)
        held = _holder(path, settings) if first == "{" else None
        with open_text(path) as file:
            if held == "":
                yield _object(json.load(file), f"{path}, line 1")
                return
            if first == "[" or held is not None:
                unit = "row"
                for row in array_items(file.read) if held is None else _held(file, held):
                    number += 1
                    yield _object(row, f"{path}, {f'{held} ' if held else ''}row {number}")
                return
            for number, line in enumerate(file, 1):
                where = f"{name}, line {number}"
                try:
                    row = None if line.isspace() else _object(_decoded(line), where)
                except (ValueError, RecursionError, UserError) as error:
                    if bad is None or not line.endswith("\n"):  # the file is cut off: more is missing
                        raise
                    bad(where, error if isinstance(error, UserError) else UserError(f"{where}: broken JSON ({error})."))
                    continue
                if row:
                    yield row
    except json.JSONDecodeError as error:
        at = number if unit == "line" and number else error.lineno
        raise UserError(f"{path}, line {at}: broken JSON ({error.msg}, column {error.colno}).") from None
    except DAMAGED as error:
        raise damaged(path, f"after {unit} {number}", error) from None
    except (RecursionError, ValueError) as error:
        where = f"row {number + 1}" if unit == "row" else f"line {number or 1}"
        raise UserError(f"{path}, {where}: JSON that cannot be read ({str(error)[:80]}).") from None


def _first_character(path: Path) -> str:
    with open_text(path) as file:
        while text := file.read(4096):
            if found := text.lstrip():
                return found[0]
    return ""


def _object(row: Any, where: str) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with named columns, got {type(row).__name__}.")
    return where, row


def _decoded(line: str) -> Any:
    try:
        return from_json(line)  # some times faster
    except ValueError:
        return json.loads(line)  # takes half a character, which is refused later, and says better what is wrong


def _holder(path: Path, settings: DataSettings) -> str | None:
    """What holds the rows where the file is one object: the name of a list in it, or "" where the object itself is the
    only row. None where it is a row a line: more follows, or it is one line of a file that says so by its ending.

    Raises UserError for an object that is neither, and json.JSONDecodeError for one that is broken.
    """
    try:
        with open_text(path) as file:
            kinds = {name: _member_kind(value) for name, value in object_members(file.read)}
    except json.JSONDecodeError as error:
        if error.msg == MORE or error.lineno == 1 or _begins_with_a_line(path):  # of which the first is broken
            return None
        raise
    if kind(path) != ".json" and _begins_with_a_line(path):
        return None
    named = any(kinds.get(column) in ("value", "turns") for column in _ROW_COLUMNS | set(settings.columns.values()))
    if named or not kinds.keys().isdisjoint((*CONVERSATIONS, "candidates")) or set(kinds.values()) <= {"value"}:
        return ""
    lists = [name for name, found in kinds.items() if found == "rows"]
    if settings.split in lists or len(lists) == 1:
        return settings.split if settings.split in lists else lists[0]
    if lists:
        raise UserError(f"{path}: one object with several lists ({', '.join(lists)}). Name one of them as the split.")
    raise UserError(
        f'{path}: one object, expected an array or a row a line. Of pandas: df.to_json(FILE, orient="records").'
    )


def _begins_with_a_line(path: Path) -> bool:
    """Whether the first line looks like an object of its own."""
    with open_text(path) as file:
        return file.readline().rstrip().endswith("}")


def _member_kind(value: Any) -> str:
    """What a member of an object may be: a list of rows, the turns of a conversation, another collection, a value."""
    if isinstance(value, Iterator):
        first: Any = next(value, {})
        if isinstance(first, dict):
            return "turns" if _TURN_KEYS & first.keys() else "rows"
        return "collection"
    return "collection" if isinstance(value, dict) else "value"


def _held(file: Any, holder: str) -> Iterator[Any]:
    for name, value in object_members(file.read):
        if name == holder:
            yield from value


# --- tables ------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    reader: Any = None
    try:
        csv.field_size_limit(1 << 30)
        with open_text(path) as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            _check_header(path, list(reader.fieldnames or ()), delimiter)
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: expected {len(reader.fieldnames or ())} columns as in the header.")
                yield where, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num if reader else 1}: broken CSV ({error}).") from None
    except DAMAGED as error:
        raise damaged(path, f"after line {reader.line_num if reader else 0}", error) from None


def _check_header(path: Path, names: list[str], delimiter: str) -> None:
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise UserError(f"{path}, line 1: column {twice[0]!r} stands there twice. Name each column once.")
    other = [mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in names[0] and mark != delimiter]
    if other:
        raise UserError(
            f"{path}, line 1: columns are parted by {other[0]!r}, expected {delimiter!r}. Save the table with commas "
            "as .csv, or with tabs as .tsv."
        )


def _columnar_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow

    number = 0
    try:
        for batch in _parquet_batches(path) if path.suffix == ".parquet" else _arrow_batches(path):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: broken {path.suffix[1:].capitalize()} file ({str(error).splitlines()[0]}).") from None


def _parquet_batches(path: Path) -> Iterator[Any]:
    from pyarrow import parquet

    return parquet.ParquetFile(path).iter_batches(batch_size=1024)  # type: ignore[no-any-return]


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Arrow's file format, or its stream format, which the datasets library writes."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        try:
            reader = pyarrow.ipc.open_file(file)
        except pyarrow.ArrowInvalid:
            yield from pyarrow.ipc.open_stream(file)
            return
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


# --- the datasets library ----------------------------------------------------------------------------------------


def _saved_rows(path: Path, split: str) -> Iterator[tuple[str, Row]]:
    """Rows of a folder that `save_to_disk` wrote: a dataset, or a dict of them by split."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: a dataset that cannot be loaded from disk: {first[:200]}") from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise UserError(f"{path}: no split {split!r}. There are: {', '.join(found)}.")
        found = found[split]
    for number, row in enumerate(found, 1):
        yield f"{path}, row {number}", dict(row)


def _hub_rows(settings: DataSettings) -> Iterator[tuple[str, Row]]:
    name = settings.path
    looks_local = kind(Path(name)) in KINDS and not name.startswith(FILES)
    if name.startswith((".", "/", "~")) or looks_local:
        raise UserError(f"{name}: no such file.")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes")
    import datasets

    datasets.disable_progress_bars()
    where: dict[str, Any] = {"path": name, "name": settings.config, "revision": settings.revision}
    if name.startswith(FILES):
        where = {"path": "csv" if name.endswith(".csv") else "json", "data_files": name}
    # A sample is drawn in two passes (data.examples): the second reads what the first brought to the disk.
    streaming = not offline and settings.sample is None
    try:
        dataset = datasets.load_dataset(**where, split=settings.split, streaming=streaming)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: no such file, and no dataset of that name could be loaded from the hub"
            f"{' (HF_HUB_OFFLINE is set)' if offline else ''}: {str(error).splitlines()[0][:200]}"
            f"{local_copies(name, settings.split)}"
        ) from None
    for number, row in enumerate(dataset, 1):
        yield f"{name}, row {number}", dict(row)
