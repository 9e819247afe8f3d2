"""The loss: negative log-likelihood of the response tokens (Equations 2 and 5)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from selfdistill.training.batches import IGNORED


def response_loss(model: Any, inputs: dict[str, torch.Tensor], some_logits: bool = True) -> torch.Tensor:
    """Sum over the batch of -log f(y_t | x, y_<t) in nats, a scalar, over tokens whose label is not `IGNORED`.

    Logits are made only at positions where some row has a target, where the model can (`some_logits`).
    """
    inputs = dict(inputs)
    targets = inputs.pop("labels")[:, 1:]
    where = (targets != IGNORED).any(0).nonzero().flatten()
    if len(where) == 0:
        where = where.new_zeros(1)  # a model without any logits has no gradient, not even zero
    chosen = {"logits_to_keep": where} if some_logits else {}
    logits = model(**inputs, **chosen, use_cache=False).logits
    if not some_logits:
        logits = logits[:, where]
    return cross_entropy(
        logits.flatten(0, 1).float(), targets[:, where].flatten(), ignore_index=IGNORED, reduction="sum"
    )
