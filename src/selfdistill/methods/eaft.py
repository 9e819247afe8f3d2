"""EAFT: tokens weigh what the model in training is unsure of (arXiv 2601.02151)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from selfdistill.core.settings import Settings
from selfdistill.methods.base import Method
from selfdistill.training.objective import Loss

TOP = 20
"""Tokens that the entropy is of."""
MOST = 3.0
"""What the entropy is divided by, as published: about ln 20, the entropy where all of them are equally likely."""


class Eaft(Settings):
    """`alpha` is the exponent of the weight; at 0 all tokens weigh the same."""

    alpha: Annotated[float, Field(ge=0)] = 1.0


def per_token(logits: Any, targets: Any, seed: Any, settings: Eaft) -> Any:
    """(H / 3)^alpha times the NLL, with H the entropy in nats of the model's 20 likeliest tokens, whose probabilities
    are made to sum to 1. No gradient flows through the weight."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        likely = logits.topk(min(TOP, logits.shape[-1]), dim=-1).values.softmax(-1)
        weights = (torch.special.entr(likely).sum(-1) / MOST) ** settings.alpha
    return weights * cross_entropy(logits, targets, reduction="none")


METHOD = Method(
    label="entropy-adaptive fine-tuning",
    short="EAFT",
    doc="Tokens of the references weigh the more, the less sure the model in training is there (arXiv 2601.02151).",
    card=(
        "trained by entropy-adaptive fine-tuning (EAFT, arXiv 2601.02151): tokens of the reference responses weighed "
        "by the entropy of the model's own prediction in their place."
    ),
    tag="eaft",
    shape="square",
    colours=("#8a6100", "#e3b341"),
    loss=Loss("eaft", per_token),
    settings=Eaft,
)
