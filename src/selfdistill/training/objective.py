"""What a training minimises, without torch: which loss a token has, and what the sum of a step is divided by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

IGNORED = -100
"""The label of a token that carries no loss."""

PerToken = Callable[[Any, Any, Any, Any], Any]
"""(logits [n, V] in fp32, targets [n], the seed LM's logits [n, V] in fp32 or None, settings) -> losses [n] in nats.
The n are the tokens of a batch that carry loss, in no order that matters."""


@dataclass(frozen=True)
class Loss:
    """A loss of single tokens; without `per_token` it is the negative log-likelihood (Equations 2 and 5).

    `seed_logits`: it sees the seed LM's logits beside those of the model in training. They come from the same weights
    with the adapter off, or where all weights train from a second copy.
    """

    name: str
    per_token: PerToken | None = None
    seed_logits: bool = False


NLL = Loss("nll")


@dataclass(frozen=True)
class Objective:
    """A loss with its settings. A step's loss is the sum of weight times loss over all its response tokens, divided by
    their number (`over = "tokens"`) or by the sum of their weights."""

    loss: Loss = NLL
    over: Literal["tokens", "weights"] = "tokens"
    settings: Any = None
    """Read by `loss.per_token`."""
