"""What flows between the stages: frozen, strict records, one JSON object a line.

A row with an unknown or a missing key is refused. Rows are joined by `id`, never by position. Unknown is None.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_json

from selfdistill.core.errors import UserError
from selfdistill.core.said import wanted
from selfdistill.core.turns import Turn, identifying, replaced, spoken


class Strict(BaseModel):
    """Frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Strict):
    """A row that is joined by its id."""

    id: str


class Example(Record):
    """One row of a task dataset: the turns up to the last question x, and the reference response y to it.

    Earlier assistant turns inside `prompt` are references too, but for those that do not train. `meta` carries what a
    check needs (tests, words) and where the row came from. `tools` are JSON schemas of the tools that the model may
    call, as {type: function, function: {...}}. `answer` is the reference as a turn, where it is more than a text: it
    calls tools, or has thoughts before it; `reference` is then `spoken` of it.
    """

    prompt: tuple[Turn, ...] = Field(min_length=1)
    reference: str
    task: str
    meta: dict[str, Any] = {}
    tools: tuple[dict[str, Any], ...] = ()
    answer: Turn | None = None

    @model_validator(mode="after")
    def _answer_is_the_reference(self) -> Self:
        if self.answer is not None and spoken(self.answer) != self.reference:
            raise ValueError("answer and reference are different texts")
        return self

    @property
    def answers(self) -> tuple[Turn, ...]:
        """All assistant turns that train, the last one last."""
        last = self.answer or Turn(role="assistant", content=self.reference)
        if len(self.prompt) == 1:  # as most are
            return (last,)
        return (*(t for t in self.prompt if t["role"] == "assistant" and "train" not in t), last)

    @property
    def references(self) -> tuple[str, ...]:
        """The texts of all assistant turns that train, the reference last."""
        return (*map(spoken, self.answers[:-1]), self.reference)

    def turn(self, number: int, response: str) -> Turn:
        """The assistant turn that this response makes of `answers[number]`."""
        return replaced(self.answers[number], response)

    @property
    def uses_tools(self) -> bool:
        """Whether tools are declared, called or heard in it."""
        return bool(self.tools) or any(t["role"] == "tool" or "tool_calls" in t for t in (*self.prompt, *self.answers))

    def up_to(self, responses: tuple[str, ...]) -> list[Turn]:
        """The turns up to the one that response number len(responses) answers, earlier ones in place, as a model is
        asked."""
        return [_asked(turn) if "train" in turn else turn for turn in self._answered(responses)]

    def with_responses(self, responses: tuple[str, ...]) -> list[Turn]:
        """The whole conversation with these assistant turns in place of the references; turns that do not train are
        marked."""
        return [*self._answered(responses[:-1]), self.turn(-1, responses[-1])]

    def _answered(self, responses: tuple[str, ...]) -> list[Turn]:
        if not responses and len(self.prompt) == 1:  # as most are
            return list(self.prompt)
        turns: list[Turn] = []
        left = list(responses)
        for turn in self.prompt:
            if turn["role"] == "assistant" and "train" not in turn:
                if not left:
                    break
                turns.append(replaced(turn, left.pop(0)))
            else:
                turns.append(turn)
        return turns


def _asked(turn: Turn) -> Turn:
    asked = turn.copy()
    asked.pop("train", None)
    return asked


class Verdict(StrEnum):
    """How an answer was judged. Unjudged ones wait for a judge; items that cannot be judged have a reference or an
    answer that the check cannot read. Neither counts in a score."""

    CORRECT = "correct"
    WRONG = "wrong"
    TRUNCATED = "truncated"
    ERROR = "error"
    UNJUDGED = "unjudged"
    UNJUDGEABLE = "cannot_be_judged"

    @property
    def judged(self) -> bool:
        """Whether the item counts in the score."""
        return self not in (Verdict.UNJUDGED, Verdict.UNJUDGEABLE)


class Sample(Strict):
    """One sampled answer beside the greedy one, for pass@k. `passed` is None where it cannot be judged."""

    text: str
    thought: str | None = None
    finish_reason: Literal["stop", "length"]
    passed: bool | None


class Prediction(Record):
    """One answer of one model to one item, with what was extracted from it and what was expected.

    `label` is the class of the answer where a check knows classes (refuse, answer, incoherent; win, tie, loss).
    `metrics` holds what other rules say of the same answer, by name, from 0 to 1. `samples` are further answers at the
    task's temperature. `thought` is what stood before the text, None where the model did not think.

    `prompt` is a hash of the prompt's token ids, which another model's tokenizer makes another one. `asked` is one of
    the turns and texts before any tokenizer or chat template, the same for every model that was asked the same.
    """

    task: str
    prompt: str
    asked: str | None = None
    text: str
    thought: str | None = None
    finish_reason: Literal["stop", "length", "rejected", "error"]
    tokens: int | None = None
    extracted: str | None = None
    expected: str | None = None
    verdict: Verdict
    note: str | None = None
    label: str | None = None
    metrics: dict[str, float] = {}
    samples: tuple[Sample, ...] = ()

    @property
    def cut_in_thought(self) -> bool:
        """Whether it was cut off before an answer began."""
        return self.finish_reason == "length" and only_thought(self.thought, self.text)


def only_thought(thought: str | None, text: str) -> bool:
    """Whether nothing stands behind a thought."""
    return thought is not None and not text


class Metric(Strict):
    """A mean over n items with its 95 % interval: from 0 to 1, a difference of two from -1 to 1."""

    n: int
    value: float
    low: float
    high: float


class TaskResult(Strict):
    """Counts and score of one task: n = correct + wrong + truncated + errors; score = correct / n with its 95 %
    Wilson interval. A task that was not run, or has nothing that can be judged, has n = 0 and None.

    `unjudgeable` counts the items that cannot be judged, by the reason; they are not among the n. `labels` counts the
    classes of all answers, `metrics` holds the means of what other rules say of the n;
    all three may be empty; `in_thought` counts those of the truncated that ended in their thoughts. `walls`
    are those of the sandbox that held (or not) when model-written code was judged.
    """

    task: str
    check: str
    role: Literal["target", "retained"]
    n: int
    correct: int
    wrong: int
    truncated: int
    errors: int
    score: float | None
    low: float | None
    high: float | None
    note: str | None = None
    in_thought: int = 0
    unjudgeable: dict[str, int] = {}
    labels: dict[str, int] = {}
    metrics: dict[str, Metric] = {}
    walls: dict[str, bool] | None = None


R = TypeVar("R", bound=BaseModel)


def content_id(
    prompt: tuple[Turn, ...],
    reference: str,
    task: str = "",
    tools: tuple[dict[str, Any], ...] = (),
    answer: Turn | None = None,
) -> str:
    """Sixteen hex digits of the SHA-256 of what the row says, and which turns do not train. Meta data and position do
    not count."""
    said: list[Any] = [[identifying(t) for t in prompt], reference, task]
    if tools or answer:
        said += [tools, identifying(answer) if answer else None]
    try:
        text = to_json(said)  # the same bytes, in a fifth of the time
    except ValueError:  # half a character
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def dump(record: BaseModel) -> bytes:
    """One JSON line, with its newline."""
    # What model_dump_json calls; it gives the bytes as they are, in two thirds of the time.
    return record.__pydantic_serializer__.to_json(record, exclude_defaults=True) + b"\n"


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Stream records from a JSONL file. Raises UserError with file and line for a row that does not fit."""
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse(line, kind, f"{path}, line {number}")


def parse(row: bytes | dict[str, Any], kind: type[R], where: str) -> R:
    """One record from one JSON line or from what it says; `where` opens the error message."""
    try:
        return kind.model_validate_json(row) if isinstance(row, bytes) else kind.model_validate(row)
    except ValidationError as error:
        raise UserError(f"{where}: not a {kind.__name__} record: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """A pydantic error in one line: the fields, what was got and the rule."""
    parts = []
    for item in error.errors()[:3]:
        where = ".".join(str(x) for x in item["loc"]) or "the row"
        if item["type"] == "missing":
            parts.append(f"{where}: is missing")
        elif item["type"] == "extra_forbidden":
            parts.append(f"{where}: unknown key")
        else:
            parts.append(f"{where}: {wanted(item)}, got {str(item['input'])[:60]!r}")
    return "; ".join(parts)


UNMEASURED = "not measured: "


NOTHING = "nothing to judge"
"""The note of a task of which no item can be judged."""
