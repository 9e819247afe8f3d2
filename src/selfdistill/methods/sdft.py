"""SDFT: rows train on their selected rewrites (Yang et al., ACL 2024, arXiv 2402.13669, Section 3)."""

from __future__ import annotations

from typing import Any

from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.core.rows import Source, TrainingRow
from selfdistill.methods.base import Method, Need, Seen
from selfdistill.models.thoughts import joined


def rows(seen: Seen, settings: Any = None) -> list[TrainingRow]:
    """What was selected of the rewrites: the rewrite, or the reference where none passed."""
    return [row_of(example, seen.selected[example.id]) for example in seen.examples]


def row_of(example: Example, chosen: Selected, source: Source = "distilled") -> TrainingRow:
    """The row that trains on what was selected, with its thoughts where they train. `source` is that of words of the
    seed LM's own."""
    responses = tuple(map(joined, chosen.thoughts, chosen.responses)) if chosen.thoughts else chosen.responses
    return TrainingRow(
        example, responses, source if chosen.rewritten or source == "own" else "original", chosen.reason.value
    )


METHOD = Method(
    label="SDFT",
    short="SDFT",
    doc="Rows train on the seed LM's rewrites of their references, where these pass the check (arXiv 2402.13669).",
    card=(
        "trained by Self-Distillation Fine-Tuning (SDFT, Yang et al., ACL 2024, arXiv 2402.13669): the base model "
        "itself rewrote the reference responses of the training data. A rewrite was trained on where it passed the "
        "check against its reference, else the reference."
    ),
    tag="sdft",
    shape="diamond",
    colours=("#0072b2", "#56b4e9"),
    needs=frozenset({Need.REWRITES}),
    rows=rows,
)
