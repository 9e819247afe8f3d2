"""Where a response has its wrong call, and the reference's put there."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from typing import NamedTuple

from selfdistill.checks.call_forms import Broken
from selfdistill.checks.call_texts import call_pieces
from selfdistill.checks.call_values import UNSURE, parsed
from selfdistill.checks.calls import Wanted, check_function_call, wanted
from selfdistill.core.records import Example

_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_QUOTES = ("'", '"')
_SAID = re.compile(r"\w+")


class _Place(NamedTuple):
    """A piece of a text whose calls count: `made` are they, as text."""

    source: str
    start: int
    end: int
    form: str
    made: list[str]

    @property
    def shape(self) -> object:
        """What must be the same of two pieces, so that one can stand where the other does: the form, in JSON the keys
        around a call, in tags what opens them."""
        if self.form == "json":
            try:
                value = json.loads(self.source)
            except ValueError:
                return self.source
            parts = value if isinstance(value, list) else [value]
            return isinstance(value, list), {tuple(sorted(part)) for part in parts if isinstance(part, dict)}
        if self.form in ("python", "list"):
            return self.form
        return _WORD.split(self.source, maxsplit=1)[0], self.form


def place_call(response: str, reference: str, example: Example) -> str | None:
    """The response with the reference's call in the place of its own wrong one, in prose, in quotes, in code or in
    JSON. None where not one place alone is wrong: several calls are, or one is stated twice, or there is one too many
    or too few; where the two calls are written in different forms; where what is wrong in the call is also said beside
    it; and where what stands around it, such as a string, would not stand the reference's."""
    asked = wanted(reference, example)
    if asked is None or check_function_call(response, reference, example).outcome != "different":
        return None
    try:
        mine, theirs = _places(response, asked), _places(reference, asked)
    except Broken:
        return None
    wrong = [place for place in mine if any(call not in asked.calls for call in place.made)]
    if len(wrong) != 1:
        return None
    at = wrong[0]
    missing = asked.calls - Counter(call for place in mine if place is not at for call in place.made)
    fits = [place for place in theirs if Counter(place.made) == missing and place.shape == at.shape]
    for source in dict.fromkeys(_framed(place.source, response, at) for place in fits):
        if source is None or _argued(source, response, at):
            continue
        made = response[: at.start] + source + response[at.end :]
        if made and check_function_call(made, reference, example).outcome == "same":
            return made
    return None


def _places(text: str, asked: Wanted) -> list[_Place]:
    """The pieces of a text that make calls which count; of a list of one call, the call. None at all where one of them
    stands inside of another call, or takes what the text assigned before."""
    found = []
    for calls, start, end, form, whole in call_pieces(text, asked.parameters):
        made = [call for outer in calls for call in asked.made(outer)]
        if not made:
            continue
        if not whole or any(UNSURE in call for call in made):
            return []
        if form == "list" and len(calls) == 1:
            inside = text[start + 1 : end - 1]
            start, end = end - 1 - len(inside.lstrip()), start + 1 + len(inside.rstrip(", \n"))
            form = "python"
        if form == "python" and not made[0].startswith(f"{calls[0].name}("):
            return []
        found.append(_Place(text[start:end], start, end, form, made))
    return found


def _argued(source: str, response: str, at: _Place) -> bool:
    """Whether the text around the wrong call says what only the wrong call has: it would argue for another one."""
    wrong = {
        word for word in set(_SAID.findall(at.source)) - set(_SAID.findall(source)) if len(word) > 1 or word.isdigit()
    }
    return bool(wrong & set(_SAID.findall(f"{response[: at.start]} {response[at.end :]}")))


def _framed(source: str, response: str, at: _Place) -> str | None:
    """The call as it can stand between the quotes that the wrong one stands between; None where it would break the
    line, the string or the comment that it stands in."""
    if "\n" in source and "\n" not in at.source:
        return None
    line = response[response.rfind("\n", 0, at.start) + 1 : at.start - 1]
    if any(quote in source and quote not in at.source and line.count(quote) % 2 for quote in _QUOTES):
        return None
    before, after = response[at.start - 1 : at.start], response[at.end : at.end + 1]
    if at.form != "python" or before != after or before not in _QUOTES or before not in source:
        return source
    other = source.replace(before, _QUOTES[before == "'"])
    same = before not in other and (old := parsed(source)) and (new := parsed(other)) and ast.dump(old) == ast.dump(new)
    return other if same else None
