"""What pydantic finds wrong, in our words: which key, what was given, what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def settings_error(
    error: ValidationError, kind: type[BaseModel], values: Any, where: str, given: Mapping[str, str]
) -> str:
    """One line. `where` names what holds the values; `given` tells of a dotted key what gave it beside them, as
    `--set train.lr`, and then that is named."""
    first, *more = error.errors()
    # Where a key takes a value or a list, each form has its error; that of the list's own item says more.
    item = max([first, *(e for e in more if e["loc"][0] == first["loc"][0])], key=lambda e: len(e["loc"]))
    path = _path(item, values)
    key, dotted = _named(path, values), ".".join(str(x) for x in path)
    own = next((said for name, said in given.items() if dotted == name or dotted.startswith(f"{name}.")), None)
    if item["type"] == "extra_forbidden":
        valid = sorted(_table(kind, path[:-1], values).model_fields)
        near = difflib.get_close_matches(str(path[-1]), valid, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{own or where}: unknown key {key!r}.{hint} Valid here: {', '.join(valid)}."
    if item["type"] == "missing":
        return f"{own or where}: {key!r} is missing. Add it."
    got = "" if item["type"] == "value_error" else f" = {item['input']!r}"
    if own:
        return f"{own}{got}: {wanted(item)}."
    return f"{where}: {key}{got}: {wanted(item)}." if key else f"{where}: {wanted(item)}."


def _path(item: ErrorDetails, values: Any) -> list[str | int]:
    """The keys on the way to the value, without pydantic's names of types."""
    path: list[str | int] = []
    last = len(item["loc"]) - 1
    for number, part in enumerate(item["loc"]):
        there = isinstance(values, Mapping) and part in values
        if isinstance(part, int):
            inside = isinstance(values, list | tuple) and part < len(values)
            path.append(part)
            values = values[part] if inside else None
        elif there or (number == last and item["type"] == "missing"):
            path.append(part)
            values = values[part] if there else None
    return path


def _named(path: list[str | int], values: Any) -> str:
    """The path as people count: `tasks[1] (facts): role` is the first table of tasks, by its own name."""
    text = ""
    for part in path:
        if isinstance(part, int):
            values = values[part] if isinstance(values, list | tuple) and part < len(values) else None
            name = values.get("name", values.get("method")) if isinstance(values, Mapping) else None
            text += f"[{part + 1}]" + (f" ({name})" if isinstance(name, str) else "") * (part != path[-1])
        else:
            text += f"{': ' if text.endswith((')', ']')) else '.'}{part}" if text else part
            values = values.get(part) if isinstance(values, Mapping) else None
    return text


def _table(kind: type[BaseModel], path: list[str | int], values: Any) -> type[BaseModel]:
    """The table at the end of the path; of several that may stand there, the one that the value names."""
    for part in path:
        inside = values.get(part) if isinstance(values, Mapping) else values[part] if isinstance(part, int) else None
        if isinstance(part, str) and part in kind.model_fields:
            tables = _tables(kind.model_fields[part].annotation)
            name = inside.get("name") if isinstance(inside, Mapping) else inside
            named = [t for t in tables if (field := t.model_fields.get("name")) and field.default == name]
            kind = next(iter([*named, *tables]), kind)
        values = inside
    return kind


def _tables(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]


WORDS = {
    "float_": "a number",
    "finite_number": "a finite number",
    "int_": "a whole number",
    "bool_": "true or false",
    "string_pattern_mismatch": "letters, digits, dots, - and _",
    "string_too_short": "text",
    "string_type": "text",
    "too_short": "one value or more",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_": "a table",
}
"""What was expected, by how pydantic's name of the error begins."""


def wanted(item: ErrorDetails) -> str:
    """What was expected of one value."""
    kind, more = item["type"], item.get("ctx", {})
    if kind == "value_error":
        return item["msg"].removeprefix("Value error, ")
    limits = {
        "greater_than_equal": ("ge", "{:g} or more"), "greater_than": ("gt", "more than {:g}"),
        "less_than_equal": ("le", "{:g} or less"), "less_than": ("lt", "less than {:g}"),
    }  # fmt: skip
    if kind in limits:
        name, form = limits[kind]
        return f"expected {form.format(more[name])}"
    if kind in ("literal_error", "union_tag_invalid"):
        return f"expected {more.get('expected') or more['expected_tags']}"
    word = next((word for start, word in WORDS.items() if kind.startswith(start)), None)
    return f"expected {word}" if word else item["msg"].replace("Input should be", "expected")


LIMITS = (
    (r"greater than or equal to (\S+?)(\.?)$", r"expected \1 or more\2"),
    (r"less than or equal to (\S+?)(\.?)$", r"expected \1 or less\2"),
    (r"greater than ", "expected more than "),
    (r"less than ", "expected less than "),
    (r"a valid number, unable to parse string as a number", "expected a number"),
    (r"a valid integer, unable to parse string as an integer", "expected a whole number"),
    ("", "expected "),
)


def plain_limits(text: str) -> str:
    """What the parser of a command line says of a value, in the same words."""
    for said, instead in LIMITS:
        text = re.sub(f"(?i:input should be ){said}", instead, text)
    return text
