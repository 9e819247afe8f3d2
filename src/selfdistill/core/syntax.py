"""Python text to its syntax tree, from any thread."""

from __future__ import annotations

import ast
import threading
from typing import Any

_PARSER = threading.Lock()
"""CPython before 3.11.9 counts the depth of all threads that build a tree in one number, and raises SystemError where
they meet (gh-106905). So the tree of every text is built here, one at a time."""


def parse(source: str, filename: str = "<unknown>") -> list[ast.stmt]:
    """The statements of a program. Raises what `ast.parse` raises for what is none: SyntaxError, ValueError,
    RecursionError or MemoryError."""
    with _PARSER:
        return ast.parse(source, filename).body


def parse_expression(source: str) -> ast.expr:
    """One expression. Raises the same errors."""
    with _PARSER:
        return ast.parse(source, mode="eval").body


def literal(source: str) -> Any:
    """The value of a literal, such as a list as Python prints it. Raises the same errors."""
    return ast.literal_eval(parse_expression(source.strip()))
