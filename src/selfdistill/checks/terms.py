"""The terms of a phrase: exact arithmetic on its numbers, their units, and what joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from selfdistill.checks.plain_math import SET
from selfdistill.checks.tokens import Token
from selfdistill.checks.words import DIRECT, IRRATIONAL, JOINED, MONTHS, NO_UNITS, REMARKS, SCALES, SHORT_SCALES, UNITS

_DEEPEST = 20
_MOST_BITS = 4096
"""Size up to which powers are worked out."""


class Unknown(Exception):
    """No exact value."""


@dataclass
class Term:
    """A number with its unit; `by` joins it to the term before, `mark` makes it another value (am, pm, a small %)."""

    value: Fraction | str
    unit: str = ""
    by: str = ""
    mark: str = ""


class Reader:
    """Reads terms from tokens. `worked`: something had to be worked out; `capital`: a unit was written with one."""

    def __init__(self, found: Sequence[Token]) -> None:
        self.found, self.at, self.worked, self.capital = list(found), 0, False, False
        self.depth = 0

    def peek(self, ahead: int = 0) -> Token:
        """The next token; one that says nothing at the end."""
        at = self.at + ahead
        return self.found[at] if at < len(self.found) else _END

    def take(self, *texts: str) -> bool:
        """Go over the next token if it is one of these."""
        if self.peek() is not _END and self.peek().text in texts:
            self.at += 1
            return True
        return False

    def terms(self) -> list[Term]:
        """All terms up to a remark or the end."""
        found = [self.term()]
        while (by := self.joint(found[-1])) is not None:
            worked = self.worked
            term = self.term()
            term.by = by
            if by == "-" and (worked or self.worked):
                raise Unknown  # 10 - 7 + 2: not a range
            found.append(term)
        if any(term.by for term in found) and all(term.by in ("", "-") for term in found):
            self.worked = True  # 10 - 7 before an equals sign
        return found

    def joint(self, last: Term) -> str | None:
        """What joins the next number to the last one; None where a remark begins or nothing follows."""
        token, after = self.peek(), self.peek(1)
        word = token.text.lower()
        if token.text in (",", ";"):
            self.at += 1
            if self.peek().text.lower() in ("and", "or"):
                self.at += 1
            return "," if self.starts() else None
        if token.text in ("-", "–", "—"):
            self.at += 1
            return "-" if self.starts() else None
        if token.text in (":", "<", ">", "≤", "≥", "≠", "±", "|") and token.kind == "sign":
            self.at += 1
            if token.text in "<>≤≥≠" and self.peek().kind == "variable":
                raise Unknown  # 3 ≤ x
            return token.text if self.starts() else None
        joining = word in (JOINED if last.unit else DIRECT)
        if joining and token.kind in ("word", "variable"):
            self.at += 2 if word == "out" and after.text == "of" else 1
            return ({"until": "to", "till": "to", "through": "to"}.get(word, word)) if self.starts() else None
        if word == "x" and after.kind == "number":
            self.at += 1
            return "x"
        return "" if self.starts() else None

    def starts(self) -> bool:
        """Whether a number begins here."""
        ahead = 0
        while self.peek(ahead).kind == "open" or self.peek(ahead).text in ("-", "+"):
            ahead += 1
        return self.peek(ahead).kind in ("number", "whole", "bad") or self.peek(ahead).text == "√"

    def term(self) -> Term:
        """One number, worked out, and its unit."""
        term = Term(self.sum())
        while isinstance(term.value, Fraction) and self.scale():
            term.value = _small(term.value * self.scale())
            self.at += 1
        part = self.peek(1).value if self.peek().text == "and" and self.peek(1).below else None
        if part and part < 1 and isinstance(term.value, Fraction) and self.found[self.at - 1].text.isdecimal():
            term.value, self.at = term.value + part, self.at + 2  # 1 and 1/2
        if [self.peek(i).text.lower() for i in range(3)] == ["and", "a", "half"] and isinstance(term.value, Fraction):
            term.value, self.at = term.value + Fraction(1, 2), self.at + 3
        if self.peek().kind == "variable" and not (self.peek().text in "xX" and self.peek(1).kind == "number"):
            raise Unknown
        if self.peek().text in ("√", "π", "∞", "^", "⌋", "⌉", "!") or self.peek().kind == "bad":
            raise Unknown
        if self.peek().text == "…" and self.found[self.at - 1].text.count("."):
            raise Unknown  # 0.333...
        self.unit(term)
        return term

    def scale(self) -> int:
        """The factor of a word such as million; 0 for other words."""
        token = self.peek()
        if token.kind != "word":
            return 0
        if token.glued and self.at and self.found[self.at - 1].kind == "number" and token.text in SHORT_SCALES:
            return SHORT_SCALES[token.text] if token.below else 0
        return SCALES.get(token.text.lower(), 0) or SCALES.get(token.text[:1] if not token.text.isascii() else "", 0)

    def unit(self, term: Term) -> None:
        """Goes over the words behind a number, up to a joint or a remark."""
        if self.peek().text == "%":
            self.at += 1
            if isinstance(term.value, Fraction) and 0 < abs(term.value) < 1:
                term.mark = "%"
        elif self.peek().text == "‰":
            self.at, term.mark = self.at + 1, "‰"
        while True:
            token = self.peek()
            word = token.text.lower()
            if token.text in ("°", "%", "…") or token.kind == "close":
                self.at += 1
            elif token.text == "^" and term.unit:
                self.at += 1
                self.take("(")
                self.take("-")
                self.at += 1
                self.take(")")
            elif token.text in ("/", "×") and self.peek(1).kind in ("word", "name", "variable"):
                self.at += 2
                term.unit = term.unit or "/"
            elif token.kind in ("word", "name"):
                if word in IRRATIONAL or (word in NO_UNITS and not term.unit):
                    raise Unknown
                if (half := word.replace(".", "").replace(" ", "")) in ("am", "pm") and not term.mark:
                    term.mark = half
                elif token.kind == "name" and token.glued and not term.unit and word.rstrip("23") not in UNITS:
                    raise Unknown  # 2x3, 1h30
                elif word == "in" and self.peek(1) is _END:
                    term.unit = term.unit or "inch"
                elif word == "out" and self.peek(1).text == "of":
                    return
                elif word in REMARKS and not token.glued:
                    self.remark(term, word)
                    return
                elif word in JOINED:
                    return
                elif word not in ("st", "nd", "rd", "th"):
                    self.capital = self.capital or (word in MONTHS and token.text[:1].isupper())
                    term.unit = term.unit or UNITS.get(word, word.removesuffix("s") or word)
                self.at += 1
            elif token.kind == "variable" and term.unit:
                self.at += 1
            else:
                return

    def remark(self, term: Term, word: str) -> None:
        """Behind a unit it ends the phrase; right behind a number it may join it to another (3 of 4)."""
        if term.unit or word not in DIRECT or not self.direct():
            self.found = self.found[: self.at]

    def direct(self) -> bool:
        """Whether the next word is followed by a number."""
        at, self.at = self.at, self.at + 1
        starts = self.starts()
        self.at = at
        return starts

    def sum(self) -> Fraction | str:
        """Products and sums. A minus between two numbers is left to `terms`: 3-5 may be a range."""
        value = self.product()
        while self.peek().text == "+" and self.peek(1) is not _END:
            self.at, self.worked = self.at + 1, True
            value = _small(_number(value) + _number(self.product()))
        return value

    def product(self) -> Fraction | str:
        """Factors."""
        value = self.factor()
        while True:
            sign, after = self.peek().text, self.peek(1)
            power_of_ten = sign in "xX" and sign and after.value == 10 and self.peek(2).text == "^"
            if not (power_of_ten or sign in ("×", "÷", "/")) or after.kind in ("word", "name") or after is _END:
                return value
            if sign in "÷/" and after.below:
                raise Unknown  # 8 / 3/4: of which two?
            self.at, self.worked = self.at + 1, self.worked or after.value != 10
            other = _number(self.factor())
            if sign in "÷/" and not other:
                raise Unknown
            value = _small(_number(value) / other if sign in "÷/" else _number(value) * other)

    def factor(self) -> Fraction | str:
        """A number with its sign and its power."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unknown
        if self.peek().text in ("-", "+"):
            minus = self.take("-") or not self.take("+")
            value = self.factor()
            self.depth -= 1
            return -_number(value) if minus else value
        value = self.power()
        self.depth -= 1
        return value

    def power(self) -> Fraction | str:
        """A number, or one raised to another."""
        base, ten = self.atom(), self.found[self.at - 1].value == 10
        if self.peek().text != "^":
            return base
        self.at, self.worked = self.at + 1, self.worked or not ten
        power = _number(self.factor())
        base = _number(base)
        if power.denominator != 1 or abs(power) > _MOST_BITS or (not base and power <= 0):
            raise Unknown
        size = max(abs(base.numerator), base.denominator).bit_length()
        if size * abs(power) > _MOST_BITS:
            raise Unknown
        return Fraction(base ** int(power))

    def atom(self) -> Fraction | str:
        """A number, a mixed number, or what stands in brackets."""
        token = self.peek()
        self.at += 1
        if token.kind == "open":
            return self.bracket(token.text)
        if token.listed and token.kind == "whole":
            return ", ".join(map(shown, token.listed))
        if token.kind == "whole":
            return token.text
        if token.kind != "number" or token.value is None:
            raise Unknown
        after = self.peek()
        if token.text.isdecimal() and after.below and after.value is not None and 0 < after.value < 1:
            self.at += 1
            return token.value + after.value
        if after.kind == "open" and after.glued and after.text != SET and self.starts():
            raise Unknown  # 2(3): a product, or a mixed number
        return token.value

    def bracket(self, opening: str) -> Fraction | str:
        """(3, 4) and [3, 4] are lists, {3, 4} is a set, (18) is 18."""
        token, after = self.peek(), self.peek(1)
        if token.listed and after.kind == "close":  # 3,5 in brackets is a pair
            self.at += 2
            return _listed(token.listed, opening, after.text)
        if "," in token.text and after.kind == "close" and opening != SET:
            raise Unknown  # (100,200)
        inner = [self.inside()]
        while self.take(",", ";"):
            inner.append(self.inside())
        while self.peek().kind == "word" or self.peek().text in ("%", "°"):
            self.at += 1
        if self.peek().kind != "close":
            raise Unknown
        self.at += 1
        if len(inner) == 1:
            return inner[0]
        return _listed(inner, opening, self.found[self.at - 1].text)

    def inside(self) -> Fraction | str:
        """In brackets a minus is a minus."""
        value = self.sum()
        while self.take("-"):
            self.worked = True
            value = _small(_number(value) - _number(self.product()))
        return value


_END = Token("sign", "")


def _listed(values: Sequence[Fraction | str], opening: str, closing: str) -> str:
    """As it was written: [3, 7) is an interval that (3, 7) is not. A set has no order."""
    texts = [shown(value) for value in values]
    if opening == SET:
        return f"{{{', '.join(sorted(texts))}}}"
    return f"{opening}{', '.join(texts)}{closing}"


def _number(value: Fraction | str) -> Fraction:
    if isinstance(value, str):
        raise Unknown
    return value


def _small(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator).bit_length() > 2 * _MOST_BITS:
        raise Unknown
    return value


def shown(value: Fraction | str) -> str:
    """Canonical text: a decimal where that is exact and short, else a fraction."""
    if isinstance(value, str):
        return value
    places, under = 0, value.denominator
    for prime in (2, 5):
        times = 0
        while under % prime == 0 and times < 40:
            under, times = under // prime, times + 1
        places = max(places, times)
    if under != 1 or not places:
        return str(value)
    scaled = abs(value.numerator) * 10**places // value.denominator
    digits = str(scaled).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
