"""Python text to its syntax tree, from any thread."""

from __future__ import annotations

import ast
import gc
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import selfdistill
from selfdistill.core.syntax import literal, parse, parse_expression

DEEP = "x = " + "[" * 30 + "1" + "]" * 30
LONG = "def f():\n" + "\n".join(f"    assert f([{i}, {i}]) == g(h({i}))" for i in range(60))


@pytest.fixture
def threads_meet():
    """A change of threads in the middle of a tree, as a collection of garbage makes it, many times a second."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)

    def collected(phase, info):
        sum(range(50))

    gc.callbacks.append(collected)
    yield
    gc.callbacks.remove(collected)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


@pytest.mark.heavy
def test_threads_that_parse_do_not_disturb_each_other(threads_meet):
    wanted = {source: ast.dump(ast.Module(parse(source), [])) for source in (DEEP, LONG)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda source: (source, parse(source)), [DEEP, LONG] * 300))
    assert all(ast.dump(ast.Module(body, [])) == wanted[source] for source, body in found[:8])


def test_nothing_else_builds_trees():
    """The lock holds only where all go through it."""
    package = Path(selfdistill.__file__).parent
    builds = re.compile(r"ast\.(parse|literal_eval)\(|ast\.(parse|literal_eval)\b(?!\()|PyCF_ONLY_AST")
    found = {str(p.relative_to(package)) for p in package.rglob("*.py") if builds.search(p.read_text())}
    assert found == {"core/syntax.py"}


def test_what_is_none_is_an_error_as_python_says_it():
    assert literal(" [1, 'a'] ") == [1, "a"] and ast.unparse(parse_expression("1+2")) == "1 + 2"
    for source in ("[1", "a\0b", "[" * 5000):
        with pytest.raises((SyntaxError, ValueError, RecursionError, MemoryError)):
            parse(source)
