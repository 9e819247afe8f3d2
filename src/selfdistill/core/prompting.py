"""Values of the table `[prompt]`: days, and variables of a chat template."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

TAKEN = {
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens",
}  # fmt: skip
"""Names that `apply_chat_template` has for itself."""


def _day(day: Any) -> Any:
    if isinstance(day, date):  # as TOML has it
        return day.strftime("%Y-%m-%d")
    try:
        return date.fromisoformat(day).isoformat()
    except (TypeError, ValueError):
        raise ValueError("expected a day as year-month-day, such as 2026-11-28") from None


def _variables(given: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(TAKEN.intersection(given)):
        raise ValueError(f"{taken[0]!r} is given to the chat template by this program. Leave it out")
    return given


Day = Annotated[str, BeforeValidator(_day)]
Variables = Annotated[dict[str, Any], AfterValidator(_variables)]
Thinking = Literal["off", "strip", "keep"]
