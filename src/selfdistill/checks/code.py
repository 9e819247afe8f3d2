"""Python code in a response, judged by running it: HumanEval, the functions of the microworld."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator

from selfdistill.checks.base import Judgement
from selfdistill.checks.sandbox import REQUIRED, run_python
from selfdistill.checks.source import beginning, called_names, defines, fenced, function_in, joined, python_source
from selfdistill.core.records import Example

BODIES = 20
"""Fenced blocks of an answer that are tried as the body of a function."""


def program(response: str, example: Example, called: Collection[str] = ()) -> str | None:
    """What is run for a response, as a module, before the tests; None where there is no code in it. `called` are the
    names that the tests call.

    A row with `code` and `entry_point` (HumanEval) asks to complete that code: an answer that defines the function
    stands behind what comes before it there (imports, helpers), an answer that does not is the function's body.
    """
    code, entry_point = example.meta.get("code"), example.meta.get("entry_point")
    source = python_source(response, {*called, entry_point} if entry_point else called)
    if not code or not entry_point:
        return source
    whole = defines(source, entry_point) if source else None
    completed = None if whole == "function" else _completed(code, entry_point, response)
    # `total = 0` in a body of `total` is no definition of it, but `total = sum` alone is one.
    if completed and (not whole or function_in(completed, entry_point) == "returns"):
        return completed
    if source is None or not whole:
        return source
    before = re.split(rf"(?m)^(?:async\s+)?def\s+{re.escape(entry_point)}\b", code, maxsplit=1)[0]
    return joined([before, source])


def _completed(code: str, entry_point: str, response: str) -> str | None:
    """The code with the response as the body of its function, in the reading that keeps most of the response."""
    code = code if code.endswith("\n") else f"{code}\n"
    last = code.rstrip().rpartition("\n")[2]
    margin = last[: len(last) - len(last.lstrip())] or "    "
    best = ""
    for text in (*fenced(response)[:BODIES], response.replace("\r\n", "\n")):
        for body in dict.fromkeys(_bodies(text.strip("\n"), margin)):
            source = beginning(code + body)
            if source.count("\n") >= max(best.count("\n") + 1, code.count("\n")) and function_in(source, entry_point):
                best = source
    return (python_source(best, [entry_point]) or best) or None


def _bodies(text: str, margin: str) -> Iterator[str]:
    """A function's body with the right margin: it may have one, lack that of its first line, or lack all, and come
    after some words."""
    indented = re.search(r"(?m)^[ \t]+\S", text)
    for body in (text, text[indented.start() :] if indented else text):
        yield body
        yield margin + body.lstrip()
        yield textwrap.indent(textwrap.dedent(body), margin)


def check_python_tests(response: str, reference: str, example: Example, *, without_walls: bool = False) -> Judgement:
    """The response's Python passes the row's `tests` in the sandbox.

    `tests` are statements that raise on a wrong answer. They must run to their last line: code that ends the process
    early fails. `without_walls` runs it also where walls of the sandbox are missing.
    """
    tests = example.meta.get("tests")
    if not tests:
        return Judgement("no_reference", note="the row has no tests")
    try:
        called = called_names(tests)
    except ValueError as error:
        return Judgement("no_reference", None, tests, str(error))
    source = program(response, example, called)
    if source is None:
        return Judgement("no_answer", None, tests)
    ran = run_python(tests, answer=source, names=called, required=() if without_walls else REQUIRED)
    return Judgement("same" if ran.passed else "different", source, tests, None if ran.passed else ran.note)
