"""One row of a dataset to its example: the turns, the answer to the last, the tools, what a check needs.

In:  a row, and which of its columns holds what.
Out: an `Example`. Raises UserError with the row's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, content_id
from selfdistill.core.turns import Turn, spoken
from selfdistill.data.calls import Tool, glaive_messages, is_glaive, tools_in_system, tools_of, without_filled_nulls
from selfdistill.data.conversations import conversation, from_pairs, listed, missing, text_of, whole
from selfdistill.data.notes import says_nothing
from selfdistill.data.sources import Row

SYSTEMS = ("system", "system_prompt")
_SYSTEMS = frozenset(SYSTEMS)

TOOLS = ("tools", "functions")

INPUTS = ("input", "context")
"""Columns that belong behind an `instruction`, as Alpaca and Dolly have them."""


def named(columns: Iterable[str]) -> str:
    """The columns that are there, for an error."""
    return f"Found: {', '.join(sorted(columns))}."


@dataclass(slots=True)
class SourceRow:
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
            raise UserError(f"{self.where}: no column {column!r}. {named(self.values)}")
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

    def tools(self) -> tuple[Tool, ...]:
        """The tools that a column declares."""
        named = [self.names["tools"]] if "tools" in self.names else [c for c in TOOLS if c in self.values]
        found = [self.values.get(column) for column in named]
        found = [value for value in found if not says_nothing(value)]
        if len(found) > 1:
            raise UserError(f"{self.where}: {' and '.join(named)} both hold tools. Keep one of them.")
        return tools_of(found[0], self.where, self.note) if found else ()


Reader = Callable[[SourceRow], tuple[list[Turn], Turn]]
"""A row -> the turns up to the last question, and the answer to it."""


def from_messages(row: SourceRow) -> tuple[list[Turn], Turn]:
    """The turns of a whole conversation in one column."""
    value = row.values.get(row.names["messages"])
    if isinstance(value, str) and is_glaive(value):
        value = glaive_messages(whole(value, row.where), row.where)
    if not missing(row.values.get("history")):
        row.note("have 'history' beside the conversation, which is not used")
    return conversation(value, row.system(), row.where, row.need_response, row.note)


def from_pair(row: SourceRow) -> tuple[list[Turn], Turn]:
    """The turns of a row that has its answer in a column of its own."""
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
        turns += from_pairs(history, row.where)
    question = row.text(prompt)
    for column in INPUTS if prompt == "instruction" else ():
        if column in row.values and (extra := row.text(column, empty=True)).strip():
            question = f"{question}\n{extra}"
    turns.append(Turn(role="user", content=question))
    given = response in row.values or row.need_response
    answer = row.text(response, empty=not row.need_response) if given else ""
    return turns, Turn(role="assistant", content=answer)


def _turns(value: Any, role: str) -> list[Any]:
    """Messages as they are, a text as one of them."""
    if isinstance(value, list):
        return value
    return [] if missing(value) else [{"role": role, "content": value}]


def example_of(source: SourceRow, prompt: list[Turn], answer: Turn, task: str) -> Example:
    """The example of a row that was read."""
    row, columns, where, tools = source.values, source.names, source.where, source.tools()
    if prompt[0]["role"] == "system" and not tools and (listed_there := tools_in_system(prompt[0]["content"])):
        text, found = listed_there
        tools, prompt = tools_of(found, where, source.note), [Turn(role="system", content=text), *prompt[1:]]
        source.note("list their tools in the system's text as Glaive does, which are read as tools")
    without_filled_nulls((*prompt, answer), tools, source.note)
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
    turns, reference = tuple(prompt), spoken(answer)
    plain = answer.keys() <= {"role", "content"}
    full = None if plain else answer
    id = content_id(turns, reference, "", tools, full)
    return Example(id=id, prompt=turns, reference=reference, task=task, meta=meta, tools=tools, answer=full)


def _kinds(values: Iterable[Any]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values}))
