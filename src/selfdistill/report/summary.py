"""What a run shows, in plain words made from its numbers."""

from __future__ import annotations

from typing import Any

from selfdistill.report.tables import difference_of
from selfdistill.run_folder import pairs


def sentence(report: dict[str, Any]) -> str:
    """What the run shows, in plain words made from its numbers. A difference is called one only where its p, adjusted
    over all tasks of the two arms, is at most ALPHA."""
    several = len(pairs(report)) > 1
    parts = [
        (f"{sdft} against {vanilla}: " if several else "") + said
        for vanilla, sdft in pairs(report)
        if (said := _said(report["tasks"], vanilla, sdft))
    ]
    return " ".join(parts) or NOTHING_COMPARED


NOTHING_COMPARED = "Nothing to compare: no task has items that could be judged in both arms."


def _said(tasks: list[dict[str, Any]], vanilla: str, sdft: str) -> str:
    moved = [(t, difference_of(t, "seed", vanilla), difference_of(t, "seed", sdft)) for t in tasks]
    both = [(t, {"vanilla": v, "sdft": s}) for t, v, s in moved if v and s]
    parts = [
        f"On the target {t['task']}, vanilla fine-tuning moved the model by {_points(d['vanilla'])} and SDFT by "
        f"{_points(d['sdft'], '')}."
        for t, d in both
        if t["role"] == "target"
    ]
    others = [(t["task"], d) for t, d in both if t["role"] != "target"]
    if others:
        fell = {
            arm: [name for name, d in others if d[arm]["value"] < 0 and _moved(d[arm])] for arm in ("vanilla", "sdft")
        }
        mean = {arm: 100 * sum(d[arm]["value"] for _, d in others) / len(others) for arm in ("vanilla", "sdft")}
        abilities, they = ("abilities", "their mean") if len(others) > 1 else ("ability", "it")
        parts.append(
            f"Of {len(others)} other {abilities}, {len(fell['vanilla'])} fell under vanilla fine-tuning"
            f"{_names(fell['vanilla'])} and {len(fell['sdft'])} under SDFT{_names(fell['sdft'])}; "
            f"{they} changed by {mean['vanilla']:+.1f} and {mean['sdft']:+.1f} points."
        )
    return " ".join(parts)


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
