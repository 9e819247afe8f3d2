"""The loss: by default the negative log-likelihood of the response tokens (Equations 2 and 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from selfdistill.training.objective import IGNORED, Objective

PLAIN = Objective()


def response_loss(
    model: Any,
    inputs: dict[str, torch.Tensor],
    some_logits: bool = True,
    objective: Objective = PLAIN,
    seed: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """Sum over the batch of weight times loss in nats, a scalar, over tokens whose label is not `IGNORED`. The weights
    are `inputs["weights"]`, which lie as the labels do; without them, 1. `seed` answers as the seed LM does, for a loss
    that sees its logits.

    Logits are made only at positions where some row has a target, where the model can (`some_logits`).
    """
    inputs = dict(inputs)
    targets, weights = inputs.pop("labels")[:, 1:], inputs.pop("weights", None)
    where = (targets != IGNORED).any(0).nonzero().flatten()
    if len(where) == 0:
        where = where.new_zeros(1)  # a model without any logits has no gradient, not even zero
    chosen = {"logits_to_keep": where} if some_logits else {}
    logits = model(**inputs, **chosen, use_cache=False).logits
    if not some_logits:
        logits = logits[:, where]
    logits, targets = logits.flatten(0, 1).float(), targets[:, where].flatten()
    if weights is None and objective.loss.per_token is None:
        return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    real = targets != IGNORED
    if objective.loss.per_token is None:
        losses = cross_entropy(logits[real], targets[real], reduction="none")
    else:
        at_seed = None
        if objective.loss.seed_logits and seed is not None:
            with torch.no_grad():
                before = seed(**inputs, **chosen, use_cache=False).logits
            at_seed = (before if some_logits else before[:, where]).flatten(0, 1).float()[real]
        losses = objective.loss.per_token(logits[real], targets[real], at_seed, objective.settings)
    if weights is not None:
        losses = losses * weights[:, 1:][:, where].flatten()[real]
    return losses.sum()
