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
from collections.abc import Callable, Iterator, Sequence

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, parse
from selfdistill.core.worlds import world_of
from selfdistill.data.calls import is_glaive
from selfdistill.data.conversations import whole
from selfdistill.data.files import CONVERSATIONS, rows
from selfdistill.data.notes import WATCHED, Notes, watch, watch_control
from selfdistill.data.row import INPUTS, Reader, SourceRow, example_of, from_messages, from_pair, named
from selfdistill.data.sources import Row, Source, locate

PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "response"),
    ("query", "response"), ("instruction", "response"),
)  # fmt: skip
"""Column pairs that are understood without being named."""

CHATS = ("chat", "sample")
"""Columns that hold a whole chat as text in Glaive's sets."""

_OWN = {"id", "prompt", "reference", "task"}
COLUMN_ROLES = ("prompt", "response", "messages", "system", "history", "tools", "tests", "contains")


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
        self.read: Reader | None = None
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
        source = SourceRow(adapted, self.names, where, self.need_response, said.add)
        prompt, answer = self.read(source)
        example = example_of(source, prompt, answer, self.task)
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


def _reader(settings: DataSettings, row: Row, where: str, need_response: bool) -> tuple[Reader, dict[str, str]]:
    """The function for the dataset's form, and its column names by role."""
    form, found = settings.format, set(row)
    if "messages" in settings.columns:
        _need(found, list(settings.columns.values()), where)
        return from_messages, settings.columns
    if form in ("auto", "columns") and settings.columns:
        names = {"prompt": "prompt", "response": "response"} | settings.columns
        needed = [names["prompt"]] + ([names["response"]] if need_response else [])
        _need(found, [*needed, *settings.columns.values()], where)
        return from_pair, names
    if form in ("auto", "messages", "sharegpt"):
        for column in CONVERSATIONS:
            if column in found:
                return from_messages, {"messages": column}
        for column in CHATS:
            if is_glaive(row.get(column)):
                return from_messages, {"messages": column}
        if form != "auto":
            raise UserError(f"{where}: no column {' or '.join(map(repr, CONVERSATIONS))}. {named(found)}")
    if form == "alpaca" or (form == "auto" and {"instruction", "output"} <= found):
        _need(found, ["instruction", "output"], where)
        return from_pair, {"prompt": "instruction", "response": "output"}
    if form in ("auto", "prompt-completion", "columns"):
        for prompt, response in PAIRS:
            if prompt in found and response in found:
                return from_pair, {"prompt": prompt, "response": response}
        if not need_response and (prompts := [p for p, _ in PAIRS if p in found]):
            return from_pair, {"prompt": prompts[0]}
    if "chosen" in found:
        how = "prompt=prompt,response=chosen" if "prompt" in found else "messages=chosen"
        raise UserError(f"{where}: a preference set. Name the answers to train on: --columns {how}.")
    raise UserError(
        f"{where}: no columns that are understood. {named(found)} Name them: "
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
        raise UserError(f"{where}: no column {missing[0]!r}. {named(found)}")


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
