"""Items that cannot be judged, as tables and sentences: how many, and why.

In:  `TaskResult.unjudgeable`, or what `compare` made of it.
Out: rows and lines for the terminal, the reports and the studies.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from selfdistill.core.progress import plain

UNJUDGEABLE = "They are in no score, and a difference is over the items that could be judged in both arms."


def unjudgeable_rows(table: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the items that cannot be judged, which are in no score; arms with the same ones as one row."""
    rows = []
    for task in table:
        arms: dict[tuple[str, str], list[str]] = {}
        for name, r in task["arms"].items():
            if r["unjudgeable"]:
                count = sum(r["unjudgeable"].values())
                said = f"{count} of {count + r['n']}", _reasons(r["unjudgeable"])
                arms.setdefault(said, []).append(name)
        rows += [[task["task"], ", ".join(names), *said] for said, names in arms.items()]
    return ["task", "arm", "items", "why"], rows


def _reasons(unjudgeable: dict[str, int], most: int = 3) -> str:
    """Why items cannot be judged, the commonest reason first; counts where there is more than one."""
    found = [(" ".join(plain(why).split())[:100], count) for why, count in Counter(unjudgeable).most_common()]
    if len(found) == 1:
        return found[0][0]
    listed = [f"{why}: {count}" for why, count in found[:most]]
    return "; ".join(listed + ([f"other reasons: {sum(n for _, n in found[most:])}"] if len(found) > most else []))


def unjudgeable_line(unjudgeable: dict[str, int]) -> str:
    """The same in a sentence."""
    count = sum(unjudgeable.values())
    return f"{count} item{'s' if count > 1 else ''} cannot be judged: {_reasons(unjudgeable)}"
