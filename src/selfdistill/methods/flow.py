"""FLOW: rows that the seed LM finds likely weigh more (Sanyal et al., ICML 2025, arXiv 2502.02797)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Annotated, Literal

from pydantic import Field

from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.methods.base import UNSCORED, Method, Need, Terms


class Flow(Settings):
    """`tau` is the temperature in nats a token; without it, the median over the rows. `per = "token"` weighs each token
    by its own NLL instead of the row by its mean. `over` is what a step's loss is divided by: its tokens, as published,
    or their weights."""

    tau: Annotated[float, Field(gt=0)] | None = None
    per: Literal["row", "token"] = "row"
    over: Literal["tokens", "weights"] = "tokens"


def weigh(rows: Sequence[TrainingRow], terms: Terms, settings: Flow) -> list[TrainingRow]:
    """Each row with exp(-NLL / tau) as the weight of the row, or of each of its tokens. A row without terms weighs what
    a row of median NLL does."""
    means = [None if (nlls := terms.nll(row.id)) is None else float(nlls.mean(dtype="float64")) for row in rows]
    middle = median([mean for mean in means if mean is not None] or [0.0])
    tau = settings.tau or middle or sys.float_info.min  # where most rows are certain, only these weigh anything
    weighed = []
    for row, mean in zip(rows, means, strict=True):
        if mean is None:
            weighed.append(replace(row, weights=math.exp(-middle / tau), reason=UNSCORED))
        elif settings.per == "row":
            weighed.append(replace(row, weights=math.exp(-mean / tau)))
        else:
            weighed.append(replace(row, weights=tuple(math.exp(-float(nll) / tau) for nll in terms.nll(row.id))))
    return weighed


METHOD = Method(
    label="FLOW",
    short="FLOW",
    doc="Rows weigh the more, the likelier the seed LM finds their references (arXiv 2502.02797).",
    card=(
        "fine-tuned with the row weights of FLOW (arXiv 2502.02797): the more likely the base model found a reference "
        "response, the more it weighed."
    ),
    tag="flow",
    shape="circle",
    colours=("#00708a", "#3fc1d9"),
    needs=frozenset({Need.TOKENS}),
    weigh=weigh,
    settings=Flow,
)
