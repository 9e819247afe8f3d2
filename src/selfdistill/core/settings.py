"""Settings: frozen tables whose unknown keys are refused with the list of the valid ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from selfdistill.core.addresses import without_secrets
from selfdistill.core.errors import UserError
from selfdistill.core.said import settings_error


class Settings(BaseModel):
    """Base of all tables: frozen, no unknown keys, and no value in a traceback, which may hold a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


S = TypeVar("S", bound=Settings)


Place = Annotated[str, AfterValidator(without_secrets)]
"""A path, a name, or an address without a secret."""


def checked(kind: type[S], values: dict[str, Any], where: str, given: Mapping[str, str] | None = None) -> S:
    """Build settings from values. Raises UserError, after `where`, or after how a key was `given` beside it (by its
    dotted name); for an unknown key it lists the valid ones."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(settings_error(error, kind, values, where, given or {})) from None
