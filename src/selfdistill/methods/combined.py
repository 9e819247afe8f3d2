"""Combinations of methods: `s3ft+asft` takes the rows of one and the loss of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import reduce
from typing import Any

from pydantic import create_model

from selfdistill.core.errors import UserError
from selfdistill.core.settings import Settings
from selfdistill.methods.base import Method, NoSettings

ONE = ("rows", "more", "general", "weigh", "over", "loss")
"""What at most one part of a combination may decide."""


def combined(parts: Mapping[str, Method], where: str) -> Method:
    """One method of several, by their names. Each may decide what the others leave as vanilla has it; what becomes of
    weights after the training is done one after the other. Raises UserError, after `where`, where two of them decide
    the same, have a setting of one name, or are the same."""
    usual = {field.name: field.default for field in fields(Method)}
    decided: dict[str, Any] = {}
    for what in ONE:
        who = [name for name, part in parts.items() if getattr(part, what) != usual[what]]
        if len(who) > 1:
            raise UserError(f"{where}: {' and '.join(who)} both decide the {what} of a training. Take one of them.")
        if who:
            decided[what] = getattr(parts[who[0]], what)
    methods = list(parts.values())
    if "weigh" in decided and (many := [name for name, part in parts.items() if part.several]):
        raise UserError(f"{where}: tokens cannot be weighed where several versions of a row train, as in {many[0]}.")
    return Method(
        label=" with ".join(m.label for m in methods),
        short="+".join(m.short for m in methods),
        doc=" ".join(m.doc for m in methods),
        card=" Then: ".join(m.card for m in methods),
        tag=methods[0].tag,
        shape=methods[0].shape,
        colours=methods[0].colours,
        base=next((m.base for m in methods if m.base), None),
        needs=frozenset[Any]().union(*(m.needs for m in methods)),
        leaves_out=any(m.leaves_out for m in methods),
        several=any(m.several for m in methods),
        after=tuple(step for m in methods for step in m.after),
        settings=_together([m.settings for m in methods if m.settings is not NoSettings], where),
        **decided,
    )


def _together(kinds: list[type[Settings]], where: str) -> type[Settings]:
    """One table of the settings of all."""
    names = [name for kind in kinds for name in kind.model_fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where}: two of its parts have a setting {twice[0]!r}. They cannot be told apart.")
    if len(kinds) < 2:
        return kinds[0] if kinds else NoSettings
    return reduce(lambda a, b: create_model("Combined", __base__=(a, b)), kinds)
