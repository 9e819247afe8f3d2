"""STM: tokens that surprise the seed LM do not train (Wu et al., NeurIPS 2025, arXiv 2501.14315)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.methods.base import UNSCORED, Method, Need, Terms


class Stm(Settings):
    """`threshold` is the highest perplexity of a token that trains: at 2.5 the seed LM gives it a probability of 0.4.
    `keep_end` trains what ends a turn, whatever its perplexity: references without it would teach answers that never
    end. `control = "random"` masks as many tokens of each row, drawn at random."""

    threshold: Annotated[float, Field(gt=0)] = 2.5
    keep_end: bool = True
    control: Literal["random"] | None = None


def weigh(rows: Sequence[TrainingRow], terms: Terms, settings: Stm) -> list[TrainingRow]:
    """Each row with a weight of 1 for what trains and of 0 for what does not. A row without terms trains whole."""
    return [_masked(row, terms, settings) for row in rows]


def _masked(row: TrainingRow, terms: Terms, settings: Stm) -> TrainingRow:
    found = terms.nll(row.id)
    if found is None:
        return replace(row, reason=UNSCORED)
    kept = [bool(end) for end in terms.ends(row.id)] if settings.keep_end else [False] * len(found)
    highest = math.log(settings.threshold)
    masked = {n for n, nll in enumerate(found) if nll > highest and not kept[n]}
    if settings.control:
        free = [n for n, keeps in enumerate(kept) if not keeps]
        masked = set(random.Random(f"{settings.control}-{row.id}").sample(free, len(masked)))
    return replace(row, weights=tuple(0.0 if n in masked else 1.0 for n in range(len(found))))


METHOD = Method(
    label="selective token masking",
    short="STM",
    doc="Tokens of the references that surprise the seed LM carry no loss (arXiv 2501.14315).",
    card=(
        "trained by selective token masking (STM, arXiv 2501.14315): tokens of the reference responses to which the "
        "base model gives a low probability were read but carried no loss."
    ),
    tag="selective-token-masking",
    shape="triangle",
    colours=("#7a4fb5", "#b79cf0"),
    needs=frozenset({Need.TOKENS}),
    weigh=weigh,
    over="weights",
    settings=Stm,
)
