"""A plain phrase as tokens: numbers with their exact values, words, signs."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, NamedTuple, cast

from selfdistill.checks.plain_math import END, FRACTION, OVER, SET, SET_END, THIN
from selfdistill.checks.words import SHORT_SCALES, VARIABLES

Kind = Literal["number", "whole", "bad", "word", "variable", "name", "sign", "relation", "open", "close"]
MOST_DIGITS, MOST_EXPONENT = 400, 400
"""Longer numbers are no answer: nobody's, and their powers would fill the memory."""


class Token(NamedTuple):
    """`value` of numbers; `glued`: nothing between it and the token before; `below`: numerator and denominator where it
    was written as a fraction (1 1/2 is a sum), or a letter such as k behind money."""

    kind: Kind
    text: str
    value: Fraction | None = None
    glued: bool = False
    below: bool = False
    listed: tuple[Fraction, ...] = ()


_TOKEN = re.compile(
    rf"""
    (?P<fraction>{FRACTION}\d+{OVER}\d+{END})
  | (?P<name>[A-Za-z]+(?:-?\d[A-Za-z\d]*)+(?:[.]\d+)?)
  | (?P<date>\d{{4}}-\d{{1,2}}-\d{{1,2}}(?![\d-]))
  | (?P<number>\.?\d+(?:[.,'_{THIN}]\d+)*)(?P<power>[eE][-+]?\d+(?![A-Za-z\d]))?
  | (?P<word>i\.e|e\.g|[AaPp]\.\s?[Mm](?![^\W\d_])|[^\W\d_]+(?:'[^\W\d_]+)*|\\[A-Za-z]+)
  | (?P<relation>[=≈→])
  | (?P<open>[(\[{SET}])
  | (?P<close>[)\]{SET_END}])
  | (?P<money>[$€£¥₹₽₩₫฿₪])
  | (?P<sign>[-+×÷/^,;:%°‰<>≤≥≠±√π∞–—|⌊⌋⌈⌉!…])
    """,
    re.VERBOSE,
)
_SLASHES = re.compile(r"/\d+(?:/\d+)*(?![.,]?\d|\s?\^)")
_POWER_FOLLOWS = re.compile(r"\s?(?:\^|:\d)")
_COLONS = re.compile(r"(?::\d+(?:\.\d+)?)+|(?: : \d+(?:\.\d+)?)+")
_GROUPS = re.compile(rf"\d{{1,3}}(?:(?P<by>[,'_{THIN}])\d{{3}})(?:(?P=by)\d{{3}})*(?:\.\d+)?")
_INDIAN = re.compile(r"\d{1,2}(?:,\d\d)+,\d{3}(?:\.\d+)?")
_EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}\.\d{3},\d+")
_EUROPEAN_THIN = re.compile(rf"\d{{1,3}}(?:{THIN}\d{{3}})+,\d+")


def tokens(text: str) -> list[Token]:
    """All tokens; characters that say nothing are left out."""
    found: list[Token] = []
    at, end, money = 0, -1, False
    while match := _TOKEN.search(text, at):
        kind = str(match.lastgroup) if match.lastgroup != "power" else "number"
        at, glued = match.end(), match.start() == end
        if kind == "money":
            money, end = True, at if glued else end
            continue
        if kind == "number":
            token, at = _number(match, text, found)
        elif kind == "fraction":
            over, under = match[0][1:-1].split(OVER)
            token = _over(over, under, glued)
        elif kind == "date":
            year, month, day = map(int, match[0].split("-"))
            token = Token("whole", f"{year:04}-{month:02}-{day:02}")
        elif kind == "word":
            token = _word(match[0], glued, money, found)
        else:
            token = Token(cast(Kind, kind), match[0])
        found.append(token._replace(glued=glued))
        end, money = at, money and token.kind == "number"
    return found


def _word(text: str, glued: bool, money: bool, before: list[Token]) -> Token:
    after_number = glued and bool(before) and before[-1].kind in ("number", "whole")
    if after_number and money and text in SHORT_SCALES:
        return Token("word", text, below=True)
    if text.startswith("\\"):
        return Token("variable", text)
    if after_number and text.isascii() and text not in ("cc",) and all(c in VARIABLES for c in text.lower()):
        return Token("variable", text)
    if len(text) == 1 and (text in "xyznXYZ" or "α" <= text <= "ω") and text != "μ":
        return Token("variable", text)
    return Token("word", text)


def _number(match: re.Match[str], text: str, before: list[Token]) -> tuple[Token, int]:
    """The number with what belongs to it: 3/4, 1/2/2024, 10:30. Where it ends."""
    written, power, at = match["number"], match["power"], match.end()
    token = _value(written, power)
    raised = bool(before) and before[-1].text in ("^", "/", "÷")
    more = _SLASHES.match(text, at) if token.kind == "number" and written.isdecimal() and not power else None
    if more and not raised and not _POWER_FOLLOWS.match(text, more.end()):
        parts = [written, *more[0][1:].split("/")]
        if len(parts) == 2:
            return _over(parts[0], parts[1]), more.end()
        return Token("whole", "/".join(part.lstrip("0") or "0" for part in parts)), more.end()
    if token.kind == "number" and (more := _COLONS.match(text, at)):
        parts = [part.strip() for part in more[0].split(":")[1:]]
        return Token("whole", ":".join([written, *parts])), more.end()  # 10:05 is not 10:50, nor 10:5
    return token, at


def _over(over: str, under: str, glued: bool = False) -> Token:
    if not int(under[:MOST_DIGITS]) or len(over) + len(under) > MOST_DIGITS:
        return Token("bad", f"{over}/{under}", glued=glued)
    return Token("number", f"{over}/{under}", Fraction(int(over), int(under)), glued, below=True)


def _value(written: str, power: str | None) -> Token:
    """A number's exact value, whatever separates its thousands; "bad" where that cannot be known."""
    if len(written) > MOST_DIGITS or (power and (len(power) > 5 or abs(int(power[1:])) > MOST_EXPONENT)):
        return Token("bad", written)
    digits = ""
    if written.replace(".", "", 1).isdecimal():
        digits = written
    elif _GROUPS.fullmatch(written):
        digits = re.sub(f"[,'_{THIN}]", "", written)
    elif _INDIAN.fullmatch(written):
        digits = written.replace(",", "")
    elif _EUROPEAN.fullmatch(written) or _EUROPEAN_THIN.fullmatch(written):
        digits = written.replace(".", "").replace(THIN, "").replace(",", ".")
    if digits:
        return Token("number", written, Fraction(digits + (power or "").lower()))
    parts = written.split(",")
    if power or written.startswith("."):
        return Token("bad", written)
    if re.fullmatch(r"\d+(?:\.\d+){2,}", written):
        return Token("whole", written)
    if len(parts) > 1 and all(re.fullmatch(r"\d+(?:\.\d+)?", part) for part in parts):
        ambiguous = len(parts) == 2 or any(len(part) == 3 for part in parts[1:])
        listed = tuple(Fraction(part) for part in parts)
        return Token("bad", written, listed=listed) if ambiguous else Token("whole", written, listed=listed)
    return Token("bad", written)
