"""Self only: rows train on the seed LM's own right answers, and rows without one are left out. It shows what is kept
where the references give nothing but which answers are right (as in arXiv 2308.01825, there called RFT)."""

from __future__ import annotations

from typing import Any

from selfdistill.core.rows import TrainingRow
from selfdistill.methods import sdft
from selfdistill.methods.base import Method, Need, Seen


def rows(seen: Seen, settings: Any = None) -> list[TrainingRow]:
    """Own right answers, the nearest one to the seed LM of each row."""
    return [sdft.row_of(e, seen.own[e.id][0], "own") for e in seen.examples if seen.own.get(e.id)]


METHOD = Method(
    label="training on own answers only",
    short="self only",
    doc="Rows train on the seed LM's own right answers; rows without one are left out (a control; arXiv 2308.01825).",
    card=(
        "trained on the base model's own answers that passed the check; rows without one were left out. It is a "
        "control: nothing was taken from the references but which answers are right."
    ),
    tag="self-training",
    shape="circle",
    colours=("#5c6b00", "#b9cc33"),
    needs=frozenset({Need.OWN}),
    rows=rows,
    leaves_out=True,
)
