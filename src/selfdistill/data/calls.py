"""Tools in datasets: the tools that a row declares, the calls in its messages, and Glaive's texts.

In:  a `tools` column (a list, or the text of one), messages with calls in OpenAI's or ShareGPT's form, Glaive's chats.
Out: tools as {type: function, function: {...}}, calls with arguments as objects. Raises UserError for what cannot be
     read as such.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from selfdistill.core.errors import UserError
from selfdistill.core.syntax import literal
from selfdistill.core.turns import ToolCall, Turn

Tool = dict[str, Any]

_HEADING = re.compile(r"(?:^|\n)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):[ \t]?")
_ROLES = {"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_ACCESS = re.compile(r"\s*(.*?),? with access to the following functions\. Use them if required -\s*(?=\{)", re.S)
_QUOTED = re.compile(r"""\{\s*"name":\s*"([^"]+)",\s*"arguments":\s*'(.*)'\s*\}""", re.S)
_NULL = "have null in their tools or arguments where no value belongs, as tables fill them in; it is left out"


def data_of(value: Any) -> Any:
    """What a text spells, as JSON or as Python prints it; anything else as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        try:
            return literal(value)
        except (SyntaxError, RecursionError, MemoryError):
            raise ValueError("neither JSON nor Python") from None


def tools_of(value: Any, where: str, note: Callable[[str], None]) -> tuple[Tool, ...]:
    """The tools of a column: a list of them, one alone, or the text of either."""
    try:
        found = data_of(value)
    except ValueError:
        raise UserError(f"{where}: the tools are a text that is no JSON. Expected a list of JSON schemas.") from None
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, (list, tuple)):
        raise UserError(f"{where}: the tools are {type(found).__name__}, expected a list of JSON schemas.")
    return tuple(_tool(tool, number, where, note, exact=isinstance(value, str)) for number, tool in enumerate(found, 1))


def _tool(tool: Any, number: int, where: str, note: Callable[[str], None], exact: bool) -> Tool:
    try:
        tool = data_of(tool)
    except ValueError:
        tool = None
    function = tool.get("function") or tool if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UserError(
            f"{where}: tool {number} has no name. Expected {{name, description, parameters}}, a JSON schema."
        )
    if "function" in tool and tool.get("type") not in ("function", None):
        raise UserError(f"{where}: tool {number} is of the type {tool['type']!r}, and only functions can be called.")
    if function is tool:
        function = {key: value for key, value in tool.items() if key != "type" or value != "function"}
    if not exact and (clean := _without_nulls(function)) != function:
        note(_NULL)
        function = clean
    return {"type": "function", "function": function}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def calls_of(value: Any, what: str) -> list[ToolCall]:
    """Calls in any of their forms: one or a list of {id, type, function: {name, arguments}} or {name, arguments}, or
    the text of either."""
    try:
        found = data_of(value)
    except ValueError:
        raise UserError(f"{what} calls a tool in a text that is no JSON. Expected {{name, arguments}}.") from None
    return [_call(call, what) for call in (found if isinstance(found, list) else [found])]


def _call(call: Any, what: str) -> ToolCall:
    function = call.get("function") or call if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise UserError(f"{what} has a call without a name. Expected {{name, arguments}}.")
    given = function.get("arguments", function.get("parameters"))
    try:
        arguments = data_of(given) if given not in (None, "") else {}
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise UserError(f"{what}: the arguments of the call of {name} are no JSON object.")
    made = ToolCall(name=name, arguments=arguments)
    if isinstance(id := call.get("id"), str) and id:
        made["id"] = id
    return made


def without_filled_nulls(turns: Sequence[Turn], tools: Sequence[Tool], note: Callable[[str], None]) -> None:
    """Take out of the calls what a table has filled in: null for an argument that its tool does not know, or that need
    not be there and cannot be null."""
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    for call in (call for turn in turns for call in turn.get("tool_calls", ())):
        filled = [
            key
            for key, value in call["arguments"].items()
            if value is None and _never_null(schemas.get(call["name"]), key)
        ]
        for key in filled:
            del call["arguments"][key]
            note(_NULL)


def _never_null(schema: Mapping[str, Any] | None, key: str) -> bool:
    if schema is None or not isinstance(properties := schema.get("properties"), dict):
        return False
    if key not in properties:
        return True
    kind = properties[key].get("type") if isinstance(properties[key], dict) else None
    return key not in (schema.get("required") or ()) and isinstance(kind, str) and kind != "null"


# --- Glaive ------------------------------------------------------------------------------------------------------


def is_glaive(value: Any) -> bool:
    """Whether a value is a chat as Glaive writes it: a text with USER: and ASSISTANT: in it."""
    return isinstance(value, str) and "ASSISTANT:" in value and bool(_HEADING.match(value.lstrip()))


def glaive_messages(text: str, what: str) -> list[dict[str, Any]]:
    """The messages of a chat in Glaive's form."""
    _, *parts = _HEADING.split(text.strip())
    return [_glaive(_ROLES[parts[i]], parts[i + 1], what) for i in range(0, len(parts), 2)]


def _glaive(role: str, text: str, what: str) -> dict[str, Any]:
    content = text.strip().removesuffix("<|endoftext|>").strip()
    before, calls, after = content.partition("<functioncall>")
    if role != "assistant" or not calls:
        return {"role": role, "content": content}
    after = after.strip()
    if quoted := _QUOTED.fullmatch(after):  # arguments as JSON in a text, in quotation marks of Python
        after = json.dumps({"name": quoted[1], "arguments": quoted[2].replace("\\'", "'")})
    return {"role": role, "content": before.strip(), "tool_calls": calls_of(after, what)}


def tools_in_system(text: str) -> tuple[str, list[Any]] | None:
    """(the system's text, tools) of a system turn that lists them as Glaive does; None for any other."""
    text = text.strip().removeprefix("SYSTEM:")
    if not (opening := _ACCESS.match(text)):
        return None
    try:
        tools = list(_objects(text[opening.end() :]))
    except ValueError:
        return None
    return f"{opening[1].strip()}.", tools


def _objects(text: str) -> Iterator[Any]:
    """JSON objects one behind the other. Raises ValueError for anything else."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        yield value
