"""What a function of the API was given: a value of another kind is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selfdistill.core.errors import UserError

PLACE: tuple[type[Any], ...] = (str, os.PathLike)
"""What names a file or a folder."""


def given(what: str, value: Any, kinds: type[Any] | tuple[type[Any], ...], expected: str) -> Any:
    """The value. `what` is "function: argument". Raises UserError where the value is of none of the kinds."""
    if isinstance(value, kinds):
        return value
    shown = repr(str(value)) if isinstance(value, (str, Path)) else type(value).__name__
    raise UserError(f"{what} is {'None' if value is None else shown}; give it {expected}.")


def place(what: str, value: Any, expected: str = "a path") -> Path:
    """The path that was given, or that what was given stands for."""
    return Path(given(what, value, PLACE, expected))
