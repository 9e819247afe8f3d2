"""Function calls, compared as Python: OpenFunctions and the tools of the microworld."""

from __future__ import annotations

import ast
import re
import threading
from typing import Any

from selfdistill.checks.authors import same_string
from selfdistill.checks.base import Judgement
from selfdistill.records import Example

_PARSER = threading.Lock()
"""CPython 3.11 counts the depth of all threads that parse in one number, and raises SystemError (bpo-106905)."""

_CALL_START = re.compile(r"[A-Za-z_][\w.]*\s*\(")


def find_calls(text: str) -> list[ast.Call]:
    """All outermost calls of named functions that stand in a text, parsed as Python."""
    calls, position = [], 0
    while start := _CALL_START.search(text, position):
        end = _closing(text, start.end())
        position = start.end()
        if end is None:
            continue
        node = _parsed(text[start.start() : end].strip())
        if isinstance(node, ast.Call) and _name(node.func):
            calls.append(node)
            position = end
    return calls


def _parsed(source: str) -> ast.expr | None:
    """The expression; a placeholder such as `token=<session_token>`, which is no Python, is read as its text."""
    for text in (source, re.sub(r"=\s*(<\w+>)", r'="\1"', source)):
        try:
            with _PARSER:
                return ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _with_inner(call: ast.Call) -> list[ast.Call]:
    """The call and the calls in its positional arguments: print(f(1)) also calls f."""
    inner = [a for a in call.args if isinstance(a, ast.Call) and _name(a.func)]
    return [call, *(c for a in inner for c in _with_inner(a))]


def _closing(text: str, position: int) -> int | None:
    """Index after the bracket that closes the one before `position`; quotes are respected."""
    depth, quote = 1, ""
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := _name(node.value)):
        return f"{inner}.{node.attr}"
    return None


def declared_parameters(prompt: str) -> dict[str, list[str]]:
    """Parameter names by function as a prompt declares them.

    Understood are a signature, `Function: f(a, b)`, and a numbered list under "Parameters:" that follows a
    "Function to be used: f" (the form of OpenFunctions).
    """
    found = {}
    for name, inside in re.findall(r"([A-Za-z_][\w.]*)\(([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\)", prompt):
        found[name] = [part.strip() for part in inside.split(",")]
    blocks = re.split(r"(?m)^Function to be used:\s*", prompt)[1:]
    for block in blocks:
        name = block.split("\n", 1)[0].strip()
        found[name] = re.findall(r"(?m)^\s*\d+\.\s*`?([A-Za-z_]\w*)`?", block.partition("Parameters:")[2])
    return found


def _normal(call: ast.Call, parameters: dict[str, list[str]]) -> tuple[Any, ...]:
    """A call as (name, unnamed values, named values): keyword order, quoting and spacing do not matter."""
    name = _name(call.func) or ""
    names = parameters.get(name, [])
    unnamed, named = [], {}
    for index, argument in enumerate(call.args):
        if index < len(names) and not isinstance(argument, ast.Starred):
            named[names[index]] = _value(argument)
        else:
            unnamed.append(_value(argument))
    for keyword in call.keywords:
        named[keyword.arg or "**"] = _value(keyword.value)
    return name, tuple(unnamed), tuple(sorted(named.items()))


def _value(node: ast.expr) -> str:
    try:
        return _shown(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.unparse(node)


def _shown(value: Any) -> str:
    """A literal as text in which equal values look equal and True differs from 1."""
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{_shown(k)}: {_shown(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return repr(value)


def check_function_call(response: str, reference: str, example: Example) -> Judgement:
    """The response calls what the reference calls, with the same arguments; text around the call is allowed.

    Positional arguments are mapped by the parameters that the prompt declares. A function that is named without
    arguments in the text around is no second call. The paper's stricter rule is the metric `paper_string_match`.
    """
    parameters = declared_parameters("\n".join(t["content"] for t in example.prompt))
    wanted = [_normal(c, parameters) for c in find_calls(reference)]
    if not wanted:
        return Judgement("no_reference")
    names = {name for name, _, _ in wanted}
    made = [_normal(c, parameters) for outer in find_calls(response) for c in _with_inner(outer)]
    made = [c for c in made if c[0] in names and (c[1] or c[2] or c in wanted)]
    shown = "; ".join(dict.fromkeys(map(_call_text, made))) or None
    expected = "; ".join(map(_call_text, wanted))
    metrics = {"paper_string_match": float(bool(same_string(response, reference)))}
    if not made:
        return Judgement("no_answer", shown, expected, metrics=metrics)
    return Judgement("same" if set(made) == set(wanted) else "different", shown, expected, metrics=metrics)


def _call_text(call: tuple[Any, ...]) -> str:
    name, unnamed, named = call
    return f"{name}({', '.join([*unnamed, *(f'{k}={v}' for k, v in named)])})"
