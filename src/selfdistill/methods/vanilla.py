"""Vanilla fine-tuning: every row trains on its reference (Section 2 of arXiv 2402.13669)."""

from __future__ import annotations

from selfdistill.methods.base import Method

METHOD = Method(
    label="vanilla fine-tuning",
    short="vanilla",
    doc="Every row trains on its reference.",
    card=(
        "fine-tuned on the reference responses as they stand: the vanilla fine-tuning that Self-Distillation "
        "Fine-Tuning (arXiv 2402.13669) is compared with."
    ),
    tag="sft",
    shape="square",
    colours=("#b94b00", "#f0863c"),
    base=None,
)
