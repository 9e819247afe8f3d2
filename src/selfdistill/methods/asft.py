"""ASFT: DFT's weights with a KL anchor to the seed LM (ICLR 2026, arXiv 2509.23753)."""

from __future__ import annotations

from typing import Any

from selfdistill.methods.base import Method
from selfdistill.methods.kl import Kl, divergence
from selfdistill.training.objective import Loss


def per_token(logits: Any, targets: Any, seed: Any, settings: Kl) -> Any:
    """Probability times NLL, as in DFT, + kl_weight * KL(seed LM || model), in nats. No gradient flows through the
    probability."""
    from torch.nn.functional import nll_loss

    log_model = logits.log_softmax(-1)
    losses = nll_loss(log_model, targets, reduction="none")
    return (-losses.detach()).exp() * losses + settings.kl_weight * divergence(log_model, seed)


METHOD = Method(
    label="anchored supervised fine-tuning",
    short="ASFT",
    doc="Tokens weigh as in DFT, and the model is held to the seed LM's predictions by a KL term (arXiv 2509.23753).",
    card=(
        "trained by anchored supervised fine-tuning (ASFT, arXiv 2509.23753): tokens of the reference responses "
        "weighed by the probability that the model in training gave them, and the divergence from the base model's own "
        "predictions was part of the loss."
    ),
    tag="asft",
    shape="circle",
    colours=("#6b4a2b", "#c9a27a"),
    loss=Loss("asft", per_token, seed_logits=True),
    settings=Kl,
)
