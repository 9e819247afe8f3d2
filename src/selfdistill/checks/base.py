"""What a check says: a `Judgement`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from selfdistill.core.records import Example

Outcome = Literal["same", "different", "no_answer", "no_reference", "cannot_tell"]
"""`no_answer`: nothing was found in the response; `no_reference`: nothing in the reference; `cannot_tell`: both can be
read, and the check has no rules for such a response."""

UNREADABLE: dict[Outcome, str] = {
    "no_reference": "the reference has no answer",
    "cannot_tell": "the check has no rules for this answer",
}
"""Outcomes that say an item cannot be judged, and why, where the check does not say more."""


class Judgement(NamedTuple):
    """`extracted` and `expected` are what was compared, as text; None where nothing was found.

    `label` is the class of the answer where the check knows classes, `metrics` what other rules say of it (0 to 1).
    """

    outcome: Outcome
    extracted: str | None = None
    expected: str | None = None
    note: str | None = None
    label: str | None = None
    metrics: Mapping[str, float] = MappingProxyType({})


Check = Callable[[str, str, Example], Judgement]
"""(response, reference, example) -> Judgement."""

Place = Callable[[str, str, Example], str | None]
"""(response, reference, example) -> the response with the reference's answer in the one place where its own wrong one
stands; None where that place cannot be told. Nothing but that place changes."""


def compare(extracted: Any, expected: Any, show: Callable[[Any], str] = str) -> Judgement:
    """Equality where both sides have an answer: a missing answer never equals anything, not even another one."""
    wanted = None if expected is None else show(expected)
    seen = wanted if extracted == expected else None if extracted is None else show(extracted)
    if expected is None:
        return Judgement("no_reference", seen, wanted)
    if extracted is None:
        return Judgement("no_answer", seen, wanted)
    return Judgement("same" if extracted == expected else "different", seen, wanted)
