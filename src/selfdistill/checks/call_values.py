"""A call and its values, written as text in which equal values look equal and different ones differ."""

from __future__ import annotations

import ast
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfdistill.core.syntax import parse, parse_expression

UNSURE = "\0"
"""Stands in a value that cannot be told: of a name that is assigned several times, or in a loop."""
_NAMES = {"true": True, "false": False, "null": None}  # JSON's, which models write into Python as well
_FACTORS = 64  # 2**64 is worked out, 9**9**9 is not


@dataclass(frozen=True)
class Call:
    """One call. Values are Python source: `'x'` is a text, `x` a name. `named` is in the order of the text.

    `certain`: written in a form that is only used for calls of tools (JSON, tags, a list of calls). `inner` are the
    calls inside its arguments.
    """

    name: str
    unnamed: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    certain: bool = False
    inner: tuple[Call, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join([*self.unnamed, *(f'{k}={v}' for k, v in self.named)])})"

    def everything(self) -> list[Call]:
        """The call and all calls inside it."""
        return [self, *(c for inner in self.inner for c in inner.everything())]


class Assigned(NamedTuple):
    """What a text assigns to a name: the expression, and how it is shown."""

    node: ast.expr
    text: str


def parsed(source: str) -> ast.expr | None:
    """A Python expression; None for what is none."""
    try:
        return parse_expression(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def parsed_parameters(source: str) -> dict[str, str] | None:
    """The parameters of a signature, `a: str, b=1`, and their types as JSON schema names them ("" where it has no name
    for it); None for what is no signature, such as the arguments of a call."""
    try:
        (function,) = parse(f"def _({source}): 0")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    assert isinstance(function, ast.FunctionDef)
    listed = [*function.args.posonlyargs, *function.args.args]
    if listed and len(function.args.defaults) == len(listed) and not any(a.annotation for a in listed):
        return None  # f(a=1, b=2): a call
    notes = {a.arg: a.annotation.id if isinstance(a.annotation, ast.Name) else "" for a in listed if a.arg != "self"}
    return {name: "string" if note == "str" else note for name, note in notes.items()}


def called_name(node: ast.expr) -> str | None:
    """`a.b.c` of a name or a chain of attributes of a name; None for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def shown(value: Any) -> str:
    """A value of JSON: 1 is 1.0, true is not 1, the order of keys does not matter, that of lists does."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{shown(k)}: {shown(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    return repr(value)


def shown_node(node: ast.expr, assigned: Mapping[str, Assigned]) -> str:
    """A Python expression, as `shown` where it is a literal. Names are replaced by what the text assigned to them.

    Products and powers of numbers are worked out (60*60). Differences and quotients are not: 2024-1-5 is a date.
    """
    if isinstance(node, ast.Name) and node.id in assigned:
        return assigned[node.id].text
    if isinstance(node, (ast.List, ast.Tuple)):
        return "[" + ", ".join(shown_node(e, assigned) for e in node.elts) + "]"
    if isinstance(node, ast.Set):
        return "{" + ", ".join(sorted({shown_node(e, assigned) for e in node.elts})) + "}"
    if isinstance(node, ast.Dict):
        keys = ["**" if key is None else f"{shown_node(key, assigned)}: " for key in node.keys]
        values = [shown_node(value, assigned) for value in node.values]
        return "{" + ", ".join(sorted(map("".join, zip(keys, values, strict=True)))) + "}"
    if isinstance(node, ast.Call) and (call := call_of(node, assigned)):
        ordered = Call(call.name, call.unnamed, tuple(sorted(call.named)))
        return str(ordered)
    constant = _constant(node)
    return ast.unparse(node) if constant is None else shown(constant.value)


def _constant(node: ast.expr) -> ast.Constant | None:
    if isinstance(node, ast.Constant):
        return node
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return ast.Constant(_NAMES[node.id])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _number(node.operand)
        return None if value is None else ast.Constant(-value if isinstance(node.op, ast.USub) else value)
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Mult):
            return ast.Constant(left * right)
        if isinstance(node.op, ast.Pow) and isinstance(right, int) and 0 <= right <= _FACTORS and abs(left) < 2**64:
            return ast.Constant(left**right)
    return None


def _number(node: ast.expr) -> int | float | None:
    constant = _constant(node)
    value = None if constant is None else constant.value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


Part = tuple[str | None, ast.expr | str]
"""One argument: its name, "*", "**" or None where it has none; its value, or the value as text in Python."""


def call_of(node: ast.Call, assigned: Mapping[str, Assigned]) -> Call | None:
    """The call of a named function that a node is; None for other calls, and where an argument is given twice.

    A call inside calls is asked for by each of them, twice; the node keeps the answer, else the work doubles a level.
    """
    kept: tuple[Mapping[str, Assigned], Call | None] | None = getattr(node, "kept", None)
    if kept and kept[0] is assigned:
        return kept[1]
    name = called_name(node.func)
    parts: list[Part] = [("*", a.value) if isinstance(a, ast.Starred) else (None, a) for a in node.args]
    parts += [(k.arg or "**", k.value) for k in node.keywords]
    call = None if name is None else call_from(name, parts, assigned)
    node.kept = (assigned, call)  # type: ignore[attr-defined]
    return call


def call_from(name: str, parts: list[Part], assigned: Mapping[str, Assigned]) -> Call | None:
    """A call from its arguments: *[1, 2] and **{"a": 1} are unpacked. None where an argument is given twice."""
    unnamed: list[str] = []
    named: list[tuple[str, str]] = []
    inner: list[Call] = []
    for key, value in parts:
        if isinstance(value, str):
            named.append((key or "", value))
            continue
        inner += inner_calls(value, assigned)
        if isinstance(value, ast.Name) and key in ("*", "**") and value.id in assigned:
            value = assigned[value.id].node
        if key == "*" and isinstance(value, (ast.List, ast.Tuple)):
            unnamed += [shown_node(e, assigned) for e in value.elts]
        elif key == "**" and (pairs := _text_keys(value)) is not None:
            named += [(k, shown_node(v, assigned)) for k, v in pairs]
        elif key in ("*", "**"):
            unnamed.append(key + shown_node(value, assigned))
        elif key is None:
            unnamed.append(shown_node(value, assigned))
        else:
            named.append((key, shown_node(value, assigned)))
    if len({k for k, _ in named}) < len(named):
        return None
    return Call(name, tuple(unnamed), tuple(named), inner=tuple(inner))


def _text_keys(node: ast.expr) -> list[tuple[str, ast.expr]] | None:
    """Keys and values of a dict whose keys are all texts; None for anything else."""
    if not isinstance(node, ast.Dict):
        return None
    keys = [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return list(zip(keys, node.values, strict=True)) if len(keys) == len(node.keys) else None


def inner_calls(node: ast.expr, assigned: Mapping[str, Assigned]) -> list[Call]:
    """The outermost calls of named functions inside an expression, wherever they stand in it."""
    waiting: list[ast.AST] = [node]
    found = []
    while waiting:
        at = waiting.pop()
        call = call_of(at, assigned) if isinstance(at, ast.Call) else None
        if call:
            found.append(call)
        else:
            waiting += reversed(list(ast.iter_child_nodes(at)))
    return found


def from_json(text: str) -> Any:
    """The value of a JSON text, or of the Python literal that means the same. Raises ValueError for anything else, and
    for an object that has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        node = parsed(text.strip())
        if node is None:
            raise ValueError("neither JSON nor Python") from None
        return _literal(node)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _literal(node: ast.expr) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(e) for e in node.elts]
    if (pairs := _text_keys(node)) is not None:
        return _object([(key, _literal(value)) for key, value in pairs])
    constant = _constant(node)
    if constant is None:
        raise ValueError("no literal")
    return constant.value
