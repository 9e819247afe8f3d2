"""Self-replay: beside the task's rows train general prompts with the answers that the seed LM gives to them (as SSR,
Huang et al., ACL 2024, arXiv 2403.01244, whose prompts are the model's own)."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field

from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.methods.base import Method, Need, Seen


class Replay(Settings):
    """Settings of self-replay: its share of all rows that train. Where there are fewer general prompts than that, all
    of them train."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.2


def more(seen: Seen, settings: Replay) -> list[TrainingRow]:
    """General prompts, drawn by the seed, with the seed LM's answers."""
    count = round(settings.share * len(seen.examples) / (1 - settings.share))
    drawn = random.Random(f"replay-{seen.seed}").sample(range(len(seen.general)), min(count, len(seen.general)))
    return [seen.general[n] for n in sorted(drawn)]


METHOD = Method(
    label="vanilla fine-tuning with self-replay",
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
)
