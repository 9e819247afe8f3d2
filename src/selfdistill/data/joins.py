"""Joins: which rewrite belongs to which row.

In:  rewrites: what `distill` wrote, what another program wrote in its manner, or a whole distilled dataset.
Out: every example with what belongs to it, in the order of the examples.

Rewrites are joined by id. The rows of a distilled dataset are joined by the whole prompt. Memory holds ids or hashes of
prompts and the places of rows in a file, not their texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Generic, Self, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, Record, dump, parse
from selfdistill.core.rewrites import Candidate, Rewrite
from selfdistill.core.store import make_folder
from selfdistill.data.examples import PAIRS, has_response, stream_examples
from selfdistill.data.files import rows
from selfdistill.data.packed import PACKED, refuse_pointer
from selfdistill.data.row import SYSTEMS

BATCH = 32
"""Rows that go through each step together, which takes about half the time of one by one: each step's code stays in
the processor's cache."""

R = TypeVar("R", bound=Record)

_BOM = b"\xef\xbb\xbf"

WHOLE = {
    "stop", "eos", "eostoken", "endturn", "endoftext", "stopsequence", "stoptoken", "stopstr", "complete", "completed",
}  # fmt: skip
CUT_OFF = {
    "length", "maxtokens", "maxlength", "modellength", "maxoutputtokens", "maxnewtokens", "tokenlimit", "incomplete",
    "contentfilter", "safety", "recitation", "blocklist", "prohibitedcontent", "toolcalls", "functioncall", "tooluse",
    "abort", "aborted", "cancelled", "error",
}  # fmt: skip
"""Finish reasons of other programs, without case and marks: the text is whole, or it is not. A text that a filter, a
call or a fault ended is not."""


def open_rewrites(path: Path, form: DataSettings | None, folder: Path) -> ById | ByPrompt:
    """What a file (or, of a dataset, a folder) of rewrites holds, by its first row. `form` tells the columns of a
    dataset; copies lie in `folder` while they are needed.

    Raises UserError for what cannot be read.
    """
    settings = (form or DataSettings(path="")).model_copy(update={"path": str(path), "sample": None})
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    if path.is_file() and path.stat().st_size == 0:
        return ById(path)
    _, first = next(rows(settings), ("", {}))
    if _is_rewrite(first):
        return ById(path, folder)
    if not has_response(settings, first):
        _refuse_without_responses(settings, first)
    return ByPrompt(settings, folder)


def _refuse_without_responses(settings: DataSettings, first: dict[str, Any]) -> None:
    """A dataset whose first row has no response that is understood has none, or not in every row."""
    name = settings.path
    for where, row in rows(settings):
        if has_response(settings, row):
            lacking, there = ", ".join(sorted(row.keys() - first.keys())), where.removeprefix(f"{name}, ")
            raise UserError(
                f"{name}: the first row lacks columns that {there} has ({lacking}). Write them in every row, with "
                '"" where there is no rewrite.'
            )
    prompt = next((p for p, _ in PAIRS if p in first), "...")
    others = [column for column in first if column not in (prompt, "id", "task", *SYSTEMS)]
    columns = f"prompt={prompt},response={others[0] if len(others) == 1 else '...'}"
    raise UserError(
        f"{name}: no column holds the rewrite (found: {', '.join(sorted(first))}). Name it: --columns {columns}. "
        "The names hold for --data, too."
    )


def _is_rewrite(row: dict[str, Any]) -> bool:
    candidates = row.get("candidates")
    if isinstance(candidates, list) and "id" in row:
        return not candidates or isinstance(candidates[0], dict) or row.keys().isdisjoint(("prompt", "question"))
    return row.keys() <= Rewrite.model_fields.keys()


# --- by id -------------------------------------------------------------------------------------------------------


class _Places(Generic[R]):
    """Records that are read where they lie in a file; in the file's order they are read one after the other."""

    def __init__(self, file: BinaryIO, name: str, kind: type[R]) -> None:
        self.file, self.name, self.kind = file, name, kind
        self._next = -1

    def read(self, place: int) -> R:
        """The record that begins at this byte."""
        if place != self._next:
            self.file.seek(place)
        line = self.file.readline()
        self._next = place + len(line)
        try:
            return self.kind.model_validate_json(line)
        except ValidationError:
            return self.again(line, place)

    def again(self, line: bytes, place: int) -> R:
        """A record that is not as we write it. Raises UserError with its line."""
        return parse(line, self.kind, self.where(place))

    def where(self, place: int) -> str:
        """The line of the record that begins at this byte."""
        self.file.seek(0)
        number, self._next = 1, -1
        while self.file.tell() < place:
            number += bool(self.file.readline())
        return f"{self.name}, line {number}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class ById(_Places[Rewrite]):
    """The rewrites of a file, each for the example of the same id.

    What is no plain JSON lines (an array, a packed file) is copied into a nameless file in `folder`. Raises UserError
    for a broken row, and for an id that occurs twice.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.unit = "line"
        super().__init__(self._open(path, folder), str(path), Rewrite)
        self.places: dict[str, int] = {}
        try:
            self._index()
        except BaseException:
            self.file.close()
            raise

    def _open(self, path: Path, folder: Path | None) -> BinaryIO:
        refuse_pointer(path)
        file = path.open("rb")
        start = file.read(4096).removeprefix(_BOM).lstrip()
        if folder is None or (path.suffix not in PACKED and start.startswith(b"{") and _is_line(path)):
            file.seek(0)
            return file
        file.close()
        self.unit = "row"
        make_folder(folder)
        copy: Any = TemporaryFile(dir=folder)  # noqa: SIM115  # closed by __exit__
        for _, row in rows(DataSettings(path=str(path))):
            copy.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        copy.seek(0)
        return copy  # type: ignore[no-any-return]

    def _index(self) -> None:
        place = 0
        for line in self.file:
            if place == 0 and line.startswith(_BOM):
                place, line = len(_BOM), line[len(_BOM) :]
            if not line.isspace():
                id = _id(line) or self.again(line, place).id
                if id in self.places:
                    raise UserError(f"{self.name}: id {id!r} occurs twice. Keep one row per id.")
                self.places[id] = place
            place += len(line)

    def again(self, line: bytes, place: int) -> Rewrite:
        """A row of another program: further keys are left aside, its finish reasons are taken for ours. Raises
        UserError with its line."""
        where = self.where(place)
        try:
            row = json.loads(line)
        except ValueError:
            return parse(line, Rewrite, where)
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object with an id and candidates, got {type(row).__name__}.")
        known = {key: value for key, value in row.items() if key in Rewrite.model_fields}
        if isinstance(candidates := known.get("candidates"), list):
            known["candidates"] = [_candidate(candidate, where) for candidate in candidates]
        return parse(json.dumps(known).encode(), Rewrite, where)

    def where(self, place: int) -> str:
        """The line, or the row of what was copied."""
        return super().where(place).replace(", line ", f", {self.unit} ")

    def __len__(self) -> int:
        return len(self.places)

    def join(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Rewrite | None]]:
        """Every example with its rewrite. Raises UserError for a rewrite that no example took."""
        stream = iter(examples)
        while batch := list(islice(stream, BATCH)):
            for example in batch:
                place = self.places.pop(example.id, None)
                yield example, None if place is None else self.read(place)
        for id in self.places:
            raise UserError(
                f"{self.name}: id {id!r} belongs to no row of the data. These rewrites were made from other data; ids "
                "are hashes of prompt and reference."
            )


def _is_line(path: Path) -> bool:
    """Whether the file's first row is a line of its own."""
    with path.open("rb") as file:
        line = next((line for line in file if line.strip()), b"")
    try:
        return isinstance(json.loads(line.removeprefix(_BOM)), dict)
    except ValueError:
        return False


def _id(line: bytes) -> str | None:
    """A row's id, without looking at the rest; None where there is none."""
    end = line.find(b'"', 7)
    if line.startswith(b'{"id":"') and line.endswith(b"}\n") and end > 7:  # as `dump` writes it
        short = line[7:end]
        if short.isalnum():
            return short.decode()
    try:
        id = from_json(line)["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return id if isinstance(id, str) else None


def _candidate(candidate: Any, where: str) -> Any:
    if not isinstance(candidate, dict):
        return candidate
    known = {key: value for key, value in candidate.items() if key in Candidate.model_fields}
    if isinstance(said := known.get("finish_reason"), str):
        reason = "".join(c for c in said.rpartition(".")[2].lower() if c.isalpha())
        if reason not in WHOLE | CUT_OFF:
            raise UserError(
                f'{where}: finish_reason {said!r} does not say whether the text is whole. Write "stop" where it is, '
                '"length" where it was cut off, or leave it out.'
            )
        known["finish_reason"] = "stop" if reason in WHOLE else "length"
    return known


# --- by prompt ---------------------------------------------------------------------------------------------------


@dataclass
class _Same:
    """The rows of one prompt on both sides. `rows` are places in the distilled dataset."""

    rows: list[int] = field(default_factory=list)
    asked: list[_Asked] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """An example that waits for its row: what else it may be called, and hashes of its references and of all that
    tells it from others."""

    ids: frozenset[str]
    references: bytes
    content: bytes


class ByPrompt(_Places[Example]):
    """A distilled dataset as rewrites: rows belong together by the whole prompt, as far as no rewrite changes it.

    Where a prompt repeats, it must do so as often on both sides. Its rows are told apart by the data's ids where both
    sides have them, and by responses that are the reference, word for word; those that are left must be alike on one
    side. Else it cannot be told which belongs to which, and UserError says so.

    The rows and the examples wait in nameless files in `folder`.
    """

    def __init__(self, settings: DataSettings, folder: Path) -> None:
        make_folder(folder)
        super().__init__(TemporaryFile(dir=folder), settings.path, Example)  # noqa: SIM115  # closed by __exit__
        self.folder = folder
        self.places: dict[bytes, int | _Same] = {}  # of most prompts there is one row, and its place will do
        place = self.count = 0
        for row in stream_examples(settings, need_response=False):  # an empty rewrite is a rewrite that failed
            key, line = _prompt_hash(row), dump(row)
            before = self.places.get(key)
            if before is None:
                self.places[key] = place
            elif isinstance(before, _Same):
                before.rows.append(place)
            else:
                self.places[key] = _Same([before, place])
            self.file.write(line)
            place, self.count = place + len(line), self.count + 1

    def __len__(self) -> int:
        return self.count

    def join(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Example | None]]:
        """Every example with its row, None where the dataset lacks it. Raises UserError, before the first one, for a
        prompt that is not there as often, and for one whose rows cannot be told apart."""
        with TemporaryFile(dir=self.folder) as waiting:
            self._gather(examples, waiting)
            waiting.seek(0)
            for line in waiting:
                example = Example.model_validate_json(line)
                place = self.places.get(_prompt_hash(example))
                if isinstance(place, _Same):
                    place = place.rows.pop()
                yield example, None if place is None else self.read(place)

    def _gather(self, examples: Iterable[Example], waiting: Any) -> None:
        """Write the examples down, and settle which row each of them takes."""
        asked: Counter[bytes] = Counter()
        for example in examples:
            key = _prompt_hash(example)
            if key in self.places:
                asked[key] += 1
                if isinstance(same := self.places[key], _Same):
                    same.asked.append(_asked(example))
            waiting.write(dump(example))
        for key, same in self.places.items():
            count = len(same.rows) if isinstance(same, _Same) else 1
            if count != asked[key]:
                row = self.read(same.rows[0] if isinstance(same, _Same) else same)
                raise UserError(
                    f"{self.name}: the prompt {_said(row)!r} occurs {count} times, in the data {asked[key]} times. "
                    "Expected the distilled form of the same dataset."
                )
            if isinstance(same, _Same):
                self._settle(same)

    def _settle(self, same: _Same) -> None:
        """Put `rows` into the order, from the last on, in which the examples will ask for them."""
        read = [(place, self.read(place)) for place in same.rows]
        made = {place: (row.meta.get("source_id"), _hash(_plain(row.references))) for place, row in read}
        taken: dict[int, int] = {}  # example's number: row's place
        alike = len({asked.content for asked in same.asked}) == 1
        for by in (0,) if alike else (0, 1):  # by id, then by unchanged responses
            waiting: dict[Any, list[int]] = {}
            for place, told in made.items():
                waiting.setdefault(told[by], []).append(place)
            for number, asked in enumerate(same.asked):
                named = (waiting.get(name) for name in ((asked.references,) if by else asked.ids))
                if number not in taken and (found := next(filter(None, named), None)):
                    taken[number] = found.pop(0)
                    del made[taken[number]]
        left = [number for number in range(len(same.asked)) if number not in taken]
        if len({same.asked[number].content for number in left}) > 1 and len({told[1] for told in made.values()}) > 1:
            raise UserError(
                f"{self.name}: the prompt {_said(read[0][1])!r} occurs {len(read)} times with different responses, and "
                "nothing tells which is the rewrite of which row. Give the rows of both files an id, the same on both "
                "sides."
            )
        taken.update(zip(left, made, strict=True))
        same.rows = [taken[number] for number in reversed(range(len(same.asked)))]


def _asked(example: Example) -> _Asked:
    meta = {key: value for key, value in example.meta.items() if key != "source_id"}
    references = _hash(_plain(example.references))
    ids = {example.id, example.meta.get("source_id", example.id)}
    return _Asked(frozenset(ids), references, _hash([_plain(example.references), meta]))


def _said(row: Example) -> str:
    return row.prompt[-1]["content"].strip()[:80]


def _plain(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts]


def _prompt_hash(example: Example) -> bytes:
    """Of all that a rewrite leaves as it is: every turn but the references."""
    return _hash(
        [[t["role"], t["content"].strip()] for t in example.prompt if t["role"] != "assistant" or "train" in t]
    )


def _hash(value: Any) -> bytes:
    return blake2b(to_json(value), digest_size=12).digest()
