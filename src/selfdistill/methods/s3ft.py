"""S3FT: a row trains on the seed LM's own answer where that is right, else on its rewrite, else on the reference
(Gupta et al., Findings of NAACL 2025, arXiv 2502.08130, Figure 1)."""

from __future__ import annotations

from typing import Any

from selfdistill.core.rows import TrainingRow
from selfdistill.methods import sdft
from selfdistill.methods.base import Method, Need, Seen


def rows(seen: Seen, settings: Any = None) -> list[TrainingRow]:
    """Own answer, rewrite, reference: the first that is right."""
    return [
        sdft.row_of(e, seen.own[e.id][0], "own") if seen.own.get(e.id) else sdft.row_of(e, seen.selected[e.id])
        for e in seen.examples
    ]


METHOD = Method(
    label="S3FT",
    short="S3FT",
    doc="Rows train on the seed LM's own right answer, else on its rewrite, else on the reference (arXiv 2502.08130).",
    card=(
        "trained by Selective Self-to-Supervised Fine-Tuning (S3FT, arXiv 2502.08130): where the base model's own "
        "answer passed the check it was trained on, else its rewrite of the reference where that passed, else the "
        "reference."
    ),
    tag="s3ft",
    shape="triangle",
    colours=("#00755c", "#2fd0a7"),
    needs=frozenset({Need.REWRITES, Need.OWN}),
    rows=rows,
)
