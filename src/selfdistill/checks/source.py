"""The Python of a chat answer: its blocks, and of these what the tests call.

In:  an answer, and the names that are called.
Out: source text that defines them, to be run as a module.

Blocks are fenced ones that are named Python or not at all; where these do not define what is called, runs of lines that
are Python, wherever they stand. Of the blocks, each name's last definition is taken, with all that stands before it in
its block, and what that needs from other blocks. What comes after it is usage, and is left out: it may read input, run
for ever, or raise.
"""

from __future__ import annotations

import ast
import builtins
import codeop
import html
import re
import symtable
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from markdown_it import MarkdownIt

from selfdistill.core.syntax import parse

ANSWER = "<answer>"
warnings.filterwarnings("ignore", module=ANSWER)  # what Python says of a model's style is not for our users

EFFORT = 200_000
"""Characters that are parsed in search of code among prose; only texts made to take long need more."""

BUILTINS = frozenset(dir(builtins))
_BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)
_MARKDOWN = MarkdownIt("zero").enable(["fence", "code", "blockquote", "list"]).disable("inline")
_PYTHON = re.compile(r"\s*(?:\{[\w-]+\}\s*)?[{.\s]*i?py", re.IGNORECASE)
_ODD = str.maketrans("\u00a0\u2007\u202f\u3000", "    ", "\u200b\u200c\u200d\u2060\ufeff")
_MARKUP = re.compile(
    r"`+[ \t]*(?:i?py[\w.]*[ \t]+)?|</?(?:pre|code|br)\b[^<>]{0,200}>|<\|\w{1,40}\|>|\[/?PYTHON\]|^[ \t]*(?:>[ \t]?)+",
    re.MULTILINE,
)
_START = re.compile(r"[ \t]*(?:@\w|(?:async|def|class|import|from|if|for|while|with|try)\b|[\w.]+\(|\w[^=\n]{0,200}=)")
_CLAUSE = re.compile(r"[ \t]*(?:(?:else|elif|except|finally)\b|[)\]}])")


@dataclass(frozen=True)
class Block:
    """Python that stands together in an answer."""

    source: str
    body: list[ast.stmt]

    @cached_property
    def lines(self) -> list[str]:
        """The source by lines, as Python counts them."""
        return self.source.split("\n")

    def until(self, statement: int, after: int = -1) -> str:
        """The source to the end of a statement of the body, whole or from the line after another one's end."""
        start = 0 if after < 0 else self.body[after].end_lineno
        return "\n".join(self.lines[start : self.body[statement].end_lineno])

    @cached_property
    def names(self) -> list[tuple[dict[str, int], set[str]]]:
        """`_names` of each statement."""
        return [_names(statement) for statement in self.body]


def python_source(text: str, called: Collection[str] = ()) -> str | None:
    """The answer's Python, or None where there is none. Where nothing defines what is called, or nothing is said to be
    called, all definitions."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    best, most, other = None, 0, None
    for blocks in _forms(text):
        source, defined = _needed(blocks, called)
        if defined > most:
            best, most = source, defined
        defining = [block.source for block in blocks if any(names for names, _ in block.names)]
        other = other or (joined(defining) if defining else None)
        if most == len(set(called)) and (best or other):
            break
    broken = next((token.content for token in _fences(text) if _PYTHON.match(token.info)), None)
    return best or other or broken


def joined(sources: Iterable[str]) -> str:
    """One module of several sources: imports from `__future__` come first."""
    future, rest = [], []
    for source in sources:
        block = _parsed(source)
        for node in block.body if block else []:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                line = ast.unparse(node)
                future.append(line)
                source = source.replace(ast.get_source_segment(source, node) or line, "pass", 1)
        rest.append(source)
    return "\n".join([*dict.fromkeys(future), "\n\n".join(rest)]).strip("\n")


def defines(source: str, name: str) -> Literal["function", "value"] | None:
    """How Python source gives a name a value of its own, at its top level."""
    block = _parsed(source)
    found = [node for node in (block.body if block else []) if _names(node)[0].get(name, 0) > _IMPORT]
    if not found:
        return None
    return "function" if isinstance(found[-1], ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else "value"


def fenced(text: str) -> list[str]:
    """What stands in the fenced blocks that are named Python, or not at all."""
    return [token.content for token in _fences(text) if not token.info.strip() or _PYTHON.match(token.info)]


def beginning(source: str) -> str:
    """The longest beginning of source that is Python; nothing, where that is not found in a few tries."""
    for _ in range(5):
        try:
            compile(source, ANSWER, "exec", dont_inherit=True)
        except SyntaxError as error:
            source = "\n".join(source.split("\n")[: (error.lineno or 1) - 1])
        except _BROKEN:
            return ""
        else:
            return source
    return ""


def function_in(source: str, name: str) -> Literal["returns", "acts"] | None:
    """What a function of that name in source does; None where there is none, or no more of it than a docstring."""
    block = _parsed(source)
    for node in ast.walk(ast.Module(block.body if block else [], [])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name and not _is_stub(node):
            return "returns" if any(isinstance(n, ast.Return | ast.Yield) for n in ast.walk(node)) else "acts"
    return None


def called_names(tests: str) -> frozenset[str]:
    """The names that tests take from an answer. A built-in name is one of them only where there is no other: then the
    answer is to define its own. Raises ValueError, with the reason, for tests that no answer can fail or pass."""
    block = _parsed(tests)
    if block is None or block.source != tests:
        raise ValueError("the row's tests are no Python")
    if all(isinstance(node, _SILENT) or _is_note(node) for node in block.body):
        raise ValueError("the row's tests define but test nothing; they must end with a call, such as check(f)")
    own = {name for found, _ in block.names for name in found}
    of_answer = {
        alias.name
        for node in ast.walk(ast.Module(block.body, []))
        if isinstance(node, ast.ImportFrom) and node.module == "solution"
        for alias in node.names
    }
    names = (_globals(tests) - own) | (of_answer - {"*"})
    return frozenset(names - BUILTINS or names)


# --- what the answer is made of ----------------------------------------------------------------------------------


def _forms(text: str) -> Iterator[list[Block]]:
    """The answer's blocks, by ever less strict readings."""
    wholes = [(content, _parsed(content)) for content in fenced(text)]
    yield [block for content, whole in wholes for block in ([whole] if whole else _runs(content))]
    yield _runs(text)
    yield _runs(html.unescape(_MARKUP.sub("\n", text)))
    yield _runs(_typed_in(text))
    yield _runs(text, cut=True)


@lru_cache(8)
def _fences(text: str) -> list[Any]:
    return [token for token in _MARKDOWN.parse(text) if token.type == "fence"]


def _parsed(text: str) -> Block | None:
    """The text as Python, without its margin and, where that helps, without the odd spaces of chat windows."""
    for form in dict.fromkeys((text, textwrap.dedent(text), textwrap.dedent(text.translate(_ODD)))):
        try:
            compile(form, ANSWER, "exec", dont_inherit=True)  # some errors only the compiler finds: a return outside
            return Block(form, parse(form, ANSWER))
        except _BROKEN:
            continue
    return None


def _typed_in(text: str) -> str:
    """What was typed at Python's prompt in the text."""
    if ">>>" not in text:
        return ""
    import doctest

    try:
        return "".join(example.source for example in doctest.DocTestParser().get_examples(text))
    except ValueError:
        return ""


def _runs(text: str, cut: bool = False) -> list[Block]:
    """Runs of lines that are statements which may matter; other lines part them. `cut`: a statement may end before the
    first line that is no Python."""
    lines = text.translate(_ODD).split("\n")
    effort = EFFORT
    runs: list[list[str]] = []
    at, end, margin = 0, -1, -1
    while at < len(lines) and effort > 0:
        if not _START.match(lines[at]):
            at += 1
            continue
        piece, stop, spent = _statement(lines, at, cut, effort)
        effort -= spent
        if piece is None:
            at += 1
            continue
        if not runs or margin != _margin(lines[at]) or any(_says(line) for line in lines[end:at]):
            runs.append([])
        runs[-1].append(piece)
        margin = _margin(lines[at])
        at = end = stop
    return [block for run in runs if (block := _parsed("\n".join(run)))]


def _statement(lines: list[str], at: int, cut: bool, effort: int) -> tuple[str | None, int, int]:
    """The statement that begins in a line, or None; the line after it; how many characters were parsed."""
    margin, spent = _margin(lines[at]), 0
    stop = _end(lines, at + 1, margin)
    shortened = False
    while spent < effort:
        piece = "\n".join(lines[at:stop])
        spent += 200 + len(piece)  # what a parse costs at least is that of a few lines
        source = textwrap.dedent(piece)
        try:
            (node, *_) = parse(source, ANSWER)
            return (piece if _matters(node) else None), stop, spent
        except SyntaxError as error:
            if not shortened and stop < len(lines) and _is_begun(source):
                stop = _end(lines, stop + 1, margin)  # such as a text in triple quotes that goes on at the margin
            elif cut and error.lineno and 1 < error.lineno <= stop - at:
                stop, shortened = at + error.lineno - 1, True
            else:
                break
        except _BROKEN:
            break
    return None, at + 1, spent


def _margin(line: str) -> int:
    expanded = line.expandtabs()
    return len(expanded) - len(expanded.lstrip())


def _says(line: str) -> bool:
    """Whether a line is more than white space and a comment."""
    return not line.strip().startswith("#") if line.strip() else False


def _end(lines: list[str], stop: int, margin: int) -> int:
    """The line after those from `stop` on that belong to a statement with that margin."""
    first = stop
    while stop < len(lines):
        line = lines[stop]
        if _says(line) and _margin(line) <= margin and not (_margin(line) == margin and _CLAUSE.match(line)):
            break
        stop += 1
    while stop > first and not _says(lines[stop - 1]):
        stop -= 1
    return stop


def _is_begun(source: str) -> bool:
    """Whether more lines could make Python of it."""
    try:
        return codeop.compile_command(source, ANSWER, "exec") is None
    except (*_BROKEN, OverflowError):
        return False


def _matters(node: ast.stmt) -> bool:
    """Whether a statement among prose is code: no word alone, no `Note: this`, no call of a function."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    return not isinstance(node, ast.AnnAssign) or node.value is not None


# --- what of it is needed ----------------------------------------------------------------------------------------

_IMPORT, _STUB, _OWN = 1, 2, 3
_SILENT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.Pass)


def _needed(blocks: list[Block], called: Collection[str]) -> tuple[str | None, int]:
    """The source of what is called and of all that it needs, and how many of the called names it defines."""
    places: dict[str, tuple[int, int, int]] = {}  # how a name gets its value (the more the better); block, statement
    for number, block in enumerate(blocks):
        for index, (found, _) in enumerate(block.names):
            for name, how in found.items():
                places[name] = max(places.get(name, (0, 0, 0)), (how, number, index))
    stars = [s for b in blocks for s in b.body if isinstance(s, ast.ImportFrom) and s.names[0].name == "*"]
    ends: dict[int, int] = {}
    imports: list[ast.stmt] = []
    todo, seen = list(called), set(called)
    while todo:
        name = todo.pop()
        how, number, index = places.get(name, (0, 0, 0))
        if how <= _IMPORT:
            imports += [blocks[number].body[index]] if how else stars if name not in BUILTINS else []
            continue
        block = blocks[number]
        index = max([index, *(i for i, (_, changed) in enumerate(block.names) if name in changed)])
        if index > (end := ends.get(number, -1)):
            ends[number] = index
            new = _globals(block.until(index, end)) - seen
            todo += new
            seen |= new
    defined = sum(name in places for name in set(called))
    if not defined:
        return None, 0
    first = [ast.unparse(statement) for statement in dict.fromkeys(imports)]
    return joined([*first, *(blocks[number].until(index) for number, index in sorted(ends.items()))]), defined


def _globals(source: str) -> set[str]:
    """The names that source reads at its top level, at once or when its functions are called."""
    names, tables = set(), [symtable.symtable(source, ANSWER, "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return names


def _names(statement: ast.stmt) -> tuple[dict[str, int], set[str]]:
    """The names that a statement defines, and how; and those whose values it changes, as in `table[0] = 1`."""
    defined: dict[str, int] = {}
    changed: set[str] = set()
    nodes: list[ast.AST] = [statement]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = _STUB if _is_stub(node) else _OWN
            continue
        if isinstance(node, ast.Lambda):
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.alias):
            defined[node.asname or node.name.partition(".")[0]] = _IMPORT
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            if node.id not in BUILTINS:  # `list = [2, 1]` is usage
                defined[node.id] = _OWN
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed.add(_root(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            changed.add(_root(node.value.func))
    return defined, changed


def _root(node: ast.AST) -> str:
    """The name at the root of `a.b[0].c`; nothing for a name alone."""
    inner = node
    while isinstance(inner, ast.Attribute | ast.Subscript):
        inner = inner.value
    return inner.id if isinstance(inner, ast.Name) and inner is not node else ""


def _is_stub(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether nothing but a docstring, `pass` or `...` stands in it."""
    return all(isinstance(inner, ast.Pass) or _is_note(inner) for inner in node.body)


def _is_note(node: ast.stmt) -> bool:
    """Whether a statement is a docstring or the like."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
