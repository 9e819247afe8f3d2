"""The rows of an arm: what its method makes of what was seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.methods import method_named
from selfdistill.methods.base import Method, Need, Seen, Terms
from selfdistill.training.objective import Objective


def training_rows(
    method: Method,
    seen: Seen,
    settings: Settings,
    where: str,
    terms: Callable[[Sequence[TrainingRow]], Terms] | None = None,
) -> list[TrainingRow]:
    """What trains by a method, with the weights of the tokens. `terms` gives what the seed LM thinks of the tokens of
    rows, where the method asks for it.

    Raises UserError, after `where`, for a method that does not answer every turn of every row, and where nothing is
    left to train on.
    """
    rows = method.rows(seen, settings)
    if method.rewrites and seen.mix_ratio < 1:
        takes = mixed(seen.examples, seen.mix_ratio, seen.seed)
        plain = {e.id: TrainingRow(e, e.references) for e in seen.examples if e.id not in takes}
        kept: dict[str, list[TrainingRow]] = {row.id: [] for row in rows if row.id in takes}
        for row in rows:
            if row.id in takes:
                kept[row.id].append(row)
        rows = [row for e in seen.examples for row in kept.get(e.id, [plain[e.id]] if e.id in plain else [])]
    _whole(method, seen.examples, rows, where)
    if method.weigh and terms:
        rows = method.weigh(rows, terms(rows), settings)
    if method.more:
        rows = [*rows, *method.more(seen, settings)]
    if not rows:
        raise UserError(f"{where}: no row is left to train on. {method.doc}")
    return rows


def rows_of(
    name: str, examples: Sequence[Example], selected: Mapping[str, Selected], mix_ratio: float, seed: int, where: str
) -> tuple[list[TrainingRow], Objective]:
    """What trains, and what is minimised, by a method whose rows need nothing but what was selected. Raises UserError,
    after `where`, for one that needs more: a run makes that."""
    method = method_named(name, where)
    if more := [need.value for need in Need if need in method.needs - {Need.REWRITES}]:
        raise UserError(f"{where} {name} needs more of the seed LM ({', '.join(more)}). `selfdistill run` makes it.")
    if method.after:
        raise UserError(f"{where} {name} goes on after the training. `selfdistill run` does that.")
    settings = method.settings()
    seen = Seen(examples, selected, mix_ratio=mix_ratio, seed=seed)
    return training_rows(method, seen, settings, f"{where} {name}"), method.objective(settings)


def mixed(examples: Sequence[Example], mix_ratio: float, seed: int) -> set[str]:
    """Ids of the share `mix_ratio` of the rows that takes what the seed LM wrote; the rest takes the references.

    The rows of a smaller ratio are among those of a larger one, so a sweep changes one thing (Section 5.1).
    """
    ids = sorted(e.id for e in examples)
    random.Random(seed).shuffle(ids)
    return set(ids[: round(mix_ratio * len(ids))])


def _whole(method: Method, examples: Sequence[Example], rows: Sequence[TrainingRow], where: str) -> None:
    """All arms train on the same rows, but for methods that say otherwise; every turn that trains has a response."""
    there = {row.id for row in rows}
    missing = [e.id for e in examples if e.id not in there] if not method.leaves_out else []
    short = [row.id for row in rows if len(row.responses) != len(row.example.references)]
    if missing or short:
        lacking = [*missing, *short]
        raise UserError(
            f"{where}: its rows answer {len(examples) - len(lacking)} of {len(examples)} rows in full (not "
            f"{lacking[0]}). All arms train on the same rows: give every turn a response, such as its reference."
        )
