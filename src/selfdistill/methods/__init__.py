"""The methods by name. A new one is a file that says what differs from vanilla, and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.methods import sdft, vanilla
from selfdistill.methods.base import Method, Responses

METHODS: dict[str, Method] = {"vanilla": vanilla.METHOD, "sdft": sdft.METHOD}

USUAL = ("vanilla", "sdft")
"""What is trained where nobody names a method: the first on references, the second on selected rewrites."""


def usual(rewrites: bool) -> str:
    """The usual method for references alone, or for selected rewrites."""
    return next(name for name in USUAL if METHODS[name].rewrites == rewrites)


def chosen(name: str | None, rewrites: bool, where: str, remedy: str) -> str:
    """The method of that name, or without one the usual for what there is. Raises UserError, after `where`, for an
    unknown one, and with a `remedy` for one that needs the rewrites that there are not."""
    name = name or usual(rewrites)
    if method_named(name, where).rewrites and not rewrites:
        raise UserError(f"{where} {name} trains on selected rewrites; {remedy}.")
    return name


def responses(
    name: str, examples: Sequence[Example], selected: Mapping[str, Selected], mix_ratio: float, seed: int
) -> Responses:
    """What trains by the method of that name. Raises UserError where it does not answer every turn of every row."""
    made = METHODS[name].rows(examples, selected, mix_ratio, seed)
    missing = [e.id for e in examples if len(made.get(e.id, ())) != len(e.references)]
    if missing:
        raise UserError(
            f"method {name}: its rows answer {len(examples) - len(missing)} of {len(examples)} rows in full (not "
            f"{missing[0]}). All arms train on the same rows: give every turn a response, such as its reference."
        )
    return made


def method_named(name: str, where: str) -> Method:
    """The method of that name. Raises UserError, after `where`, for an unknown one."""
    if name not in METHODS:
        raise UserError(f"{where}: no method is named {name!r}. There are: {', '.join(METHODS)}.")
    return METHODS[name]
