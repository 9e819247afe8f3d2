"""Select: a rewrite is kept where it is verifiably as good as the reference, else the reference stays (Equation 4).

In:  examples and rewrites.jsonl, joined by id; a check.
Out: selected.jsonl, one `Selected` per example with its reason, and the export formats of other trainers.

    selfdistill select --data train.jsonl --rewrites rewrites.jsonl --check last_number --out selected.jsonl

One pass over the examples writes everything. Memory holds the rewrites' ids and where they lie, not their texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Generic, Self, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from selfdistill.checks.base import Check
from selfdistill.checks.coherence import damaged
from selfdistill.checks.leaks import leak
from selfdistill.checks.thoughts import answer_of
from selfdistill.config import DataSettings
from selfdistill.data import stream_examples
from selfdistill.errors import UserError
from selfdistill.progress import Progress
from selfdistill.records import Candidate, Example, Reason, Record, Rewrite, Selected, dump, parse, read_records
from selfdistill.store import new_files

R = TypeVar("R", bound=Record)

BATCH = 32
"""Rows that go through each step together, which takes about half the time of one by one: each step's code stays in
the processor's cache."""

_OUTCOMES = {
    "same": Reason.PASSED,
    "different": Reason.WRONG,
    "no_answer": Reason.NO_ANSWER,
    "no_reference": Reason.REFERENCE_UNREADABLE,
    "cannot_tell": Reason.UNCLEAR,
}
_KEEPS = (Reason.PASSED, Reason.KEPT, Reason.COPIED)


def select(
    examples: Iterable[Example],
    rewrites: Path,
    out: Path,
    check: Check | None,
    progress: Progress | None = None,
    form: DataSettings | None = None,
    exports: Mapping[str, Path] | None = None,
) -> Counter[Reason]:
    """Write `out`, in the order of the examples, and `exports` (format: file); all of them, or none if
    anything is wrong. Returns the count of rows by reason.

    `rewrites` is what distill writes, or a whole distilled dataset in a form that datasets come in (`form` tells its
    columns), such as the authors published. Raises UserError for rewrites that cannot be joined to the examples.
    """
    exports = exports or {}
    reasons: Counter[Reason] = Counter()
    found = _ById(rewrites) if _holds_rewrites(rewrites) else _ByPrompt(rewrites, form, out.parent)
    # A stream does not know its length; there are about as many rewrites.
    total = len(examples) if isinstance(examples, Sized) else len(found)
    with (
        found,
        new_files(out, *exports.values()) as (file, *others),
        (progress or Progress()).bar("select", total) as advance,
    ):
        export_files = _Exports(dict(zip(exports.items(), others, strict=True)))
        stream = iter(examples)
        while batch := list(islice(stream, BATCH)):
            made = [found.take(example) for example in batch]
            judged = [judge(example, rewrite, check) for example, rewrite in zip(batch, made, strict=True)]
            rows = [choose(*row) for row in zip(batch, made, judged, strict=True)]
            file.write(b"".join(map(dump, rows)))
            export_files.add(batch, rows)
            reasons.update(row.reason for row in rows)
            advance(len(batch))
        found.end()
        export_files.end()
    return reasons


def _holds_rewrites(path: Path) -> bool:
    """Whether a file holds `Rewrite` records, by its first row; else it is a dataset."""
    if not path.is_file():
        return True  # what reads it says so
    if path.suffix not in (".jsonl", ".json"):
        return False
    with path.open("rb") as file:
        if file.read(4096).lstrip().startswith(b"["):  # an array, perhaps all in one line
            return False
        file.seek(0)
        try:
            row = json.loads(next((line for line in file if line.strip()), b"{}"))
        except ValueError:
            return False
    return isinstance(row, dict) and row.keys() <= Rewrite.model_fields.keys()


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
            self.file.seek(0)
            number = 1
            while self.file.tell() < place:
                number += bool(self.file.readline())
            return parse(line, self.kind, f"{self.name}, line {number}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class _ById(_Places[Rewrite]):
    """The rewrites of a file, each for the example of the same id.

    Raises UserError for a broken row, and for an id that occurs twice.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file.")
        super().__init__(path.open("rb"), str(path), Rewrite)
        self.places: dict[str, int] = {}
        try:
            self._index()
        except BaseException:
            self.file.close()
            raise

    def _index(self) -> None:
        place = 0
        for number, line in enumerate(self.file, 1):
            if not line.isspace():
                id = _id(line) or parse(line, Rewrite, f"{self.name}, line {number}").id
                if id in self.places:
                    raise UserError(f"{self.name}: id {id!r} occurs twice. Keep one row per id.")
                self.places[id] = place
            place += len(line)

    def __len__(self) -> int:
        return len(self.places)

    def take(self, example: Example) -> Rewrite | None:
        """The example's rewrite; each once."""
        place = self.places.pop(example.id, None)
        return None if place is None else self.read(place)

    def end(self) -> None:
        """Raises UserError for a rewrite that no example took."""
        for id in self.places:
            raise UserError(
                f"{self.name}: id {id!r} belongs to no row of the data. These rewrites were made from other data; ids "
                "are hashes of prompt and reference."
            )


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


class _ByPrompt(_Places[Example]):
    """A distilled dataset as rewrites: rows belong together by what the user says in them. Where a prompt repeats, it
    must do so as often on both sides, and is joined in order. A response that is the reference may be
    a copy that the model made, or what another program fell back to: that cannot be told, and counts as no rewrite.

    The rows wait in a nameless file in `folder`; memory holds a hash of each prompt and the places of its rows.
    """

    def __init__(self, path: Path, form: DataSettings | None, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(TemporaryFile(dir=folder), str(path), Example)  # noqa: SIM115  # closed by __exit__
        self.places: dict[bytes, int | list[int]] = {}  # one or more; an empty list when all are taken
        self.asked_again: Counter[bytes] = Counter()
        settings = (form or DataSettings(path="")).model_copy(update={"path": str(path), "sample": None})
        place = self.rows = 0
        for row in stream_examples(settings, need_response=False):  # an empty rewrite is a rewrite that failed
            key, line = _prompt_hash(row), dump(row)
            before = self.places.get(key)
            self.places[key] = place if before is None else [*_listed(before), place]
            self.file.write(line)
            place, self.rows = place + len(line), self.rows + 1

    def __len__(self) -> int:
        return self.rows

    def take(self, example: Example) -> Rewrite | None:
        """The example's row as a rewrite; each once."""
        key = _prompt_hash(example)
        places = self.places.get(key)
        if places is None:
            return None
        if not (waiting := _listed(places)):
            self.asked_again[key] += 1
            return None
        self.places[key] = waiting[1:]
        return _as_rewrite(example, self.read(waiting[0]))

    def end(self) -> None:
        """Raises UserError for a prompt that the data does not have, or not as often."""
        for key, places in self.places.items():
            left, more = len(_listed(places)), self.asked_again[key]
            if left or more:
                self.file.seek(0)
                rows = [row for line in self.file if _prompt_hash(row := parse(line, Example, self.name)) == key]
                said = [t["content"].strip() for t in rows[0].prompt if t["role"] == "user"][-1]
                raise UserError(
                    f"{self.name}: the prompt {said[:80]!r} occurs {len(rows)} times, in the data "
                    f"{len(rows) - left + more} times. Expected the distilled form of the same dataset."
                )


def _listed(places: int | list[int]) -> list[int]:
    return [places] if isinstance(places, int) else places


def _prompt_hash(example: Example) -> bytes:
    said = [t["content"].strip() for t in example.prompt if t["role"] == "user"]
    return blake2b(to_json(said), digest_size=12).digest()


def _as_rewrite(example: Example, row: Example) -> Rewrite:
    if all(map(_same, row.references, example.references)) and len(row.references) == len(example.references):
        return Rewrite(id=example.id, failure=Reason.COPIED)
    return Rewrite(id=example.id, candidates=(Candidate(text=row.reference, turns=row.references[:-1]),))


def judge(example: Example, rewrite: Rewrite | None, check: Check | None) -> list[Reason]:
    """What is said of each candidate."""
    return [_reason(example, candidate, check) for candidate in rewrite.candidates] if rewrite else []


def choose(example: Example, rewrite: Rewrite | None, judged: Sequence[Reason]) -> Selected:
    """The row's training response. Among the candidates that pass, the one with the lowest seed NLL; a copy of the
    reference only where no other passes."""
    passed = [n for n, reason in enumerate(judged) if reason in _KEEPS]
    if rewrite and passed:
        own = [n for n in passed if judged[n] is not Reason.COPIED] or passed
        number = min(own, key=lambda n: _nll(rewrite.candidates[n])) if len(own) > 1 else own[0]
        best = rewrite.candidates[number]
        return Selected(
            id=example.id,
            response=best.text,
            turns=best.turns,
            source="distilled",
            reason=judged[number],
            seed_nll=best.seed_nll,
        )
    failure = rewrite.failure if rewrite else Reason.MISSING
    return Selected(
        id=example.id,
        response=example.reference,
        turns=example.references[:-1],
        source="original",
        reason=judged[0] if judged else failure or Reason.MISSING,
        seed_nll=rewrite.reference_nll if rewrite else None,
    )


def _nll(candidate: Candidate) -> float:
    return float("inf") if candidate.seed_nll is None else candidate.seed_nll


def _reason(example: Example, candidate: Candidate, check: Check | None) -> Reason:
    """Why this candidate may stay or not. Every rewritten turn must pass. Thoughts before an answer train, but are not
    judged."""
    if candidate.finish_reason == "length":
        return Reason.TRUNCATED
    responses, references = candidate.responses, example.references
    if len(responses) != len(references):
        return Reason.EMPTY
    if all(map(_same, responses, references)):
        return Reason.COPIED
    for response, reference in zip(responses, references, strict=True):
        if reason := _flaw(response, reference, example):
            return reason
    if check is None:
        return Reason.KEPT
    for response, reference in zip(candidate.turns, references, strict=False):
        # What a row's `contains` or `tests` ask for is asked of the last turn.
        reason = _OUTCOMES[check(response, reference, example.model_copy(update={"meta": {}})).outcome]
        if reason not in (Reason.PASSED, Reason.REFERENCE_UNREADABLE):  # small talk on the way has nothing to extract
            return reason
    return _OUTCOMES[check(candidate.text, example.reference, example).outcome]


def _same(response: str, reference: str) -> bool:
    return response == reference or response.strip() == reference.strip()


def _flaw(response: str, reference: str, example: Example) -> Reason | None:
    """What is wrong with a rewritten turn, whatever the check."""
    answer = answer_of(response)
    if not answer or answer.isspace():
        return Reason.NO_ANSWER if response.strip() else Reason.EMPTY
    if leak(answer) and leak(answer, [*(t["content"] for t in example.prompt), example.reference]):
        return Reason.LEAKED
    return Reason.INCOHERENT if damaged(answer, answer_of(reference)) else None


def read_selected(examples: Sequence[Example], path: Path) -> dict[str, Selected]:
    """Selected rows by id. Raises UserError for an example without a row, a row twice or too many, and a row whose
    number of turns is not the example's."""
    chosen: dict[str, Selected] = {}
    for row in read_records(path, Selected):
        if row.id in chosen:
            raise UserError(f"{path}: id {row.id!r} occurs twice. Keep one row per id.")
        chosen[row.id] = row
    for example in examples:
        if example.id not in chosen:
            raise UserError(f"{path}: no row for id {example.id!r} of the data.")
        if len(chosen[example.id].responses) != len(example.references):
            raise UserError(f"{path}: id {example.id!r} needs {len(example.references)} turns (turns and response).")
    if len(chosen) > len(examples):
        raise UserError(f"{path}: {len(chosen) - len(examples)} rows belong to no row of the data.")
    return chosen


# --- hand-over ---------------------------------------------------------------------------------------------------


class _Exports:
    """The files for other trainers, written row by row. They are given by format and name.

    `messages` and `prompt-completion` are TRL's forms, `alpaca` and `sharegpt` those of LLaMA-Factory and Axolotl.
    `.json` gives one array, anything else JSON lines. Every row carries its source and its id: the user's own where
    the data has an `id` column, else the hash.
    """

    def __init__(self, files: Mapping[tuple[str, Path], BinaryIO]) -> None:
        self.files = [(form, file, path.suffix == ".json") for (form, path), file in files.items()]
        self.begun = False

    def add(self, examples: Sequence[Example], rows: Sequence[Selected]) -> None:
        for form, file, array in self.files:
            lines = [to_json(_line(example, row, form)) for example, row in zip(examples, rows, strict=True)]
            if array:
                file.write((b",\n" if self.begun else b"[\n") + b",\n".join(lines))
            else:
                file.write(b"\n".join(lines) + b"\n")
        self.begun = True

    def end(self) -> None:
        for _, file, array in self.files:
            if array:
                file.write(b"\n]\n")


def _line(example: Example, row: Selected, form: str) -> dict[str, Any]:
    turns = example.with_responses(row.responses)
    tail = {"id": example.meta.get("source_id", example.id), "source": row.source}
    if form == "messages":
        return {"messages": turns, **tail}
    if form == "prompt-completion":
        return {"prompt": turns[:-1], "completion": turns[-1:], **tail}
    if form == "sharegpt":
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        return {"conversations": [{"from": names[t["role"]], "value": t["content"]} for t in turns], **tail}
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    pairs = [[turns[i]["content"], turns[i + 1]["content"]] for i in range(0, len(turns), 2)]
    (instruction, output), history = pairs[-1], pairs[:-1]
    return {"instruction": instruction, "input": "", "output": output, "system": system, "history": history, **tail}
