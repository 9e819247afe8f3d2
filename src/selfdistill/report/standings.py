"""Many arms: the front of target against retained and what it cost, as tables and sentences.

In:  `report["front"]` (`comparison.front`) and `report["costs"]` (`report.costs`).
Out: rows and lines for the terminal, report.md, the page and the model cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfdistill.methods import method_of
from selfdistill.report.tables import difference_cell
from selfdistill.run_folder import pairs

MANY = 6
"""The most arms that have room for a column, a colour or a line each in every list; more are shown by their front."""

SEED = "seed LM"

OTHER_PAIRS = "The differences between other arms are in report.json."

DEFINITION = (
    "An arm is beaten where another one, or the seed LM, is at least as high both on the target and in the mean of "
    "what must be kept, and higher in one of them. It is clearly beaten where both paired differences are above zero "
    "with their whole intervals. The intervals are 95 % for one arm, not for all of them together."
)


def many(report: Mapping[str, Any]) -> bool:
    """Whether there are more arms than fit side by side."""
    return len(report["arms"]) > MANY


def called(arms: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What readers know each arm as, by its name: its method where no other arm has it, else its own name; trainings
    with other seeds are one arm."""
    own = {arm["name"]: arm["name"].removesuffix(f"-seed{arm.get('seed')}") for arm in arms}
    having: dict[str, set[str]] = {}
    for arm in arms:
        having.setdefault(arm["method"], set()).add(own[arm["name"]])
    alone = {arm["name"]: len(having[arm["method"]]) == 1 for arm in arms}
    return {a["name"]: method_of(a["method"]).short if alone[a["name"]] else own[a["name"]] for a in arms}


def shown_pairs(report: Mapping[str, Any]) -> set[tuple[str, str]] | None:
    """The pairs whose differences are listed: of many arms only each with the seed LM and with its base, else None for
    all."""
    if not many(report):
        return None
    return {("seed", arm["name"]) for arm in report["arms"]} | set(pairs(dict(report)))


def ordered(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The standings: what nothing beats first, then by the gain on the target; at the end what was not measured."""

    def place(standing: Mapping[str, Any]) -> tuple[bool, bool, float]:
        gain = standing["target"] or standing["retained"]
        beaten = standing["beaten_by"] is None or bool(standing["beaten_by"])
        return standing["beaten_by"] is None, beaten, -gain["value"] if gain else 0.0

    return sorted(report["front"]["arms"], key=place)


def unbeaten(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The standings of the arms that nothing beats, the largest gain first."""
    return [s for s in ordered(report) if s["beaten_by"] is not None and not s["beaten_by"]]


def change_cell(change: Mapping[str, Any] | None) -> str:
    """A mean change with its interval, in points."""
    return difference_cell(dict(change) if change else None)


def worst_cell(worst: Mapping[str, Any] | None) -> str:
    """The retained task that changed for the worst."""
    return f"{change_cell(worst)} {worst['task']}" if worst else "not measured"


def standing_cell(standing: Mapping[str, Any], most: int = 2) -> str:
    """Whether anything beats the arm, and what, those that clearly do first."""
    beaten, clearly = standing["beaten_by"], standing["clearly_by"]
    if beaten is None:
        return "not measured"
    if not beaten:
        return "nothing beats it"
    word, names = ("clearly beaten", clearly) if clearly else ("beaten", beaten)
    rest, others = len(names) - len(names[:most]), len(beaten) - len(names)
    more = (f" and {rest} more" if rest else "") + (f"; also beaten by {others}" if others else "")
    return f"{word} by {_listed(names[:most])}{more}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(SEED if name == "seed" else name for name in names)


def gives_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what every arm gives."""
    rows = [
        [s["arm"], change_cell(s["target"]), change_cell(s["retained"]), worst_cell(s["worst"]), standing_cell(s)]
        for s in ordered(report)
    ]
    return ["arm", "target", "retained", "worst retained", "standing"], rows


def cost_cells(cost: Mapping[str, float | None]) -> list[str]:
    """Seconds of the seed pass, the training and the evaluation, tokens that train, share of reference text."""
    seconds = [_number(cost[k], "{:,.0f}") for k in ("seed_pass", "training", "evaluation")]
    share = cost["reference"]
    return [*seconds, _number(cost["tokens"], "{:,.0f}"), _number(share and 100 * share, "{:.0f} %")]


COSTS = ("seed pass, s", "training, s", "evaluation, s", "tokens that train", "reference text")


def costs_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what every arm cost."""
    rows = [[s["arm"], *cost_cells(report["costs"][s["arm"]])] for s in ordered(report)]
    return ["arm", *COSTS], rows


COST_NOTE = (
    "Costs are those of one training. The seed pass is made once for all arms that need it: the time is that of all "
    "stages that the arm's method needs, with repair where some arm repairs. Arms that share a training show its time "
    "at the first of them. Reference text is that of rows that train on their references; an answer that repair put in "
    "place is not counted."
)


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else form.format(value)


def interval_line(report: Mapping[str, Any]) -> str:
    """What the means are over, and what is in their intervals."""
    front = report["front"]
    counts = sorted({s["trainings"] for s in front["arms"] if s["target"] or s["retained"]}) or [1]
    if counts[-1] == 1:
        over = "the error of the items alone: of one training, how far others lie apart is not known"
    else:
        ends = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
        over = f"the error of the items and that of the training seeds ({ends} trainings an arm)"
    return (
        f"Points against the {SEED}, means over {_tasks(front['target'], 'target')} and "
        f"{_tasks(front['retained'], 'retained')}. 95 % intervals hold {over}."
    )


def _tasks(names: Sequence[str], role: str) -> str:
    return f"{len(names) or 'no'} {role} task{'' if len(names) == 1 else 's'}"


def left_out_lines(report: Mapping[str, Any]) -> list[str]:
    """Tasks that are in no mean, a line each."""
    why = "some arm has nothing that can be compared on it, so it is in no mean"
    return [f"{task}: {why}" for task in report["front"]["left_out"]]


def front_sentence(report: Mapping[str, Any]) -> str:
    """Which arms nothing beats, and what became of the others; nothing where no arm has both means."""
    standings = [s for s in report["front"]["arms"] if s["beaten_by"] is not None]
    if not standings:
        return ""
    best = unbeaten(report)
    clearly = sum(bool(s["clearly_by"]) for s in standings)
    named = [
        f"{s['arm']} (target {100 * s['target']['value']:+.1f}, retained {100 * s['retained']['value']:+.1f})"
        for s in best
    ]
    first = f"nothing beats {_and(named)}" if best else f"the {SEED} or another arm beats every one"
    others = len(standings) - len(best)
    rest = f"Of the {others} others" if best and others > 1 else "Of them"
    beaten = f" {rest}, {clearly} {'is' if clearly == 1 else 'are'} clearly beaten." if others else ""
    return f"Of {len(standings)} arms, {first}.{beaten}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def standing_line(report: Mapping[str, Any], arm: str) -> str | None:
    """Where one arm stands among those of its run, in a sentence; None where there is nothing to say."""
    standing = next((s for s in report["front"]["arms"] if s["arm"] == arm), None)
    if standing is None or not (standing["target"] or standing["retained"]):
        return None
    worst = f", the worst of them {worst_cell(standing['worst'])}" if standing["worst"] else ""
    said = f"Target {change_cell(standing['target'])}, retained {change_cell(standing['retained'])}{worst}."
    count, named = len(report["front"]["arms"]), len(standing["beaten_by"] or ())
    return f"{said} Of the {count} arms of its run: {standing_cell(standing, named)}." if count > 1 else said
