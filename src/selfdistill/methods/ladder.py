"""Ladder: S3FT with several own answers a row, and a loss that follows the model's own probability ("Mind the Gap",
arXiv 2509.15157; its importance weights are in practice those of DFT)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.methods import dft, s3ft, sdft
from selfdistill.methods.base import Method, Seen


class Ladder(Settings):
    """Settings of the ladder: so many own right answers of a row train, each as a row of its own, as far as there are
    so many (`distill.candidates` are asked for)."""

    samples: Annotated[int, Field(ge=1)] = 4


def rows(seen: Seen, settings: Ladder) -> list[TrainingRow]:
    """The own right answers of a row, up to `samples`; without one its rewrite, else its reference."""
    made = []
    for row in s3ft.rows(seen):
        own = seen.own.get(row.id, ())[: settings.samples]
        made += [sdft.row_of(row.example, one, "own") for one in own] or [row]
    return made


METHOD: Method = replace(
    s3ft.METHOD,
    label="the ladder of data rewriting",
    short="ladder",
    doc="S3FT with several own right answers a row, and the loss of DFT (arXiv 2509.15157).",
    card=(
        "trained on the base model's own answers that passed the check, several a row where there were, else on its "
        "rewrite of the reference, else on the reference, with a loss that follows the model's own probability (data "
        "rewriting, arXiv 2509.15157)."
    ),
    tag="data-rewriting",
    shape="diamond",
    colours=("#3a5f8a", "#8fb4e0"),
    rows=rows,
    several=True,
    loss=dft.METHOD.loss,
    settings=Ladder,
)
