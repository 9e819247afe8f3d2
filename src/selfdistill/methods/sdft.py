"""SDFT: rows train on their selected rewrites (Yang et al., ACL 2024, arXiv 2402.13669, Section 3)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.methods.base import Method, Responses
from selfdistill.models.thoughts import joined


def mixed(examples: Sequence[Example], selected: Mapping[str, Selected], mix_ratio: float, seed: int) -> Responses:
    """Responses by id: a share `mix_ratio` of the rows takes the selected response, the rest the original.

    The rows of a smaller ratio are among those of a larger one, so a sweep changes one thing (Section 5.1).
    """
    ids = sorted(e.id for e in examples)
    random.Random(seed).shuffle(ids)
    distilled = set(ids[: round(mix_ratio * len(ids))])
    return {e.id: _with_thoughts(selected[e.id]) if e.id in distilled else e.references for e in examples}


def _with_thoughts(row: Selected) -> tuple[str, ...]:
    return tuple(map(joined, row.thoughts, row.responses)) if row.thoughts else row.responses


METHOD = Method(
    label="SDFT",
    short="SDFT",
    card=(
        "trained by Self-Distillation Fine-Tuning (SDFT, Yang et al., ACL 2024, arXiv 2402.13669): the base model "
        "itself rewrote the reference responses of the training data. A rewrite was trained on where it passed the "
        "check against its reference, else the reference."
    ),
    tag="sdft",
    shape="diamond",
    colours=("#0072b2", "#56b4e9"),
    base="vanilla",
    rewrites=True,
    rows=mixed,
)
