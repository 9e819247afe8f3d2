"""The methods by name. A new one is a file that says what differs from vanilla, and a line here."""

from __future__ import annotations

from selfdistill.core.errors import UserError
from selfdistill.methods import sdft, vanilla
from selfdistill.methods.base import Method

METHODS: dict[str, Method] = {"vanilla": vanilla.METHOD, "sdft": sdft.METHOD}

USUAL = ("vanilla", "sdft")
"""What is trained where nobody names a method: the first on references, the second on selected rewrites."""


def usual(rewrites: bool) -> str:
    """The usual method for references alone, or for selected rewrites."""
    return next(name for name in USUAL if METHODS[name].rewrites == rewrites)


def method_named(name: str, where: str) -> Method:
    """The method of that name. Raises UserError, after `where`, for an unknown one."""
    if name not in METHODS:
        raise UserError(f"{where}: no method is named {name!r}. There are: {', '.join(METHODS)}.")
    return METHODS[name]
