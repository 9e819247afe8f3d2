"""Turns with tools, as a chat template takes them and as it writes them.

In:  turns of an example, a function that renders messages by the model's own template.
Out: messages for it; what it can write; whether a text has its calls as it writes them.

Templates differ: most want the arguments of a call as an object, some as JSON text; some want ids of nine letters and
digits; some drop tools or calls without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfdistill.core.turns import ToolCall, Turn
from selfdistill.models.thoughts import answer_of

Render = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str]
"""(messages, tools) -> text, by the chat template; raises whatever the template raises."""

_PROBE = "selfdistill_probe"
_CALL = ToolCall(name=_PROBE, arguments={"probe_key": "probe_value"})
_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "x",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string", "description": "x"}}},
    },
}
PROBE = [Turn(role="user", content="x"), Turn(role="assistant", content="", tool_calls=[_CALL])]
"""A question, and a turn that calls a tool."""


@dataclass(frozen=True)
class Ability:
    """What a chat template can do: write the tools that are declared, write calls. `text_arguments`: it wants arguments
    as JSON text. `any_ids`: it takes ids of calls as they are; else they are numbered anew."""

    tools: bool = False
    calls: bool = False
    text_arguments: bool = False
    any_ids: bool = True


def ability_of(render: Render) -> Ability:
    """What a template can do, found by rendering a call."""

    def shows(ability: Ability, id: str) -> bool:
        turns = [PROBE[0], Turn(role="assistant", content="", tool_calls=[ToolCall(**{**_CALL, "id": id})])]
        text = _tried(render, messages(turns, ability), [_TOOL]) or ""
        return _PROBE in text.replace(_tried(render, messages(turns[:1], ability), [_TOOL]) or "", "", 1)

    asked = messages(PROBE[:1], Ability())
    plain, with_tools = _tried(render, asked, None), _tried(render, asked, [_TOOL])
    tools = with_tools is not None and with_tools != plain and _PROBE in with_tools
    for as_text in (False, True):
        found = Ability(tools, True, as_text)
        text = _tried(render, messages(PROBE, found), None) or ""
        # A dict that was put into a text shows as Python prints it, a JSON text that was made JSON again is escaped.
        if _PROBE in text and "probe_key" in text and "{'probe_key'" not in text and '\\"probe_key' not in text:
            return found if shows(found, "call_0123456789abcdef") else Ability(tools, True, as_text, any_ids=False)
    return Ability(tools)


def _tried(render: Render, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str | None:
    try:
        return render(messages, tools)
    except Exception:  # a template raises what its author or Python pleases
        return None


def messages(turns: Sequence[Turn], ability: Ability, thought: str | None = None) -> list[dict[str, Any]]:
    """The turns as chat templates and endpoints take them. Every call gets an id, and every result of a tool the name
    and the id of its call, by its own id or by their order. Only the `thought` of the last turn is said."""
    made: list[dict[str, Any]] = []
    waiting: list[tuple[str | None, str, str]] = []  # of the last calls: own id, id, name
    count = 0
    for turn in turns:
        message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
        if calls := turn.get("tool_calls"):
            waiting = []
            for call in calls:
                count += 1
                own = call.get("id")
                waiting.append((own, own if own and ability.any_ids else f"call{count:05d}", call["name"]))
            ids = [id for _, id, _ in waiting]
            message["tool_calls"] = [_message(c, id, ability) for c, id in zip(calls, ids, strict=True)]
        elif turn["role"] == "tool":
            own = turn.get("tool_call_id")
            named = [w for w in waiting if own is not None and w[0] == own]
            found = next(iter(named or waiting), None)
            if found:
                waiting.remove(found)
            about = {"tool_call_id": found[1] if found else own, "name": turn.get("name") or (found and found[2])}
            message |= {key: value for key, value in about.items() if value}
        made.append(message)
    if thought is not None:
        made[-1] |= {"reasoning_content": thought, "thinking": thought}  # gpt-oss has the latter name
    return made


def _message(call: ToolCall, id: str, ability: Ability) -> dict[str, Any]:
    arguments: Any = call["arguments"]
    if ability.text_arguments:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "id": id, "function": {"name": call["name"], "arguments": arguments}}


# --- own calls ---------------------------------------------------------------------------------------------------

_TAGS = re.compile(r"(?:\s*(?:<[^<>\n]{1,60}>|\[/?[A-Z_]{2,30}\]))+\s*\Z")
_MARKS = re.compile(r"<\|[^<>|]+\|>(?:assistant|commentary)?|\]~b\]ai")


def in_form(text: str, rendered: str, calls: Sequence[ToolCall]) -> str | None:
    """The words before the calls of a text that has them as its chat template writes them, "" without any; None where
    they stand there in another form, which no server would take for calls.

    `rendered` is what the template writes for the same calls, without the end token: what stands before the first name
    and behind the last value must be in the text.
    """
    rendered, text = answer_of(rendered).strip(), answer_of(text).strip()
    names = "|".join(re.escape(name) for name in sorted({call["name"] for call in calls}, key=len, reverse=True))
    opening = rendered.partition(calls[0]["name"])[0]
    found = re.search(r"\s*".join(map(re.escape, "".join(opening.split()))) + rf"\s*(?:{names})", text)
    tags = _TAGS.search(rendered)
    ending = "".join(tags[0].split()) if tags else rendered[-1:]
    if not found or not "".join(text.split()).endswith(ending):
        return None
    return _MARKS.sub("", text[: found.start()]).strip()
