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
_END = re.compile(r"\n|\.(?=\s|$)")


def last_number(text: str) -> Decimal | None:
    """The number after the last "The answer is" or "####", else the last number of the text.

    Thousands separators, decimals, signs, currency signs, fractions, exponents and units are understood: "$1,234.50",
    "-3 degrees", "1/2", "12 cm^2", "18.".
    """
    if mark := _last_mark(text):
        sentence = _END.split(text[mark.end() :], maxsplit=1)[0]
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


def _numbers(text: str) -> list[Decimal]:
    """All numbers. A sign counts only where nothing is glued to its left: "16-3" is a subtraction, "x-3" a name."""
    numbers = []
    for match in _NUMBER.finditer(text):
        before = text[match.start() - 1 : match.start()]
        if before == "^" or text[max(0, match.start() - 2) : match.start()] == "**":
            continue  # the exponent of a unit or a formula
        value = Decimal((match["digits"].replace(",", "") or "0") + (match["decimals"] or "") + (match["power"] or ""))
        if match["under"] and int(match["under"]):
            value /= int(match["under"])
        glued = before.isalnum() or before in (")", "]", "%")
        numbers.append(-value if match["sign"] and not (before and glued) else value)
    return numbers


def check_last_number(response: str, reference: str, example: Example) -> Judgement:
    """The final numbers are equal in value: 18, 18.0 and $18 are the same."""
    return compare(last_number(response), last_number(reference), lambda d: format(d.normalize(), "f"))
