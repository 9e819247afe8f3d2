"""Datasets: from a file, a hub name or the microworld to `Example` records.

In:  a file or a folder of them (data.files), a hub name, `paper:NAME`, or `micro:ABILITY`; in Alpaca,
     prompt/completion, chat messages, ShareGPT, named columns, or our own examples.jsonl.
Out: `Example`s with an id made from their content; a row that repeats gets a suffix. They come as a stream: memory
     holds their ids, not their texts.

Bad rows stop the reading with one line that names the file, the line, the column and what was expected; with
`skip_bad` they are left out, counted and listed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, Turn, content_id, parse
from selfdistill.core.worlds import world_of
from selfdistill.data.conversations import conversation, listed, missing, text_of, whole
from selfdistill.data.files import CONVERSATIONS, rows
from selfdistill.data.notes import WATCHED, Notes, watch, watch_control
from selfdistill.data.sources import Row, Source, locate

PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "response"),
    ("query", "response"), ("instruction", "response"),
)  # fmt: skip
"""Column pairs that are understood without being named."""

SYSTEMS = ("system", "system_prompt")
_SYSTEMS = frozenset(SYSTEMS)

INPUTS = ("input", "context")
"""Columns that belong behind an `instruction`, as Alpaca and Dolly have them."""

_OWN = {"id", "prompt", "reference", "task"}
COLUMN_ROLES = ("prompt", "response", "messages", "system", "history", "tests", "contains")


def stream_examples(
    settings: DataSettings,
    task: str = "data",
    seed: int = 0,
    need_response: bool = True,
    data_dir: str | None = None,
    notes: Notes | None = None,
    source: Source | None = None,
) -> Iterator[Example]:
    """The examples of a dataset, or `settings.sample` of them drawn at random with `seed`, in the order of the file.

    `need_response=False` lets rows pass that have no reference, for checks that need none. `data_dir` holds local
    copies of the datasets that are named `paper:NAME`; `source` is one that has no name there. `notes` gathers what
    there is to say of the rows, and the bad ones that are left out. Raises UserError for anything that cannot be read,
    and for a dataset without rows, when it comes to it.
    """
    if world := world_of(settings.path):
        return _some(world.examples(settings, task, seed), settings.path)
    adapt: Callable[[Row], Row | None] = dict
    if source or settings.path.startswith("paper:"):
        settings, source = locate(settings, data_dir, source)
        settings = settings.model_copy(update={"sample": settings.sample or source.sample})
        adapt = source.adapt

    told = notes or Notes()

    def every() -> Iterator[Example]:
        return _numbered(_convert(settings, task, need_response, adapt, told))

    def fewer(there: int) -> None:
        told.progress.note(f"{settings.path}: {there} rows, fewer than the {settings.sample} asked for; all are taken")

    stream = every() if settings.sample is None else _drawn(every, settings.sample, seed, fewer)
    return _some(stream, settings.path)


def read_examples(
    settings: DataSettings,
    task: str = "data",
    seed: int = 0,
    need_response: bool = True,
    data_dir: str | None = None,
    notes: Notes | None = None,
    source: Source | None = None,
) -> list[Example]:
    """All examples that `stream_examples` gives."""
    return list(stream_examples(settings, task, seed, need_response, data_dir, notes, source))


def _some(stream: Iterator[Example], path: str) -> Iterator[Example]:
    """The stream, if there is anything in it."""
    first = next(stream, None)
    if first is None:
        raise UserError(f"{path}: no rows. Expected at least one.")
    yield first
    yield from stream


def _drawn(
    every: Callable[[], Iterator[Example]], count: int, seed: int, fewer: Callable[[int], None]
) -> Iterator[Example]:
    """`count` rows drawn at random, in their order. Two passes: one counts (and finds bad rows), one takes. Where there
    are not as many, `fewer` is told."""
    there = sum(1 for _ in every())
    if 0 < there < count:
        fewer(there)
    chosen = range(there) if count >= there else sorted(random.Random(seed).sample(range(there), count))
    again = enumerate(every())
    for wanted in chosen:
        yield next(example for number, example in again if number == wanted)


def _numbered(stream: Iterator[Example]) -> Iterator[Example]:
    """Give repeated rows a suffix, so that every id occurs once."""
    seen: set[str] = set()
    times: dict[str, int] = {}  # of those that repeat
    for example in stream:
        if example.id in seen:
            count = times.get(example.id, 1) + 1
            while f"{example.id}-{count}" in seen:  # by a row that came with it
                count += 1
            times[example.id] = count
            example = example.model_copy(update={"id": f"{example.id}-{count}"})
        seen.add(example.id)
        yield example


# --- rows to examples --------------------------------------------------------------------------------------------


def _convert(
    settings: DataSettings, task: str, need_response: bool, adapt: Callable[[Row], Row | None], notes: Notes
) -> Iterator[Example]:
    unknown = sorted(set(settings.columns) - set(COLUMN_ROLES))
    if unknown:
        raise UserError(f"columns: unknown key {unknown[0]!r}. Valid here: {', '.join(COLUMN_ROLES)}.")
    convert = _Conversion(settings, task, need_response, adapt, notes)
    good = False
    try:
        for where, row in rows(settings, notes.skip if settings.skip_bad else None):
            try:
                example = convert(row, where)
            except UserError as error:
                if not settings.skip_bad:
                    raise
                notes.skip(where, error)
                continue
            if example is not None:
                good = True
                watch_control(example, where, notes)
                yield example
    finally:
        notes.say(settings.path)
    if notes.skipped and not good:
        where, why = notes.skipped[0]
        raise UserError(f"{settings.path}: all {len(notes.skipped)} rows are bad. {where}: {why}")


class _Conversion:
    """Rows of one dataset to examples. The first row shows what form it has."""

    def __init__(
        self,
        settings: DataSettings,
        task: str,
        need_response: bool,
        adapt: Callable[[Row], Row | None],
        notes: Notes,
    ) -> None:
        self.settings, self.task, self.need_response, self.adapt, self.notes = (
            settings, task, need_response, adapt, notes,
        )  # fmt: skip
        self.read: _Reader | None = None
        self.names: dict[str, str] = {}

    def __call__(self, row: Row, where: str) -> Example | None:
        """The row's example; None for a row that its source knows to hold none. Raises UserError for a bad row."""
        if "reference" in row and row.keys() >= _OWN and isinstance(row["prompt"], list):  # examples.jsonl
            if row.get("meta"):
                whole(json.dumps(row["meta"], ensure_ascii=False, default=str), where)
            return parse(row, Example, where)
        adapted = _adapted(self.adapt, row, where)
        if adapted is None:
            self.notes.add("hold no conversation with a response and are left out", where)
            return None
        if self.read is None:
            self.read, self.names = _reader(self.settings, adapted, where, self.need_response)
        said: set[str] = set()
        prompt, reference = self.read(_Row(adapted, self.names, where, self.need_response, said.add))
        example = _example(adapted, prompt, reference, self.task, self.names, where)
        if not WATCHED.isdisjoint(adapted):
            used = (*self.names.values(), *(INPUTS if self.names.get("prompt") == "instruction" else ()))
            watch(adapted, used, where, self.notes)
        for remark in sorted(said) if said else ():
            self.notes.add(remark, where)
        return example


def _adapted(adapt: Callable[[Row], Row | None], row: Row, where: str) -> Row | None:
    try:
        return adapt(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not a row of this dataset ({type(error).__name__}: {error}).") from None


def _reader(settings: DataSettings, row: Row, where: str, need_response: bool) -> tuple[_Reader, dict[str, str]]:
    """The function for the dataset's form, and its column names by role."""
    form, found = settings.format, set(row)
    if "messages" in settings.columns:
        _need(found, list(settings.columns.values()), where)
        return _messages, settings.columns
    if form in ("auto", "columns") and settings.columns:
        names = {"prompt": "prompt", "response": "response"} | settings.columns
        needed = [names["prompt"]] + ([names["response"]] if need_response else [])
        _need(found, [*needed, *settings.columns.values()], where)
        return _pair, names
    if form in ("auto", "messages", "sharegpt"):
        for column in CONVERSATIONS:
            if column in found:
                return _messages, {"messages": column}
        if form != "auto":
            raise UserError(f"{where}: no column {' or '.join(map(repr, CONVERSATIONS))}. {_found(found)}")
    if form == "alpaca" or (form == "auto" and {"instruction", "output"} <= found):
        _need(found, ["instruction", "output"], where)
        return _pair, {"prompt": "instruction", "response": "output"}
    if form in ("auto", "prompt-completion", "columns"):
        for prompt, response in PAIRS:
            if prompt in found and response in found:
                return _pair, {"prompt": prompt, "response": response}
        if not need_response and (prompts := [p for p, _ in PAIRS if p in found]):
            return _pair, {"prompt": prompts[0]}
    if "chosen" in found:
        how = "prompt=prompt,response=chosen" if "prompt" in found else "messages=chosen"
        raise UserError(f"{where}: a preference set. Name the answers to train on: --columns {how}.")
    raise UserError(
        f"{where}: no columns that are understood. {_found(found)} Name them: "
        'columns = { prompt = "...", response = "..." } (on the command line --columns prompt=...,response=...; '
        "in a --task columns.prompt=...,columns.response=...)."
    )


def has_response(settings: DataSettings, row: Row) -> bool:
    """Whether a row has a column for its response, or what is read of it says itself what is lacking."""
    if "messages" in settings.columns or settings.format not in ("auto", "columns", "prompt-completion"):
        return True
    if settings.columns and settings.format != "prompt-completion":
        names = {"prompt": "prompt", "response": "response"} | settings.columns
        return names["response"] in row or names["prompt"] not in row
    forms = ({"instruction", "output"}, {"chosen"}, _OWN, *({c} for c in CONVERSATIONS), *map(set, PAIRS))
    return any(row.keys() >= form for form in forms) or not any(prompt in row for prompt, _ in PAIRS)


def _need(found: set[str], names: list[str], where: str) -> None:
    missing = [n for n in names if n not in found]
    if missing:
        raise UserError(f"{where}: no column {missing[0]!r}. {_found(found)}")


def _found(columns: Iterable[str]) -> str:
    return f"Found: {', '.join(sorted(columns))}."


# --- one row -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """A row with its columns' names by role. `note` takes what there is to say of it."""

    values: Row
    names: dict[str, str]
    where: str
    need_response: bool
    note: Callable[[str], None]

    def text(self, column: str, empty: bool = False) -> str:
        """A column as text. Numbers are taken as text; anything else is refused."""
        value = self.values.get(column)
        if type(value) is str and value.isascii() and value and not value.isspace():  # as most are
            return value
        if column not in self.values:
            raise UserError(f"{self.where}: no column {column!r}. {_found(self.values)}")
        if missing(value):
            value = ""
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise UserError(f"{self.where}: column {column!r} holds {type(value).__name__}, expected text.")
        if not empty and not value.strip():
            raise UserError(f"{self.where}: column {column!r} is empty. Fill it or remove the row.")
        return whole(value, self.where)

    def _joined(self, column: str) -> str:
        value = self.values.get(column)
        return text_of(value, f"{self.where}: {column!r}") if isinstance(value, list) else self.text(column, empty=True)

    def system(self) -> str:
        """The system text that stands in a column; "" without one."""
        if "system" not in self.names and _SYSTEMS.isdisjoint(self.values):
            return ""
        columns = [self.names["system"]] if "system" in self.names else []
        columns = columns or [c for c in SYSTEMS if c in self.values and c not in self.names.values()]
        texts = {text for column in columns if (text := self._joined(column)).strip()}
        if len(texts) > 1:
            raise UserError(f"{self.where}: {' and '.join(columns)} hold different texts. Keep one of them.")
        return texts.pop() if texts else ""


_Reader = Callable[[_Row], tuple[list[Turn], str]]
"""A row -> the turns up to the last question, and the answer to it."""


def _messages(row: _Row) -> tuple[list[Turn], str]:
    value = row.values.get(row.names["messages"])
    if not missing(row.values.get("history")):
        row.note("have 'history' beside the conversation, which is not used")
    return conversation(value, row.system(), row.where, row.need_response, row.note)


def _pair(row: _Row) -> tuple[list[Turn], str]:
    prompt, response = row.names["prompt"], row.names.get("response", "")
    asked, answer = row.values.get(prompt), row.values.get(response)
    if isinstance(asked, list) or isinstance(answer, list):  # conversational prompt/completion, as TRL has it
        messages = [*_turns(asked, "user"), *_turns(answer, "assistant")]
        if isinstance(asked, str) and messages[1:2] and messages[1].get("role") in ("user", "system"):
            messages = messages[1:]  # the answer's messages begin with the question, as in preference sets
        return conversation(messages, row.system(), row.where, row.need_response, row.note)
    system = row.system()
    turns = [Turn(role="system", content=system)] if system else []
    if history := row.values.get(row.names.get("history", "history")):
        turns += _history(history, row.where)
    question = row.text(prompt)
    for column in INPUTS if prompt == "instruction" else ():
        if column in row.values and (extra := row.text(column, empty=True)).strip():
            question = f"{question}\n{extra}"
    turns.append(Turn(role="user", content=question))
    given = response in row.values or row.need_response
    return turns, row.text(response, empty=not row.need_response) if given else ""


def _turns(value: Any, role: str) -> list[Any]:
    """Messages as they are, a text as one of them."""
    if isinstance(value, list):
        return value
    return [] if missing(value) else [{"role": role, "content": value}]


def _history(value: Any, where: str) -> list[Turn]:
    if missing(value):
        return []
    if not isinstance(value := listed(value), list):
        raise UserError(f"{where}: history holds {type(value).__name__}, expected a list of [question, answer] pairs.")
    turns: list[Turn] = []
    for pair in value:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(t, str) and t for t in pair)):
            raise UserError(f"{where}: history must be a list of [question, answer] pairs of text.")
        question, answer = (whole(text, where) for text in pair)
        turns += [Turn(role="user", content=question), Turn(role="assistant", content=answer)]
    return turns


def _example(row: Row, prompt: list[Turn], reference: str, task: str, columns: dict[str, str], where: str) -> Example:
    meta: dict[str, Any] = {}
    program = ("code", "entry_point") if {"tests", "entry_point"} <= row.keys() else ()
    for key in ("tests", "contains", *program):
        value = row.get(columns.get(key, key))
        if value is not None and not missing(value):
            value = listed(value) if key in ("tests", "contains") else value
            texts: list[Any] = value if isinstance(value, list) else [value]
            if not all(isinstance(text, (str, int, float)) and not isinstance(text, bool) for text in texts):
                raise UserError(f"{where}: {key} holds {_kinds(texts)}, expected text or a list of texts.")
            said = [whole(str(text), where) for text in texts]
            meta[key] = said if key == "contains" else "\n".join(said)
    if isinstance(row.get("id"), (str, int)):
        meta["source_id"] = whole(str(row["id"]), where)
    turns = tuple(prompt)
    return Example(id=content_id(turns, reference), prompt=turns, reference=reference, task=task, meta=meta)


def _kinds(values: Iterable[Any]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values}))


def drawn(examples: Sequence[Example], count: int | None, seed: int | str) -> list[Example]:
    """`count` of the examples drawn at random, in their order; fewer are among more. None takes all.

    Raises UserError for more than there are.
    """
    if count is not None and count > len(examples):
        raise UserError(f"train.size = {count}: the data has {len(examples)} rows.")
    ids = sorted(e.id for e in examples)
    random.Random(seed).shuffle(ids)
    kept = set(ids[:count])
    return [e for e in examples if e.id in kept]
