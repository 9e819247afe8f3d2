"""Interpolate: weights between the seed LM and the tuned model, W + s dW (WiSE-FT, Wortsman et al. 2022, arXiv
2109.01903). It goes on from another method's training: `sdft+interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from selfdistill.core.settings import Settings
from selfdistill.methods.base import Method


class Interpolate(Settings):
    """Settings of interpolation: how much of the weight change is taken; 0 is the seed LM, 1 the tuned model."""

    strength: Annotated[float, Field(ge=0)] = 0.5


def after(trained: Path, out: Path, seed_lm: Any, settings: Interpolate) -> None:
    """Write the weights W + s dW."""
    from selfdistill.training.interpolate import scaled

    scaled(trained, settings.strength, out, seed_lm)


METHOD = Method(
    label="interpolation with the seed LM",
    short="interpolate",
    doc="The weights half-way, or at any strength, between seed LM and tuned model (arXiv 2109.01903).",
    card="whose weight change was then scaled: interpolation with the base model (WiSE-FT, arXiv 2109.01903).",
    tag="wise-ft",
    shape="triangle",
    colours=("#8a5a00", "#e0a83c"),
    after=(after,),
    settings=Interpolate,
)
