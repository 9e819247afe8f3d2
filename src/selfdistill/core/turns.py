"""Turns of a conversation: who says what, which tools are called, and what they give back.

A turn that calls tools has a text of its own wherever responses are texts (references, candidates, selected rows): JSON
of its content and its calls, made by `spoken` and read by `heard`.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict


class ToolCall(TypedDict):
    """One call of a tool; `id` is the row's own name for it."""

    name: str
    arguments: dict[str, Any]
    id: NotRequired[str]


class Turn(TypedDict):
    """One message of a conversation. Only what is there has a key.

    `train` is False for an assistant turn that is neither rewritten nor trained on. `tool_calls` are an assistant's;
    `content` may then be "". `written` is how the seed LM wrote such a turn: it trains in that form, not in the
    template's. `reasoning`: thoughts, which only `thinking = "keep"` trains. `name` and `tool_call_id`
    say of a tool's turn which tool it is and which call it answers.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    train: NotRequired[Literal[False]]
    tool_calls: NotRequired[list[ToolCall]]
    written: NotRequired[str]
    reasoning: NotRequired[str]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")
    turn: Turn


_SPOKEN = ("tool_calls", "content", "written", "reasoning")
_BEGINS = '{"tool_calls":['


def spoken(turn: Turn) -> str:
    """The turn as a text: its content, or, where it calls tools, JSON of all that an assistant's turn holds."""
    if "tool_calls" not in turn:
        return turn["content"]
    said = {key: turn[key] for key in _SPOKEN if turn.get(key)}  # type: ignore[literal-required]
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def heard(text: str) -> Turn:
    """The assistant's turn that `spoken` gave as a text; any other text is a turn without calls."""
    if text.startswith(_BEGINS):
        try:
            return _Said.model_validate({"turn": {"role": "assistant", "content": "", **json.loads(text)}}).turn
        except (ValueError, TypeError):  # it begins like one
            pass
    return Turn(role="assistant", content=text)


def is_call(text: str) -> bool:
    """Whether a text is what `spoken` makes of a turn that calls tools."""
    return text.startswith(_BEGINS) and "tool_calls" in heard(text)


def readable(turn: Turn) -> str:
    """The turn for people: thoughts, the words, and each call as f(a="x"); a call that the seed LM wrote, as it did."""
    thoughts = [f"(thinks: {turn['reasoning']})"] if "reasoning" in turn else []
    if "written" in turn:
        return "\n".join([*thoughts, turn["written"]])
    calls = [f"calls {call['name']}({_listed(call['arguments'])})" for call in turn.get("tool_calls", ())]
    words = [turn["content"]] if turn["content"] or not calls else []
    return "\n".join([*thoughts, *words, *calls])


def _listed(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())


def who(turn: Turn) -> str:
    """Who speaks, for people: the role, of a tool also which one."""
    return f"{turn['role']} {turn['name']}" if turn["role"] == "tool" and "name" in turn else turn["role"]


def signature(tool: dict[str, Any]) -> str:
    """A declared tool for people: f(a, b): what it does."""
    function = tool["function"]
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    about = f": {function['description']}" if function.get("description") else ""
    return f"{function['name']}({', '.join(properties if isinstance(properties, dict) else ())}){about}"


def replaced(turn: Turn, response: str) -> Turn:
    """An assistant turn with this response in its place. Thoughts and calls stay only with the response they led to."""
    if spoken(turn) == response:
        return turn
    return heard(response) if "tool_calls" in turn else Turn(role="assistant", content=response)


def identifying(turn: Turn) -> list[Any]:
    """What of a turn counts in the id of its example."""
    more = {key: value for key, value in turn.items() if key not in ("role", "content", "train")}
    return [turn["role"], turn["content"], *([False] if "train" in turn else []), *([more] if more else [])]
