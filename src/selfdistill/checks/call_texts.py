"""Calls in texts: in prose, in code, in code fences, and in the forms of chat templates."""

from __future__ import annotations

import ast
import html
import keyword
import re
import unicodedata
from bisect import bisect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from selfdistill.checks.call_forms import (
    GEMMA_HEADER,
    JSON_HEADER,
    LOOKS_LIKE_JSON_CALL,
    TAGS_HEADER,
    Broken,
    gemma_call,
    json_call,
    json_calls,
    tags_call,
)
from selfdistill.checks.call_values import (
    UNSURE,
    Assigned,
    Call,
    Part,
    call_from,
    call_of,
    from_json,
    parsed,
    shown,
    shown_node,
)

Types = Mapping[str, Mapping[str, str]]
"""Function -> parameter -> its type as the prompt declares it, in the declared order; "" where it says none."""

_DEEPEST = 60  # brackets in brackets; CPython's parser takes 200
_SCANNED = 1_000_000, 8  # characters that may be looked at again: so many, and so many times the text's length
_LONGEST_ASSIGNED = 500

_TOKEN = re.compile(
    r"\"\"\"(?:[^\"\\]++|\\.|\"(?!\"\"))*+\"\"\"|'''(?:[^'\\]++|\\.|'(?!''))*+'''"
    r"|\"(?:[^\"\\\n]++|\\.)*+\"|'(?:[^'\\\n]++|\\.)*+'|“[^“”\n]*+”|‘[^‘’\n]*+’"
    r"|(?<![=\w&/])\#[^\n]*+|[()\[\]{}]",
    re.DOTALL,
)
_PYTHON = r"(?<!\w)(?<![\w)\]}\"'`]\.)(?<!\bdef )(?<!\bclass )([^\W\d]\w*+(?:[.-]\w++){0,30}+)\s*+\("
_JSON = re.compile(r"\{(?=\s*+[\"'“])|\[(?=\s*+[\[{])")
_START = re.compile(
    rf"(?P<json_header>{JSON_HEADER.pattern})|(?P<tags>{TAGS_HEADER.pattern})|(?P<gemma>{GEMMA_HEADER.pattern})"
    rf"|(?P<json>{_JSON.pattern})|(?P<list>\[(?=\s*+[^\W\d]))|(?P<python>{_PYTHON})"
)
_FENCE = re.compile(r"(?m)^[ \t>]*+(?:```|~~~)")
_GAP = re.compile(
    r"(?:[\s,;|&()\[\]{}.*`-]|<[^<>\n]*+>|\[/?TOOL_CALLS?\]|(?:[A-Za-z]++ )?\d++[.:)]|to=[\w.-]++"
    r"|(?:and|then|assistant|commentary)\b)*+"
)
_COMMENTED = re.compile(r"[^\n\"'#]*+#")
_ARGUMENT = re.compile(r"\s*+([^\W\d][\w.$-]*+)\s*+=(?!=)\s*+")
_BARE = re.compile(r"[^\s\"'“”‘’(){}\[\],]++|<[^<>]++>")
_TOKEN_OR_COMMA = re.compile(_TOKEN.pattern + "|,", re.DOTALL)
_OPENING = re.compile(r"[(\[{]")
_LISTED = re.compile(r"\s*+" + _PYTHON)
_COMMA = re.compile(r"\s*+(,?)\s*+")
_NAME = re.compile(r"[^\W\d]\w*+")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'"})
_ASSIGNMENT = re.compile(
    r"(?m)(?:^|;)[ \t>]*+([^\W\d]\w*+)[ \t]*+(?::[^=\n;]{0,80})?=(?!=)[ \t]*+([^;\n]*+)"
    r"|\bfor ([^\W\d]\w*+) in ([^:\n]*+)"
)


class Brackets:
    """Where the brackets of a text close; strings and comments are skipped as Python skips them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.known: dict[int, int | None] = {}
        self.left = _SCANNED[0] + _SCANNED[1] * len(text)

    def end(self, opened: int) -> int | None:
        """Index after the bracket that closes the one at `opened`; None where none does, or what is inside is too
        deep to be parsed. Raises Broken for a text in which too much has to be looked at again and again."""
        if opened not in self.known:
            self._scan(opened)
        return self.known[opened]

    def _scan(self, opened: int) -> None:
        stack: list[list[int]] = []  # position, depth of what is inside
        for token in _TOKEN.finditer(self.text, opened):
            if token[0] in ("(", "[", "{"):
                stack.append([token.start(), 0])
            elif token[0] in (")", "]", "}"):
                start, depth = stack.pop()
                self.known[start] = token.end() if depth < _DEEPEST else None
                if not stack:
                    self.left -= token.end() - opened
                    break
                stack[-1][1] = max(stack[-1][1], depth + 1)
        else:
            self.left -= len(self.text) - opened
            self.known.update((start, None) for start, _ in stack)
        if self.left < 0:
            raise Broken("brackets")


def json_values(text: str) -> Iterator[Any]:
    """The objects and lists of JSON that stand in a text, the outermost ones. Raises Broken as `Brackets` does."""
    brackets, position = Brackets(text), 0
    while match := _JSON.search(text, position):
        end = brackets.end(match.start())
        position = match.end()
        with suppress(ValueError):
            yield from_json(text[match.start() : end] if end else "")
            position = end or position


def call_blocks(text: str, types: Types) -> list[list[Call]]:
    """The outermost calls of a text, those that are made together in one block: a code fence, a list, a row of calls
    with no words between them. Raises Broken where a call begins in JSON or tags and cannot be read.

    Takes time in proportion to the text's length.
    """
    text = _as_read(text)
    fences = [m.start() for m in _FENCE.finditer(text)]
    blocks: list[list[Call]] = []
    last_end, last_fence = 0, -1
    for calls, start, end in _Reader(text, types, fences).calls():
        fence = bisect(fences, start)
        inside = fence % 2 == 1 and fence == last_fence
        tagged = calls[0].certain and _GAP.fullmatch(text, last_end, start)
        plain = fence == last_fence and _GAP.fullmatch(text, last_end, start)
        if blocks and (inside or tagged or plain):
            blocks[-1] += calls
        else:
            blocks.append(list(calls))
        last_end, last_fence = end, bisect(fences, end - 1)
    return blocks


def _as_read(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    return html.unescape(text) if "&quot;" in text and '"' not in text else text


class Piece(NamedTuple):
    """Calls that a text makes in one piece, and where that stands. `form` is how they are written: python, list, json,
    json_header, tags or gemma. `whole`: no value of theirs is assigned elsewhere in the text."""

    calls: list[Call]
    start: int
    end: int
    form: str
    whole: bool


def call_pieces(text: str, types: Types) -> list[Piece]:
    """The outermost calls of a text with their places; none for a text that is read in another form than it has. Raises
    Broken as `call_blocks` does."""
    if _as_read(text) != text:
        return []
    reader = _Reader(text, types, [m.start() for m in _FENCE.finditer(text)])
    pieces = []
    for calls, start, end in reader.calls():
        begins = _START.match(text, start)
        assert begins and begins.lastgroup
        whole = not any(name in reader.assigned for name in _NAME.findall(text, start, end))
        pieces.append(Piece(calls, start, end, begins.lastgroup, whole))
    return pieces


class _Reader:
    """Reads a text from left to right."""

    def __init__(self, text: str, types: Types, fences: list[int]) -> None:
        self.text, self.types, self.fences = text, types, fences
        self.brackets = Brackets(text)
        self.assigned: dict[str, Assigned] = {}

    def calls(self) -> Iterator[tuple[list[Call], int, int]]:
        """(calls, start, end) of what is made in one piece, in the order of the text."""
        spans = list(self._pieces())
        self.assigned = _assigned(self.text, [(start, end) for _, start, end in spans], self.brackets)
        return self._pieces() if self.assigned else iter(spans)

    def _pieces(self) -> Iterator[tuple[list[Call], int, int]]:
        position = 0
        while match := _START.search(self.text, position):
            calls, end = self._read(match)
            if calls:
                yield calls, match.start(), end
            position = max(end, match.start() + 1)

    def _read(self, match: re.Match[str]) -> tuple[list[Call], int]:
        """The calls that begin at a match and where they end, or none and where to go on."""
        if match["tags"]:
            call, end = tags_call(self.text, _again(TAGS_HEADER, match), self.types)
            return [call], end
        if match["gemma"]:
            call, end = gemma_call(self.text, _again(GEMMA_HEADER, match))
            return [call], end
        if match["json_header"]:
            name = next(filter(None, _again(JSON_HEADER, match).groups()))
            value, end = self._json(match.end())
            if not isinstance(value, dict):
                raise Broken(name)
            return [json_call(name, value)], end
        if match["json"]:
            value, end = self._json(match.start())
            found = list(json_calls(value))
            return found, end if found else match.end()
        if match["list"]:
            return self._list(match)
        read = self._python(match)
        return ([read[0]], read[1]) if read else ([], match.end())

    def _json(self, start: int) -> tuple[object, int]:
        """The value of the JSON at `start` (None for Python that is no literal), and where it ends."""
        end = self.brackets.end(start)
        source = self.text[start:end]
        for plain in dict.fromkeys((source, source.translate(_QUOTES))) if end else ():
            with suppress(ValueError):
                return from_json(plain), end or 0
        if LOOKS_LIKE_JSON_CALL.match(self.text, start) and (end is None or parsed(source) is None):
            raise Broken("JSON")
        return None, start + 1

    def _list(self, opening: re.Match[str]) -> tuple[list[Call], int]:
        """[f(a=1), g()], the list of calls that Llama 4, LFM2 and BFCL write."""
        end = self.brackets.end(opening.start())
        position = opening.end()
        found = []
        while end and (match := _LISTED.match(self.text, position)) and (read := self._python(match)):
            found.append(replace(read[0], certain=True))
            after = _COMMA.match(self.text, read[1])
            position = after.end() if after else read[1]
            if position == end - 1:
                return found, end
            if not after or not after[1]:
                break
        return [], opening.end()

    def _python(self, match: re.Match[str]) -> tuple[Call, int] | None:
        end = self.brackets.end(match.end() - 1)
        name = match.groups()[-1]
        if end is None or keyword.iskeyword(name):
            return None
        if bisect(self.fences, match.start()) % 2 and _COMMENTED.match(
            self.text, self.text.rfind("\n", 0, match.start()) + 1, match.start()
        ):
            return None  # in a comment of a code block
        source = self.text[match.start() : end]
        try:
            node = parsed(source)
            if isinstance(node, ast.Call):
                call = call_of(node, self.assigned)
            else:
                call = self._loose(name, match.end(), end - 1)
        except RecursionError:
            return None
        return (call, end) if call else None

    def _loose(self, name: str, start: int, end: int) -> Call | None:
        """A call that is no Python: reserved words as argument names, hyphens, placeholders, dates without quotes."""
        parts: list[Part] = []
        for begin, stop in self._split(start, end):
            argument = _ARGUMENT.match(self.text, begin, stop)
            source = self.text[argument.end() if argument else begin : stop].strip()
            if not source:
                return None
            node = parsed(source) or parsed(source.translate(_QUOTES))
            if node is not None:
                parts.append((argument and argument[1], node))
            elif argument and _BARE.fullmatch(source):
                parts.append((argument[1], shown(source)))
            else:
                return None
        return call_from(name, parts, self.assigned)

    def _split(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The spans between the commas that stand outside brackets, strings and comments."""
        depth, begin = 0, start
        for token in _TOKEN_OR_COMMA.finditer(self.text, start, end):
            if token[0] in ("(", "[", "{"):
                depth += 1
            elif token[0] in (")", "]", "}"):
                depth -= 1
            elif token[0] == "," and depth == 0:
                yield begin, token.start()
                begin = token.end()
        if self.text[begin:end].strip():
            yield begin, end


def _again(pattern: re.Pattern[str], match: re.Match[str]) -> re.Match[str]:
    again = pattern.match(match.string, match.start())
    assert again
    return again


def _assigned(text: str, calls: list[tuple[int, int]], brackets: Brackets) -> dict[str, Assigned]:
    """What a text assigns to names, outside the arguments of its calls. A value that cannot be read cheaply, or one of
    several, is UNSURE."""
    found: dict[str, Assigned] = {}
    starts = [start for start, _ in calls]
    for match in _ASSIGNMENT.finditer(text):
        before = bisect(starts, match.start()) - 1
        if before >= 0 and match.start() < calls[before][1]:
            continue
        name, start, end = match[1] or match[3], match.start(2), match.end(2)
        if match[1] and (opened := _OPENING.search(text, start, end)):
            end = max(end, brackets.end(opened.start()) or end)
        short = match[1] and name not in found and end - start < _LONGEST_ASSIGNED
        node = parsed(text[start:end].strip()) if short else None
        found[name] = Assigned(node or ast.Name(name), UNSURE if node is None else shown_node(node, {}))
    return found
