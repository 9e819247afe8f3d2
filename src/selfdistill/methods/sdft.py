"""SDFT: a share of the rows trains on its selected response (arXiv 2402.13669, Section 5.1)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from selfdistill.core.records import Example, Selected


def mixed(
    examples: Sequence[Example], selected: Mapping[str, Selected], mix_ratio: float, seed: int
) -> dict[str, tuple[str, ...]]:
    """Responses by id: a share `mix_ratio` of the rows takes the selected response, the rest the original.

    The rows of a smaller ratio are among those of a larger one, so a sweep changes one thing (Section 5.1).
    """
    ids = sorted(e.id for e in examples)
    random.Random(seed).shuffle(ids)
    distilled = set(ids[: round(mix_ratio * len(ids))])
    return {e.id: selected[e.id].responses if e.id in distilled else e.references for e in examples}
