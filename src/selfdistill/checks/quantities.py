"""A phrase's value: one exact number, several as one whole, or nothing.

In:  a phrase in plain characters (`plain_math.plain`), some hundred at most.
Out: a `Fraction` where the phrase is one number with or without a unit; a `Whole`, the canonical text of times, dates,
     ratios, ranges, pairs, lists, versions and compounds such as "5 feet 6 inches"; None where there is no number, or
     one whose value cannot be known exactly (variables, roots, π, "3,5", "not 18").

Two phrases mean the same if and only if their values are equal, so that "same" is an equivalence. A percent sign is a
unit: 50% is 50 and not 0.5, as GSM8K's references have it. Below one percent it is kept: 0.5% is neither 0.5 nor 0.005.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from selfdistill.checks.terms import Reader, Term, Unknown, shown
from selfdistill.checks.tokens import Token, tokens
from selfdistill.checks.words import IRRATIONAL, MONTHS, REASONS, UNITS, is_negation


class Whole(str):
    """Several numbers that are one answer, as canonical text. Never equal to a number."""


Value = Fraction | Whole
_COMPOUND = frozenset(UNITS.values())
_NUMBERS = ("number", "whole", "bad")


def value_of(phrase: str) -> Value | None:
    """The value that a phrase, said to be the answer, states."""
    return value_of_tokens(tokens(phrase))


def value_of_tokens(found: Sequence[Token]) -> Value | None:
    """The same of a phrase's tokens."""
    found = until_reason(without_asides(found))
    if not any(token.kind in _NUMBERS for token in found):
        return None
    if (several := _assignments(found)) is not None:
        return several or None
    parts: list[list[Token]] = [[]]
    turns = []
    for token in found:
        if token.kind == "relation":
            turns += [len(parts)] if token.text == "→" else []
            parts.append([])
        else:
            parts[-1].append(token)
    if any(_changes(_part(parts[turn - 1]), _part(parts[turn])) for turn in turns):
        return None
    stated = [_part(part) for part in parts if part]
    plain = [value for value, is_plain in stated if is_plain and value is not None]
    if stated and len(stated) > 1 and plain:  # 3 + 4 = 7, 7 = 3 + 4: the side that leaves nothing to do
        return plain[-1]
    return stated[-1][0] if stated else None


def _changes(before: tuple[Value | None, bool], after: tuple[Value | None, bool]) -> bool:
    """Whether an arrow leads from one value to another: 3 → 4, but not 3 + 1 → 4."""
    return before[1] and after[1] and before[0] != after[0]


def without_asides(found: Sequence[Token]) -> list[Token]:
    """Without what stands in brackets and has words, "(or 1800 cents)", or says the same again, "0.5 (1/2)". Unless
    nothing else has a number."""
    opened: list[int] = []
    asides: list[tuple[int, int]] = []
    for i, token in enumerate(found):
        if token.kind == "open":
            opened.append(i)
        elif token.kind == "close" and opened:
            start = opened.pop()
            inner = found[start + 1 : i]
            apart = start > 0 and not found[start].glued
            again = apart and len(inner) == 1 and inner[0].value == found[start - 1].value is not None
            if any(t.kind in ("word", "name", "relation") for t in inner) or (start and not inner) or again:
                asides.append((start, i))
    if opened and _has(found[: opened[0]], *_NUMBERS) and _has(found[opened[0] :], "word", "name"):
        asides.append((opened[0], len(found)))  # cut off inside of a remark
    outside = list(found)
    for start, end in asides:
        outside[start : end + 1] = [_GONE] * len(outside[start : end + 1])
    outside = [token for token in outside if token is not _GONE]
    return outside if any(token.kind in _NUMBERS for token in outside) else list(found)


_GONE = Token("sign", "")


def _has(found: Sequence[Token], *kinds: str) -> bool:
    return any(token.kind in kinds for token in found)


def until_reason(found: Sequence[Token]) -> list[Token]:
    """Up to the words that give reasons: "18 because 3*6 = 18", "18, not 20"."""
    seen = False
    for i, token in enumerate(found):
        if token.kind in _NUMBERS:
            seen = True
        word = token.text.lower()
        if seen and token.kind == "word" and (word in REASONS or is_negation(word)):
            return list(found[:i])
        after = found[i + 1] if i + 1 < len(found) else _GONE
        if not seen or after.kind not in ("word", "name"):
            continue
        if token.text in ("-", "–", "—", ":") and not token.glued:
            return list(found[:i])
        if token.text in (",", ";") and after.text.lower() not in ("and", "or", "und", "et", "y", "oder"):
            return list(found[:i])
    return list(found)


def _assignments(found: Sequence[Token]) -> Whole | None:
    """x = 5, y = 3: the whole; an empty one where a value is none; None where there is at most one."""
    starts = [
        i
        for i in range(len(found) - 1)
        if found[i + 1].text == "="
        and len(found[i].text) == 1
        and found[i].text.isalpha()
        and (i == 0 or found[i - 1].kind == "word" or found[i - 1].text in (",", ";"))
    ]
    if len(starts) < 2:
        return None
    texts = []
    for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
        part = list(found[start + 2 : end])
        while part and part[-1].text in (",", ";", "and", "or"):
            part.pop()
        value, _ = _part(part)
        if value is None:
            return Whole()
        texts.append(f"{found[start].text} = {show(value)}")
    return Whole(", ".join(texts))


def _part(part: Sequence[Token]) -> tuple[Value | None, bool]:
    """What one side of an equation states, and whether it leaves nothing to be worked out."""
    first = next((i for i, token in enumerate(part) if token.kind in _NUMBERS), None)
    if first is None:
        return None, False
    start = first
    while start and part[start - 1].kind in ("open", "sign", "variable"):
        start -= 1
    before = [token.text.lower() for token in part[:start]]
    if any(is_negation(word) or word in IRRATIONAL for word in before):
        return None, False
    if before[-1:] == ["than"]:  # more than 18
        return None, False
    month = MONTHS.get(before[-1]) if before and part[start - 1].text[:1].isupper() else None
    while start < first and part[start].text in (",", ":", ";", "–", "—", "|", "!", "%", "°"):
        start += 1
    try:
        reader = Reader(part[start:])
        terms = reader.terms()
        if month is None and len(terms) >= 1 and (named := MONTHS.get(terms[0].unit)) and reader.capital:
            return _date(named, terms), True
        if month is not None:
            return _date(month, terms), True
        if before[-1:] == ["between"] and len(terms) == 2 and terms[1].by == "and":
            terms[1].by = "-"
        return _joined(terms), not reader.worked
    except Unknown:
        return None, False


def _date(month: int, terms: Sequence[Term]) -> Value:
    """May 6, 2024 and 6 May 2024 are 2024-05-06."""
    numbers = [term.value for term in terms]
    day, year = numbers[0], numbers[1] if len(numbers) > 1 else None
    if any(not isinstance(n, Fraction) or n.denominator != 1 for n in numbers) or len(numbers) > 2:
        raise Unknown
    assert isinstance(day, Fraction)
    if year is None:
        return Whole(f"{day}-{month:02} (date)" if day > 31 else f"--{month:02}-{int(day):02}")
    assert isinstance(year, Fraction)
    return Whole(f"{int(year):04}-{month:02}-{int(day):02}")


def _joined(terms: Sequence[Term]) -> Value:
    """One number as it is; several, with what joins them and their units, as one text."""
    if not terms:
        raise Unknown
    if len(terms) == 1 and isinstance(terms[0].value, Fraction):
        only = terms[0]
        return Whole(f"{shown(only.value)} {only.mark}") if only.mark else terms[0].value
    texts = []
    for i, term in enumerate(terms):
        text = shown(term.value)
        if term.mark in ("am", "pm"):
            text = text.removesuffix(":00")
        if len(terms) > 1 and term.unit:
            text += f" {term.unit}"
        if term.mark:
            text += f" {term.mark}"
        units = {term.unit, terms[i - 1].unit} if i else set()
        if len(units) == 2 and term.by == "and" and units <= _COMPOUND:
            term.by = ""  # 6 feet and 2 inches
        texts.append(text if i == 0 else {",": ", ", "-": "-", "": " "}.get(term.by, f" {term.by} ") + text)
    return Whole("".join(texts))


def show(value: Value | int) -> str:
    """Canonical text: equal values look equal, different ones different."""
    return str(value) if isinstance(value, (int, Whole)) else shown(value)
