"""Arrays: rows of a JSON document one at a time, as its text comes in.

In:  `read(n)`, which gives up to n characters and "" at the end.
Out: the items of an array, or the members of an object. Memory holds an item and a buffer.

Broken text raises json.JSONDecodeError with the line and column of the file, as json.load does, when it comes to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = 16
"""No token of JSON but a string is longer where it can be cut in two unnoticed; "-Infinity" and a pair of \\uXXXX are
the longest. An error farther from the buffer's end is no matter of the cut."""

MORE = "Extra data"
"""The message of the error where text follows the document."""

_decode = json.JSONDecoder().raw_decode


class _Text:
    """A file's text from the first character that is still needed, and where that one stood."""

    def __init__(self, read: Callable[[int], str], size: int) -> None:
        self.read, self.size = read, size
        self.buffer, self.at, self.ended = "", 0, False
        self.lines, self.columns = 0, 0  # before the buffer: whole lines, and characters of the line it begins in

    def more(self) -> None:
        """Drop what is done with, and read on; twice as much each time, so that a long value costs no square."""
        done, rest = self.buffer[: self.at], self.buffer[self.at :]
        if newlines := done.count("\n"):
            self.lines, self.columns = self.lines + newlines, len(done) - done.rindex("\n") - 1
        else:
            self.columns += len(done)
        new = self.read(max(self.size, len(rest)))
        self.buffer, self.at, self.ended = rest + new, 0, not new

    def space(self) -> str:
        """Skip white space. Returns the character behind it, "" at the end of the file."""
        while True:
            self.at = _SPACE.match(self.buffer, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self.at < len(self.buffer) or self.ended:
                return self.buffer[self.at : self.at + 1]
            self.more()

    def value(self, behind: str) -> Any:
        """The value that begins here, up to the one of `behind` that follows it, which shows that it is whole."""
        while True:
            try:
                value, end = _decode(self.buffer, self.at)
                end = _SPACE.match(self.buffer, end).end()  # type: ignore[union-attr]
                if self.buffer[end : end + 1] not in tuple(behind):
                    raise json.JSONDecodeError(f"Expecting {behind[0]!r} delimiter", self.buffer, end)
                self.at = end
                return value
            except json.JSONDecodeError as error:
                whole = error.pos < len(self.buffer) - _TOKEN and not error.msg.startswith("Unterminated string")
                if whole or self.ended:
                    raise self.error(error.msg, error.pos) from None
            self.more()

    def error(self, message: str, position: int) -> json.JSONDecodeError:
        """The error with the line and column of the file."""
        error = json.JSONDecodeError(message, self.buffer, position)
        if error.lineno == 1:
            error.colno += self.columns
        error.lineno += self.lines
        error.args = (f"{message}: line {error.lineno} column {error.colno}",)
        return error


def array_items(read: Callable[[int], str], size: int = 1 << 16) -> Iterator[Any]:
    """The items of one JSON array."""
    text = _Text(read, size)
    if text.space() != "[":
        raise text.error("Expecting '['", text.at)
    yield from _items(text)
    if text.space():
        raise text.error(MORE, text.at)


def _items(text: _Text) -> Iterator[Any]:
    """The items of the array that begins here."""
    text.at += 1
    if text.space() != "]":
        while True:
            yield text.value(",]")
            if text.buffer[text.at] == "]":
                break
            text.at += 1
            text.space()
    text.at += 1


def object_members(read: Callable[[int], str], size: int = 1 << 16) -> Iterator[tuple[str, Any]]:
    """(name, value) of one JSON object. An array comes as an iterator over its items, to be read before the next
    member is asked for."""
    text = _Text(read, size)
    if text.space() != "{":
        raise text.error("Expecting '{'", text.at)
    text.at += 1
    ended = text.space() == "}"
    while not ended:
        if text.space() != '"':
            raise text.error("Expecting property name enclosed in double quotes", text.at)
        name = text.value(":")
        text.at += 1
        if text.space() == "[":
            items = _items(text)
            yield name, items
            for _ in items:
                pass
        else:
            yield name, text.value(",}")
        if (behind := text.space()) not in (",", "}"):
            raise text.error("Expecting ',' delimiter", text.at)
        ended = behind == "}"
        text.at += not ended
    text.at += 1
    if text.space():
        raise text.error(MORE, text.at)
