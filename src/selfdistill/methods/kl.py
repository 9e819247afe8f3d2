"""KL anchor: beside the loss of vanilla fine-tuning, the model is held to the seed LM's predictions.

The term is the one of ASFT (arXiv 2509.23753): the forward KL divergence from the seed LM, over the whole vocabulary,
on response tokens.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from selfdistill.core.settings import Settings
from selfdistill.methods.base import Method
from selfdistill.training.objective import Loss


class Kl(Settings):
    """`kl_weight` is the weight of the KL divergence beside the NLL: lambda in the paper."""

    kl_weight: Annotated[float, Field(ge=0)] = 0.1


def per_token(logits: Any, targets: Any, seed: Any, settings: Kl) -> Any:
    """NLL + kl_weight * KL(seed LM || model), in nats."""
    from torch.nn.functional import nll_loss

    log_model = logits.log_softmax(-1)
    return nll_loss(log_model, targets, reduction="none") + settings.kl_weight * divergence(log_model, seed)


def divergence(log_model: Any, seed: Any) -> Any:
    """KL(seed LM || model) of each token in nats, [n], from the model's log-probabilities and the seed LM's logits,
    both [n, V]: the sum over the vocabulary of s (ln s - ln p)."""
    from torch.nn.functional import kl_div

    return kl_div(log_model, seed.log_softmax(-1), reduction="none", log_target=True).sum(-1)


METHOD = Method(
    label="fine-tuning with a KL anchor",
    short="KL anchor",
    doc="Beside the references' loss, the model is held to the seed LM's predictions by a KL term (arXiv 2509.23753).",
    card=(
        "fine-tuned on the reference responses with a KL anchor: the divergence from the base model's own predictions "
        "was part of the loss, as in arXiv 2509.23753."
    ),
    tag="kl-anchor",
    shape="triangle",
    colours=("#2f6f2f", "#7fd07f"),
    loss=Loss("kl", per_token, seed_logits=True),
    settings=Kl,
)
