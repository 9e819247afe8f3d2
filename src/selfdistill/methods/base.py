"""Method: what trains, and how its arms are shown. All defaults together are vanilla fine-tuning.

A method is one file that says what differs from vanilla, and one line in `METHODS` (`methods/__init__.py`). Nothing
else knows a method by its name: the run, the reports, the page and the model card ask its record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected

Responses = dict[str, tuple[str, ...]]
"""What trains, by the id of the row: the responses to all its turns that train."""

Rows = Callable[[Sequence[Example], Mapping[str, Selected], float, int], Responses]
"""(rows, selected rewrites by id, mix ratio, seed) -> what trains."""


def references(examples: Sequence[Example], selected: Mapping[str, Selected], mix_ratio: float, seed: int) -> Responses:
    """The references as they stand."""
    return {e.id: e.references for e in examples}


@dataclass(frozen=True)
class Method:
    """`label` names the method in a sentence, `short` where room is scarce. `base` is the method that its arms are
    compared with, trained on the same rows; None is compared with the seed LM alone. `rewrites`: whether selected
    rewrites train, so that the mix ratio makes arms of its own.

    `shape` (circle, square, diamond, triangle) and `colours` (on light and on dark ground) are those of its marks.
    `card` says in a model card what the weights are, after "A LoRA adapter, " or the like; `tag` is the hub's.
    """

    label: str
    short: str
    card: str
    tag: str
    shape: str
    colours: tuple[str, str]
    base: str | None = None
    rewrites: bool = False
    rows: Rows = references
