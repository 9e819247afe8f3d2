"""Self-replay: beside the task's rows train general prompts with the answers that the seed LM gives to them (as SSR,
Huang et al., ACL 2024, arXiv 2403.01244, whose prompts are the model's own)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.methods.base import Method, Need, Seen


class Replay(Settings):
    """Settings of self-replay: its share of all rows that train. Where there are fewer general prompts than that, all
    of them train."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.2


def count(rows: int, settings: Replay) -> int:
    """How many general prompts make that share beside so many rows."""
    return round(settings.share * rows / (1 - settings.share))


def more(seen: Seen, settings: Replay) -> list[TrainingRow]:
    """General prompts with the seed LM's answers."""
    return [row for row in seen.general[: count(len(seen.examples), settings)] if row]


METHOD = Method(
    label="self-replay",
    short="replay",
    doc="Beside the rows train general prompts with the seed LM's own greedy answers (as arXiv 2403.01244).",
    card=(
        "fine-tuned on the training data beside general prompts that the base model itself had answered "
        "(self-replay, as in arXiv 2403.01244)."
    ),
    tag="self-replay",
    shape="circle",
    colours=("#8c3f8c", "#d895d8"),
    needs=frozenset({Need.GENERAL}),
    more=more,
    general=count,
    settings=Replay,
)
