"""Gate: may the new model take the base model's place? Non-inferiority, probe by probe.

In:  answers of both to the same items (evaluation folders, or files of item scores: compare.scores), a margin.
Out: per task pass, fail or underpowered; an exit code, a table, JSON, JUnit XML. docs/gate.md says how to read them.

    selfdistill gate runs/mine/seed runs/mine/sdft --margin 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from selfdistill.comparison.differences import same_items, same_prompts, sources_of
from selfdistill.comparison.intervals import (
    Method,
    bootstrap_interval,
    cluster_error,
    cluster_interval,
    holm,
    lowest,
    mcnemar,
    sign_flip,
    standard_error,
    totals,
)
from selfdistill.comparison.power import items_to_detect, items_to_pass, units_to_pass
from selfdistill.comparison.scores import Answers, read_answers
from selfdistill.core.errors import UserError

Outcome = Literal["pass", "fail", "underpowered"]

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "underpowered": 3}
"""2 is bad input, as everywhere."""


@dataclass(frozen=True)
class Probe:
    """One task. Scores are shares; `low` is the one-sided (1 - alpha) lower bound of NEW - BASE, `error` its standard
    error, `p` the one-sided test that NEW is worse, `p_holm` the same adjusted over the probes. `gained` and `lost` are
    ids, most lost first.

    `units` were drawn independently: items, or clusters of them. `needed` is how many would do where the probe is
    underpowered, and `needed_for` what they would show; both None where no number would, or where none is needed.

    `left_out` items could not be judged in BASE and are not among the n; `taken_as_wrong` are those among the n that
    could not be judged in NEW.
    """

    task: str
    n: int
    units: int
    method: Method
    base: float
    new: float
    difference: float
    low: float
    error: float
    p: float
    gained: list[str]
    lost: list[str]
    left_out: int = 0
    taken_as_wrong: int = 0
    p_holm: float = 1.0
    verdict: Outcome = "underpowered"
    needed: int | None = None
    needed_for: str | None = None


@dataclass(frozen=True)
class Gate:
    """The verdict over all probes: fail if any fails, pass if all pass."""

    base: str
    new: str
    margin: float
    alpha: float
    verdict: Outcome
    probes: list[Probe]

    def record(self) -> dict[str, Any]:
        """What `--json` prints; scores and the margin are shares."""
        return asdict(self)


def gate(base: Path, new: Path, margin: float = 0.02, alpha: float = 0.05, tasks: Sequence[str] = ()) -> Gate:
    """Test every probe (or those named). `margin` is the tolerated loss, as a share.

    A probe passes if the lower bound of the paired difference lies above -margin. It fails if it does not, and NEW is
    worse than BASE beyond chance after Holm's adjustment over the probes: a model without any loss fails some probe
    with a chance of alpha at most. Else it has too few items to say (`underpowered`). All must pass, so that passing
    needs no adjustment (intersection-union test, Berger 1982): a model that lost the margin or more on any probe passes
    with a chance of alpha at most.

    What cannot be judged never helps NEW: an item that could be judged in BASE and not in NEW counts as wrong in NEW,
    one that could not be judged in BASE is left out, and a probe without any other is refused.
    Raises UserError where the two did not answer the same items of the same tasks in the same prompts.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin {100 * margin:g}: expected points between 0 and 100.")
    if not 0 < alpha < 0.5:
        raise UserError(f"alpha {alpha:g}: expected a chance between 0 and 0.5, for example 0.05.")
    answers = {place: read_answers(place) for place in (base, new)}
    probes = [
        _probe(task, base, new, answers[base], answers[new], alpha) for task in _tasks(base, new, answers, list(tasks))
    ]
    judged = [
        _judged(replace(probe, p_holm=p), margin, alpha)
        for probe, p in zip(probes, holm([probe.p for probe in probes]), strict=True)
    ]
    verdicts = [probe.verdict for probe in judged]
    verdict: Outcome = next((v for v in ("fail", "underpowered") if v in verdicts), "pass")
    return Gate(str(base), str(new), margin, alpha, verdict, judged)


def _tasks(base: Path, new: Path, answers: dict[Path, Answers], named: list[str]) -> list[str]:
    """The tasks to test. What only one side answered stops the gate: a probe that is left out unseen passes nothing."""
    for place, found in answers.items():
        if found.failed:
            raise UserError(
                f"{place}: the engine failed on {found.failed} items. Run the same `selfdistill evaluate` again, "
                "which asks them again."
            )
    for task, scores in answers[base].scores.items():
        if scores and not answers[base].judged(task) and (not named or task in named):
            why = ", ".join(answers[base].results[task].unjudgeable)
            raise UserError(
                f"task {task}: nothing to judge: none of its {len(scores)} items can be judged in {base} ({why}). "
                "Mend the items or the check, or name other tasks with --task."
            )
    listed = list(dict.fromkeys(t for place in (base, new) for t in answers[place].results))
    tasks = list(dict.fromkeys(named)) or listed
    whole = [t for t in listed if all(answers[place].scores.get(t) for place in (base, new))]
    for task in tasks:
        if task not in whole:
            place = next(place for place in (base, new) if not answers[place].scores.get(task))
            instead = f"answer it, or name others: {' '.join(f'--task {t}' for t in whole)}" if whole else "answer it"
            raise UserError(f"task {task}: {place} has no judged answers to it. Expected the same tasks; {instead}.")
    return tasks


def _probe(task: str, base: Path, new: Path, left: Answers, right: Answers, alpha: float) -> Probe:
    """What was measured on one task, before the family is judged."""
    before, after = left.scores[task], right.scores[task]
    same_items(task, before, after, base, new)
    same_prompts(task, base, left, new, right)
    held = {i: score for i, score in before.items() if score is not None}
    ids = sorted(held)
    a, b = [held[i] for i in ids], [after[i] or 0.0 for i in ids]
    unread = len(before) - len(ids), sum(after[i] is None for i in ids)
    sources = sources_of(task, [left, right])
    clusters = [sources[i] for i in ids] if sources else None
    changes = [y - x for x, y in zip(a, b, strict=True)]
    gained = sorted((k for k, c in enumerate(changes) if c > 1e-9), key=lambda k: -changes[k])
    lost = sorted((k for k, c in enumerate(changes) if c < -1e-9), key=lambda k: changes[k])
    found: tuple[Method, int, float, float, float]  # method, units, lower bound, standard error, p
    if clusters:
        sums = list(totals(changes, clusters).values())
        low = cluster_interval(changes, clusters, 1 - 2 * alpha)[0]
        found = "clusters", len(sums), low, cluster_error(changes, clusters), sign_flip(sums, "less")
    elif all(v in (0, 1) for v in (*a, *b)):
        # Half an item keeps the error at alpha where few pairs differ (stats.lowest).
        low = lowest(len(gained), len(lost), len(ids), NormalDist().inv_cdf(1 - alpha), correction=0.5)
        p = mcnemar(len(gained), len(lost), "less")
        found = "exact McNemar", len(ids), low, standard_error(changes), p
    else:
        low = bootstrap_interval(changes, 1 - 2 * alpha)[0]
        found = "bootstrap", len(ids), low, standard_error(changes), sign_flip(changes, "less")
    method, units, low, error, p = found
    n, mean = len(ids), sum(changes) / len(ids)
    names = [ids[k] for k in gained], [ids[k] for k in lost]
    return Probe(task, n, units, method, sum(a) / n, sum(b) / n, mean, low, error, p, *names, *unread)


def _judged(probe: Probe, margin: float, alpha: float) -> Probe:
    if probe.low > -margin:
        return replace(probe, verdict="pass")
    if probe.p_holm <= alpha:
        return replace(probe, verdict="fail")
    needed = _items(probe, margin, 0.0, alpha)
    if needed and needed > probe.units:
        return replace(probe, needed=needed, needed_for="pass if nothing was lost")
    # It was large enough for a model without a loss, and this one did not pass. Then what was seen is the best guess.
    if probe.difference > -margin:
        needed = _items(probe, margin, probe.difference, alpha)
        return replace(probe, needed=needed, needed_for="pass if the change is as measured")
    if probe.method == "exact McNemar":
        needed = items_to_detect(-probe.difference, _discordance(probe), 2 * alpha)
    else:
        needed = units_to_pass(-probe.difference, _deviation(probe), 0.0, alpha)
    if needed is None or needed <= probe.units:  # but for the adjustment it had enough
        return probe
    return replace(probe, needed=needed, needed_for="fail if the change is as measured")


def _items(probe: Probe, margin: float, change: float, alpha: float) -> int | None:
    """Items (or clusters) with which a true change passes with 80 % chance, going by how the answers differed here."""
    if probe.method == "exact McNemar":
        return items_to_pass(margin, _discordance(probe), change, alpha)
    return units_to_pass(margin, _deviation(probe), change, alpha)


def _discordance(probe: Probe) -> float:
    return (len(probe.gained) + len(probe.lost)) / probe.n


def _deviation(probe: Probe) -> float:
    return probe.error * math.sqrt(probe.units)


# --- what is written ---------------------------------------------------------------------------------------------
