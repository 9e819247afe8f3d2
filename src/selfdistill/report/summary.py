"""What a run shows, in plain words made from its numbers."""

from __future__ import annotations

from typing import Any

from selfdistill.methods import method_of
from selfdistill.report.standings import front_sentence, many
from selfdistill.report.tables import difference_of
from selfdistill.run_folder import pairs


def sentence(report: dict[str, Any]) -> str:
    """What the run shows, in plain words made from its numbers: the verdict of every pair of arms, or of more arms than
    fit side by side which of them nothing beats."""
    return (many(report) and front_sentence(report)) or " ".join(report["verdicts"]) or NOTHING_COMPARED


def verdicts(report: dict[str, Any]) -> list[str]:
    """What every arm shows against its base. A difference is called one only where its p, adjusted over all tasks of
    the two arms, is at most ALPHA."""
    methods = {arm["name"]: method_of(arm["method"]) for arm in report["arms"]}
    several = len(pairs(report)) > 1
    return [
        (f"{arm} against {base}: " if several else "") + said
        for base, arm in pairs(report)
        if (said := _said(report["tasks"], {base: methods[base].label, arm: methods[arm].label}))
    ]


NOTHING_COMPARED = "Nothing to compare: no task has items that could be judged in both arms."


def _said(tasks: list[dict[str, Any]], labels: dict[str, str]) -> str:
    """What became of the tasks under two arms, a base and what is compared with it; `labels` name them."""
    base, arm = labels
    moved = [(t, {name: difference_of(t, "seed", name) for name in labels}) for t in tasks]
    both = [(t, {name: d for name, d in found.items() if d}) for t, found in moved if all(found.values())]
    parts = [
        f"On the target {t['task']}, {labels[base]} moved the model by {_points(d[base])} and {labels[arm]} by "
        f"{_points(d[arm], '')}{_behind(difference_of(t, base, arm), labels[base], labels[arm])}."
        for t, d in both
        if t["role"] == "target"
    ]
    others = [(t["task"], d) for t, d in both if t["role"] != "target"]
    if others:
        fell = {name: [task for task, d in others if d[name]["value"] < 0 and _moved(d[name])] for name in labels}
        mean = {name: 100 * sum(d[name]["value"] for _, d in others) / len(others) for name in labels}
        abilities, they = ("abilities", "their mean") if len(others) > 1 else ("ability", "it")
        parts.append(
            f"Of {len(others)} other {abilities}, {len(fell[base])} fell under {labels[base]}"
            f"{_names(fell[base])} and {len(fell[arm])} under {labels[arm]}{_names(fell[arm])}; "
            f"{they} changed by {mean[base]:+.1f} and {mean[arm]:+.1f} points."
        )
    return " ".join(parts)


def _behind(d: dict[str, Any] | None, base: str, arm: str) -> str:
    """Said where the arm reaches less on the target than its base."""
    if not d or d["value"] >= 0:
        return ""
    noise = "" if _moved(d) else " (inside the noise)"
    return f": there {arm} is {-100 * d['value']:.1f} points behind {base}{noise}"


def _points(d: dict[str, Any], unit: str = " points") -> str:
    noise = "" if _moved(d) else " (inside the noise)"
    return f"{100 * d['value']:+.1f}{unit}{noise}"


ALPHA = 0.05
"""Level of the adjusted tests behind the summary."""


def _moved(d: dict[str, Any]) -> bool:
    """Whether a difference is one, by the test that is adjusted over the tasks."""
    return bool(d["p_holm"] <= ALPHA)


def _names(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
