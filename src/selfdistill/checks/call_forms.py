"""The forms in which chat templates write calls of tools: JSON of several shapes, and tags around names and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from selfdistill.checks.call_values import Call, from_json, shown

_NAME = r"([A-Za-z_][\w.-]*+)"
_FENCE = r"(?:```(?:json)?\s*+)?+"
JSON_HEADER = re.compile(
    "|".join(
        form.replace("NAME", _NAME).replace("FENCE", _FENCE)
        for form in (
            r"\[TOOL_CALLS\]\s*+NAME(?:\[CALL_ID\]\w*+)?+(?:\[ARGS\])?+\s*+(?=\{)",  # Mistral
            r"<[|｜]tool[▁_]call[▁_]begin[|｜]>\s*+(?:function<[|｜]tool[▁_]sep[|｜]>)?+(?:functions\.)?+NAME(?::\d++)?+\s*+"
            r"<[|｜]tool[▁_](?:sep|call[▁_]argument[▁_]begin)[|｜]>\s*+FENCE(?=\{)",  # DeepSeek
            r"<[|｜]tool[▁_]call[▁_]begin[|｜]>function<[|｜]tool[▁_]sep[|｜]>NAME\s*+FENCE(?=\{)",  # DeepSeek V3, R1
            r"\bto=(?:functions\.)?+NAME(?:\s++|<\|\w++\|>|\w++)*+(?=\{)",  # harmony: gpt-oss
            r"<function=NAME>\s*+(?=\{)",  # Llama 3.1
            r"<tool_call>\s*+NAME\s*+FENCE(?=\{)",  # Hunyuan
            r">>>\s*+NAME[ \t]*+\n\s*+(?=\{)",  # Functionary
            r"\bAction:\s*+NAME\s++Action Input:\s*+(?=\{)",  # ReAct
        )
    )
)
TAGS_HEADER = re.compile(
    rf"<function={_NAME}>\s*+"  # Qwen3-Coder, Nemotron
    rf"|<(?:[^\s<>=\"]{{1,12}})?invoke name=\"{_NAME}\">\s*+"  # MiniMax, ATEM, DeepSeek V3.2
    rf"|<tool_call>\s*+{_NAME}\s*+(?=<arg_key>|</tool_call>)"  # GLM
)
_TAGS_VALUE = re.compile(
    r"<parameter=(?P<k1>[^>\n]++)>(?P<v1>.*?)</parameter>\s*+"
    r"|<(?:[^\s<>=\"]{1,12})?parameter name=\"(?P<k2>[^\"\n]++)\"(?P<text> string=\"true\")?[^>]*+>(?P<v2>.*?)"
    r"</(?:[^\s<>=\"]{1,12})?parameter>\s*+"
    r"|<arg_key>(?P<k3>[^<]++)</arg_key>\s*+<arg_value>(?P<v3>.*?)</arg_value>\s*+",
    re.DOTALL,
)
_TAGS_END = re.compile(r"</(?:[^\s<>=\"]{1,12})?(?:function|invoke|tool_call)>")
GEMMA_HEADER = re.compile(rf"<(?:\|tool_call|start_function_call)>call:{_NAME}(?=\{{)")
_GEMMA_END = re.compile(r"<(?:tool_call\||end_function_call)>")
_GEMMA_PART = re.compile(
    r"<\|\"\|>(.*?)<\|\"\|>|<escape>(.*?)<escape>|\"(?:[^\"\\]++|\\.)*+\"|([\w.$-]++)(?=\s*+:)|\b(?:None|True|False)\b",
    re.DOTALL,
)
_GEMMA_WORDS = {"None": "null", "True": "true", "False": "false"}

_NAME_KEYS = ("name", "function", "tool", "tool_name", "function_name", "recipient_name", "action")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "action_input")
LOOKS_LIKE_JSON_CALL = re.compile(
    r"\{\s*+[\"'“](?:name|function|tool_name|arguments|parameters|tool_calls|function_call)[\"'”]\s*+:"
)


class Broken(ValueError):
    """A text begins a call in one of these forms, and cannot be read: then nothing is known of its calls."""


def json_calls(value: Any) -> Iterator[Call]:
    """All calls that a value of JSON holds, however deep: messages, lists, `tool_calls`. Raises Broken."""
    if isinstance(value, list):
        for item in value:
            found = list(json_calls(item))
            if not found and isinstance(item, dict) and len(item) == 1:
                ((name, arguments),) = item.items()
                if isinstance(arguments, dict):  # [{"f": {"a": 1}}], or a list of other objects
                    found = [Call(name, named=_named(arguments))]
            yield from found
    elif isinstance(value, dict):
        name = next((value[k] for k in _NAME_KEYS if isinstance(value.get(k), str)), None)
        key = next((k for k in _ARGUMENT_KEYS if k in value), None)
        if name is None or key is None:
            for item in value.values():
                yield from json_calls(item)
        elif not is_declaration(value) and (key in _ARGUMENT_KEYS[:2] or not isinstance(value[key], str)):
            yield json_call(name, value[key])


def is_declaration(value: Mapping[str, Any]) -> bool:
    """The description of a tool by a JSON schema, no call."""
    schema = value.get("parameters", value.get("input_schema"))
    return isinstance(schema, dict) and isinstance(schema.get("properties"), dict) and "type" in schema


def json_call(name: str, arguments: Any) -> Call:
    """A call with arguments as an object, as a list, or as JSON text of one. Raises Broken."""
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments or "{}")
        except ValueError:
            raise Broken(name) from None
    if arguments is None:
        return Call(name, certain=True)
    if isinstance(arguments, dict):
        return Call(name, named=_named(arguments), certain=True)
    if isinstance(arguments, list):
        return Call(name, tuple(map(shown, arguments)), certain=True)
    raise Broken(name)


def _named(arguments: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, shown(value)) for key, value in arguments.items())


def tags_call(text: str, header: re.Match[str], types: Mapping[str, Mapping[str, str]]) -> tuple[Call, int]:
    """The call whose values stand in tags, and where it ends. Raises Broken.

    This form does not tell "5" from 5: where the prompt's schema does not say "string", what reads as JSON is JSON.
    """
    name = next(filter(None, header.groups()))
    named, position = [], header.end()
    while match := _TAGS_VALUE.match(text, position):
        key = next(k for k in (match["k1"], match["k2"], match["k3"]) if k is not None).strip()
        value = next(v for v in (match["v1"], match["v2"], match["v3"]) if v is not None).strip()
        is_text = match["text"] or types.get(name, {}).get(key) == "string"
        named.append((key, shown(value if is_text else _json_or_text(value))))
        position = match.end()
    end = _TAGS_END.match(text, position)
    if end is None or len({k for k, _ in named}) < len(named):
        raise Broken(name)
    return Call(name, named=tuple(named), certain=True), end.end()


def _json_or_text(value: str) -> Any:
    try:
        return from_json(value)
    except ValueError:
        return value


def gemma_call(text: str, header: re.Match[str]) -> tuple[Call, int]:
    """The call in Gemma's form, `call:f{a:<|"|>text<|"|>,b:[1,null]}`, and where it ends. Raises Broken."""
    end = _GEMMA_END.search(text, header.end())
    if end is None:
        raise Broken(header[1])

    def as_json(part: re.Match[str]) -> str:
        inside = next((p for p in part.groups() if p is not None), None)
        return _GEMMA_WORDS.get(part[0], part[0]) if inside is None else json.dumps(inside)

    return json_call(header[1], _GEMMA_PART.sub(as_json, text[header.end() : end.start()])), end.end()
