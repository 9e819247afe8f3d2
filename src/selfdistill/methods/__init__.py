"""The methods by name. A new one is a file that says what differs from vanilla, and a line here."""

from __future__ import annotations

from selfdistill.core.errors import UserError
from selfdistill.methods import (
    asft,
    dft,
    eaft,
    flow,
    interpolate,
    kl,
    ladder,
    replay,
    s3ft,
    sdft,
    self_only,
    stm,
    vanilla,
)  # fmt: skip
from selfdistill.methods.base import Method
from selfdistill.methods.combined import combined

METHODS: dict[str, Method] = {
    "vanilla": vanilla.METHOD,
    "sdft": sdft.METHOD,
    "s3ft": s3ft.METHOD,
    "self_only": self_only.METHOD,
    "ladder": ladder.METHOD,
    "replay": replay.METHOD,
    "interpolate": interpolate.METHOD,
    "stm": stm.METHOD,
    "flow": flow.METHOD,
    "eaft": eaft.METHOD,
    "dft": dft.METHOD,
    "kl": kl.METHOD,
    "asft": asft.METHOD,
}

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


def method_of(name: str) -> Method:
    """The method of an arm, which may be a combination."""
    return method_named(name, "method")


def lead(name: str) -> str:
    """The method whose mark and colour a combination bears: its first part."""
    return name.partition("+")[0]


def method_named(name: str, where: str) -> Method:
    """The method of that name, or the combination of several: `s3ft+asft`. Raises UserError, after `where`, for an
    unknown one and for parts that do not go together."""
    parts = name.split("+")
    for part in parts:
        if part not in METHODS:
            raise UserError(f"{where}: no method is named {part!r}. There are: {', '.join(METHODS)}.")
    if twice := sorted({part for part in parts if parts.count(part) > 1}):
        raise UserError(f"{where} {name}: {twice[0]} stands there twice.")
    return METHODS[name] if len(parts) == 1 else combined({part: METHODS[part] for part in parts}, f"{where} {name}")
