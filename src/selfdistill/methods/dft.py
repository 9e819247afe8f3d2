"""DFT: tokens weigh what the model in training thinks of them (arXiv 2508.05629).

Shipped for comparison: what the model does not expect gets hardly any gradient, so that it learns little where the seed
LM is far from the references.
"""

from __future__ import annotations

from typing import Any

from selfdistill.methods.base import Method
from selfdistill.training.objective import Loss


def per_token(logits: Any, targets: Any, seed: Any = None, settings: Any = None) -> Any:
    """The probability of the token times its NLL. No gradient flows through the probability."""
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(logits, targets, reduction="none")
    return (-losses.detach()).exp() * losses


METHOD = Method(
    label="dynamic fine-tuning",
    short="DFT",
    doc=(
        "Tokens of the references weigh as much as the model in training expects them (arXiv 2508.05629); for "
        "comparison, since it fails where the seed LM is far from the references."
    ),
    card=(
        "trained by dynamic fine-tuning (DFT, arXiv 2508.05629): tokens of the reference responses weighed by the "
        "probability that the model in training gave them."
    ),
    tag="dft",
    shape="diamond",
    colours=("#a0436b", "#ef8fb5"),
    loss=Loss("dft", per_token),
)
