"""The final number of a response: GSM8K, MultiArith, word problems."""

from __future__ import annotations

import re
from decimal import Decimal

from selfdistill.checks.base import Judgement, compare
from selfdistill.records import Example

_NUMBER = re.compile(
    r"(?P<sign>[-−])?[$€£]?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?P<decimals>\.\d+)?(?P<power>[eE][-+]?\d{1,3}\b)?"
    r"(?:/(?P<under>\d+)\b(?!/))?"
)
_MARK = re.compile(r"####(?=\s*[-−$€£]?\.?\d)|answer\s+is|answer\s*[:=]", re.IGNORECASE)
_INT = 18
"""Digits up to which a whole number is an int."""
Number = int | Decimal
_END = re.compile(r"\n|\.(?=\s|$)")


def last_number(text: str) -> Number | None:
    """The number after the last "The answer is" or "####", else the last number of the text.

    Thousands separators, decimals, signs, currency signs, fractions, exponents and units are understood: "$1,234.50",
    "-3 degrees", "1/2", "12 cm^2", "18.".
    """
    if mark := _last_mark(text):
        end = _END.search(text, mark.end())
        sentence = text[mark.end() : end.start() if end else None].strip()
        if sentence.isdecimal() and len(sentence) <= _INT:  # as most answers are: no need to search
            return int(sentence)
        after = _numbers(sentence)
        if after:  # "The answer is 3 + 4 = 7": an equation's result stands behind its sign
            return after[-1] if "=" in sentence else after[0]
    found = _numbers(text)
    return found[-1] if found else None


def _last_mark(text: str) -> re.Match[str] | None:
    """The last match of `_MARK`. Looked for from the end: most of a text is never looked at, and none of it slowly."""
    low = text.replace("İ", "I").lower()  # the one letter whose small form is longer
    at = len(text)
    while (at := max(low.rfind("answer", 0, at), text.rfind("####", 0, at))) >= 0:
        if mark := _MARK.match(text, at):
            return mark
    return None


def _numbers(text: str) -> list[Number]:
    """All numbers. A sign counts only where nothing is glued to its left: "16-3" is a subtraction, "x-3" a name."""
    numbers = []
    for match in _NUMBER.finditer(text):
        start = match.start()
        before = text[start - 1 : start]
        if before == "^" or text[max(0, start - 2) : start] == "**":
            continue  # the exponent of a unit or a formula
        sign, digits, decimals, power, under = match.groups()
        value = _value(digits.replace(",", ""), decimals, power)
        if under and int(under):
            value = Decimal(value) / int(under)
        glued = before.isalnum() or before in (")", "]", "%")
        numbers.append(-value if sign and not (before and glued) else value)
    return numbers


def _value(digits: str, decimals: str | None, power: str | None) -> Number:
    if decimals or power or len(digits) > _INT:
        return Decimal((digits or "0") + (decimals or "") + (power or ""))
    return int(digits)  # equal to its Decimal, in a fifth of the time


def check_last_number(response: str, reference: str, example: Example) -> Judgement:
    """The final numbers are equal in value: 18, 18.0 and $18 are the same."""
    return compare(last_number(response), last_number(reference), _plain)


def _plain(number: Number) -> str:
    return str(number) if isinstance(number, int) else format(number.normalize(), "f")
