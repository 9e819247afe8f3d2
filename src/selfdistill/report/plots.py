"""Small plots in characters, for those on a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 41
"""Columns of the axis; odd, so that zero has one."""


def forest(differences: Sequence[tuple[str, Mapping[str, Any] | None]]) -> list[str]:
    """One line a paired difference, in points: `-` the 95 % interval, `o` the value, `|` zero; the axis ends at the
    widest interval. An unknown one is "not measured"."""
    known = [d for _, d in differences if d]
    if not known:
        return []
    reach = max(max(abs(d["low"]), abs(d["high"])) for d in known) or 1.0
    longest = max(len(name) for name, _ in differences)
    lines = [f"{name:<{longest}}  {_interval(d, reach) if d else 'not measured'}".rstrip() for name, d in differences]
    ends = f"{-100 * reach:+.1f}", f"{100 * reach:+.1f}"
    axis = f"{ends[0]:<{WIDTH // 2 - 1}}  0{ends[1]:>{WIDTH // 2 - 1}}"
    return [*lines, f"{'points':<{longest}}  {axis}"]


def _interval(d: Mapping[str, Any], reach: float) -> str:
    low, value, high = (_column(d[k] / reach) for k in ("low", "value", "high"))
    line = [" "] * WIDTH
    line[WIDTH // 2] = "|"
    line[low : high + 1] = "-" * (high + 1 - low)
    line[value] = "o"
    return "".join(line)


def _column(share: float) -> int:
    """The column of -1 to 1."""
    return round((share + 1) / 2 * (WIDTH - 1))


def curve(values: Sequence[float], width: int = WIDTH) -> str:
    """A line of `width` or fewer blocks; each stands for the mean of its part of the values, from the least to the
    most."""
    if not values:
        return ""
    blocks = "▁▂▃▄▅▆▇█"
    count = min(width, len(values))
    parts = [values[k * len(values) // count : (k + 1) * len(values) // count] for k in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    return "".join(blocks[round((m - low) / (high - low) * 7) if high > low else 0] for m in means)
