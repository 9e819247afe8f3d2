"""Datasets: from a file, a hub name or the microworld to `Example` records.

In:  JSON, JSONL, CSV or Parquet (gzip allowed), a hub name, `paper:NAME`, or `micro:ABILITY`; in Alpaca,
     prompt/completion, chat messages, named columns, or our own examples.jsonl.
Out: `Example`s with an id made from their content; a row that repeats gets a suffix. They come as a stream: memory
     holds their ids, not their texts.

Bad rows stop the reading with one line that names the file, the line, the column and what was expected.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from selfdistill.config import DataSettings
from selfdistill.errors import UserError
from selfdistill.progress import Progress
from selfdistill.records import Example, Turn, content_id, parse
from selfdistill.rows import rows
from selfdistill.sources import Row, locate

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("instruction", "response"))
"""Column pairs that are understood without being named."""

_OWN = {"id", "prompt", "reference", "task"}
COLUMN_ROLES = ("prompt", "response", "system", "history", "tests", "contains")


def stream_examples(
    settings: DataSettings,
    task: str = "data",
    seed: int = 0,
    need_response: bool = True,
    data_dir: str | None = None,
) -> Iterator[Example]:
    """The examples of a dataset, or `settings.sample` of them drawn at random with `seed`, in the order of the file.

    `need_response=False` lets rows pass that have no reference, for checks that need none. `data_dir` holds local
    copies of the datasets that are named `paper:NAME`.
    Raises UserError for anything that cannot be read, and for a dataset without rows, when it comes to it.
    """
    if settings.path.startswith("micro:"):
        return _some(_micro(settings, task, seed), settings.path)
    adapt: Callable[[Row], Row | None] = dict
    if settings.path.startswith("paper:"):
        settings, source = locate(settings, data_dir)
        settings = settings.model_copy(update={"sample": settings.sample or source.sample})
        adapt = source.adapt

    def whole() -> Iterator[Example]:
        return _numbered(_convert(settings, task, need_response, adapt))

    stream = whole() if settings.sample is None else _drawn(whole, settings.sample, seed)
    return _some(stream, settings.path)


def read_examples(
    settings: DataSettings,
    task: str = "data",
    seed: int = 0,
    need_response: bool = True,
    data_dir: str | None = None,
) -> list[Example]:
    """All examples that `stream_examples` gives."""
    return list(stream_examples(settings, task, seed, need_response, data_dir))


def _some(stream: Iterator[Example], path: str) -> Iterator[Example]:
    """The stream, if there is anything in it."""
    first = next(stream, None)
    if first is None:
        raise UserError(f"{path}: no rows. Expected at least one.")
    yield first
    yield from stream


def _drawn(whole: Callable[[], Iterator[Example]], count: int, seed: int) -> Iterator[Example]:
    """`count` rows drawn at random, in their order. Two passes: one counts (and finds bad rows), one takes."""
    there = sum(1 for _ in whole())
    chosen = range(there) if count >= there else sorted(random.Random(seed).sample(range(there), count))
    again = enumerate(whole())
    for wanted in chosen:  # not to the end of the stream, which would warn a second time
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


def _micro(settings: DataSettings, task: str, seed: int) -> Iterator[Example]:
    """A dataset of the microworld in the annotator's terse style: `micro:ABILITY`, or equal parts of several
    (`micro:chat+facts`)."""
    from selfdistill.microworld import world

    names = settings.path.partition(":")[2].split("+")
    for name in names:
        if name not in world.ABILITIES:
            raise UserError(f"{settings.path}: no ability {name!r}. There are: {', '.join(world.ABILITIES)}.")
    if settings.split not in ("train", "test"):
        raise UserError(f"{settings.path}: split {settings.split!r}; the microworld has train and test.")
    streams = [(world.items(name, settings.split, seed), world.ABILITIES[name][1]) for name in names]
    turn = itertools.cycle(streams)
    for _ in range(settings.sample or 600):
        stream, check = next(turn)
        item = next(stream, None)
        if item is None:  # no more different prompts
            return
        prompt = (Turn(role="user", content=item.prompt),)
        reference = item.terse if settings.split == "train" or check == "function_call" else item.expected
        meta = item.meta | ({"own": item.own, "terse": item.terse} if settings.split == "test" else {})
        yield Example(id=content_id(prompt, reference), prompt=prompt, reference=reference, task=task, meta=meta)


# --- rows to examples --------------------------------------------------------------------------------------------


def _convert(
    settings: DataSettings, task: str, need_response: bool, adapt: Callable[[Row], Row | None]
) -> Iterator[Example]:
    unknown = sorted(set(settings.columns) - set(COLUMN_ROLES))
    if unknown:
        raise UserError(f"columns: unknown key {unknown[0]!r}. Valid here: {', '.join(COLUMN_ROLES)}.")
    reader: Callable[..., Example] | None = None
    names: dict[str, str] = {}
    left_out = 0
    for where, row in rows(settings):
        if row.keys() >= _OWN and isinstance(row["prompt"], list):  # examples.jsonl
            if row.get("meta"):
                _whole(json.dumps(row["meta"], ensure_ascii=False, default=str), where)
            yield parse(row, Example, where)
            continue
        adapted = _adapted(adapt, row, where)
        if adapted is None:
            left_out += 1
            continue
        row = adapted
        if reader is None:
            reader, names = _reader(settings, row, where, need_response)
        yield reader(row, names, where, task, need_response)
    if left_out:
        Progress().warn(f"{settings.path}: {left_out} rows hold no conversation with a response and are left out")


def _adapted(adapt: Callable[[Row], Row | None], row: Row, where: str) -> Row | None:
    try:
        return adapt(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not a row of this dataset ({type(error).__name__}: {error}).") from None


def _reader(settings: DataSettings, row: Row, where: str, need_response: bool) -> tuple[Any, dict[str, str]]:
    """The function for the dataset's form, and its column names."""
    form, found = settings.format, set(row)
    if form in ("auto", "columns") and settings.columns:
        names = {"prompt": "prompt", "response": "response"} | settings.columns
        needed = [names["prompt"]] + ([names["response"]] if need_response else [])
        missing = [c for c in {*needed, *settings.columns.values()} if c not in found]
        if missing:
            raise UserError(f"{where}: no column {missing[0]!r}. Found: {', '.join(sorted(found))}.")
        return _pair, names
    if form == "messages" or (form == "auto" and "messages" in found):
        _need(found, ["messages"], where)
        return _messages, {}
    if form == "alpaca" or (form == "auto" and {"instruction", "output"} <= found):
        _need(found, ["instruction", "output"], where)
        return _alpaca, {}
    if form in ("auto", "prompt-completion", "columns"):
        for prompt, response in PAIRS:
            if prompt in found and response in found:
                return _pair, {"prompt": prompt, "response": response}
        if not need_response and (prompts := [p for p, _ in PAIRS if p in found]):
            return _pair, {"prompt": prompts[0]}
    raise UserError(
        f"{where}: no columns that are understood. Found: {', '.join(sorted(found))}. Name them: "
        'columns = { prompt = "...", response = "..." } (on the command line --columns prompt=...,response=...).'
    )


def _need(found: set[str], names: list[str], where: str) -> None:
    missing = [n for n in names if n not in found]
    if missing:
        raise UserError(f"{where}: no column {missing[0]!r}. Found: {', '.join(sorted(found))}.")


def _text(row: Row, column: str, where: str, empty: bool = False) -> str:
    """A column as text. Numbers are taken as text; anything else is refused."""
    if column not in row:
        raise UserError(f"{where}: no column {column!r}. Found: {', '.join(sorted(row))}.")
    value = row[column]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise UserError(f"{where}: column {column!r} holds {type(value).__name__}, expected text.")
    if not empty and not value.strip():
        raise UserError(f"{where}: column {column!r} is empty. Fill it or remove the row.")
    return _whole(value, where)


def _whole(text: str, where: str) -> str:
    """The text, if it can be written as UTF-8: JSON can hold half of a surrogate pair, a file cannot."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half a character (a lone surrogate). Repair or remove it.") from None
    return text


def _example(row: Row, prompt: list[Turn], reference: str, task: str, columns: dict[str, str], where: str) -> Example:
    meta: dict[str, Any] = {}
    program = ("code", "entry_point") if {"tests", "entry_point"} <= row.keys() else ()
    for key in ("tests", "contains", *program):
        if (value := row.get(columns.get(key, key))) is not None:
            if isinstance(value, str):
                meta[key] = [value] if key == "contains" else value
            elif isinstance(value, list) and all(isinstance(v, str) for v in value):
                meta[key] = value if key == "contains" else "\n".join(value)
            else:
                raise UserError(f"{where}: {key} holds {type(value).__name__}, expected text or a list of texts.")
    if isinstance(row.get("id"), (str, int)):
        meta["source_id"] = _whole(str(row["id"]), where)
    turns = tuple(prompt)
    return Example(id=content_id(turns, reference), prompt=turns, reference=reference, task=task, meta=meta)


def _history(value: Any, where: str) -> list[Turn]:
    if isinstance(value, str) and value.strip():  # all that a CSV cell can hold
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(f"{where}: history is text, expected a JSON list of [question, answer] pairs.") from None
    turns: list[Turn] = []
    for pair in value or ():
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(t, str) and t for t in pair)):
            raise UserError(f"{where}: history must be a list of [question, answer] pairs of text.")
        question, answer = (_whole(text, where) for text in pair)
        turns += [Turn(role="user", content=question), Turn(role="assistant", content=answer)]
    return turns


def _alpaca(row: Row, names: dict[str, str], where: str, task: str, need_response: bool) -> Example:
    instruction = _text(row, "instruction", where)
    extra = _text(row, "input", where, empty=True) if "input" in row else ""
    user = f"{instruction}\n{extra}" if extra.strip() else instruction
    system = [Turn(role="system", content=_text(row, "system", where))] if row.get("system") else []
    turns = [*system, *_history(row.get("history"), where), Turn(role="user", content=user)]
    return _example(row, turns, _text(row, "output", where, empty=not need_response), task, {}, where)


def _pair(row: Row, names: dict[str, str], where: str, task: str, need_response: bool) -> Example:
    prompt, response = names["prompt"], names.get("response", "")
    if isinstance(row.get(prompt), list):  # conversational prompt/completion, as TRL has it
        return _conversation([*row[prompt], *(row.get(response) or [])], row, where, task, need_response)
    turns = _history(row.get(names.get("history", "history")), where)
    if names.get("system", "system") in row and row[names.get("system", "system")]:
        turns.insert(0, Turn(role="system", content=_text(row, names.get("system", "system"), where)))
    turns.append(Turn(role="user", content=_text(row, prompt, where)))
    given = response in row or need_response
    reference = _text(row, response, where, empty=not need_response) if given else ""
    return _example(row, turns, reference, task, names, where)


def _messages(row: Row, names: dict[str, str], where: str, task: str, need_response: bool) -> Example:
    return _conversation(row.get("messages"), row, where, task, need_response)


def _conversation(value: Any, row: Row, where: str, task: str, need_response: bool) -> Example:
    """Messages: an optional system turn, then user and assistant in turn; the last assistant turn is the reference."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: messages must be a list of {{role, content}} objects and not be empty.")
    turns: list[Turn] = []
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise UserError(f"{where}: message {index + 1} needs a role and a text content.")
        role, before = message.get("role"), turns[-1]["role"] if turns else None
        expected = ("user",) if before in ("system", "assistant") else ("assistant",) if before else ("system", "user")
        if role not in expected:
            raise UserError(f"{where}: message {index + 1} has role {role!r}, expected {' or '.join(expected)}.")
        if not message["content"].strip():
            raise UserError(f"{where}: message {index + 1} ({role}) is empty. Fill it or remove the row.")
        turns.append(Turn(role=role, content=_whole(message["content"], where)))  # type: ignore[typeddict-item]
    if turns[-1]["role"] == "assistant":
        *turns, last = turns
        return _example(row, turns, last["content"], task, {}, where)
    if need_response:
        raise UserError(f"{where}: the conversation ends with a {turns[-1]['role']} turn, expected an assistant's.")
    return _example(row, turns, "", task, {}, where)
