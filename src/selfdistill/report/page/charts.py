"""The charts of the page, drawn from what the report and the run folder hold. Shape and text say what colour says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from selfdistill.comparison.intervals import mean_score
from selfdistill.methods import METHODS, lead
from selfdistill.report.page.svg import Frame, mark, path, tag, ticks

SHAPE = {"seed": "circle"} | {name: method.shape for name, method in METHODS.items()}
"""Of a method's marks; its colour is the class of its name in the page's style."""

POINTS = 250
"""Most points of a curve that are drawn."""

BINS = 28


# --- means -------------------------------------------------------------------------------------------------------


def _mean(results: Iterable[dict[str, Any] | None]) -> dict[str, float] | None:
    """`intervals.mean_score` of the tasks that were measured; None without any."""
    found = [(r["score"], r["low"], r["high"]) for r in results if r and r["score"] is not None]
    return dict(zip(("value", "low", "high"), mean_score(found), strict=True)) if found else None


def arm_points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm as {name, method, target, retained, seeds}: means over its tasks by role, and of each seed."""
    points = []
    for name, method in [("seed", "seed"), *((a["name"], lead(a["method"])) for a in report["arms"])]:
        point: dict[str, Any] = {"name": name, "method": method, "seeds": []}
        seeds: dict[str, list[float]] = {}
        for role in ("target", "retained"):
            results = [t["arms"].get(name) for t in report["tasks"] if t["role"] == role]
            point[role] = _mean(results)
            each = [r["seeds"] for r in results if r and r.get("seeds")]
            seeds[role] = [sum(values) / len(values) for values in zip(*each, strict=False)]
        point["seeds"] = list(zip(seeds["retained"], seeds["target"], strict=False))
        points.append(point)
    return points


def strength_points(table: Any) -> dict[str, list[dict[str, Any]]]:
    """What scale.json holds, by arm with rising strengths; what does not look like it is left out."""
    rows: list[Any] = []
    if isinstance(table, dict) and isinstance(table.get("arms"), dict):
        rows = [{"arm": a, **p} for a, c in table["arms"].items() if isinstance(c, list) for p in c if _is_map(p)]
    elif isinstance(table, list):
        rows = [p for p in table if _is_map(p)]
    found: dict[str, list[dict[str, Any]]] = {}
    for p in rows:
        if _is_number(p.get("strength")) and all(_is_mean(p.get(role)) for role in ("target", "retained")):
            found.setdefault(str(p.get("arm")), []).append(p)
    return {arm: sorted(curve, key=lambda p: float(p["strength"])) for arm, curve in found.items()}


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_mean(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(k)) for k in ("value", "low", "high"))


# --- the forest plot ---------------------------------------------------------------------------------------------


class Forest:
    """Bars of one table: each row draws its own difference on the common axis. Percentages, so it fits any width."""

    def __init__(self, differences: Sequence[dict[str, Any]]) -> None:
        ends = [0.0, *(100 * d[k] for d in differences for k in ("low", "high"))]
        pad = max(2.0, 0.04 * (max(ends) - min(ends)))
        self.low, self.high = min(ends) - pad, max(ends) + pad
        edge = 0.06 * (self.high - self.low)
        self.shown = [v for v in ticks(self.low, self.high, 6) if self.low + edge < v < self.high - edge or v == 0]

    def _x(self, points: float) -> str:
        return f"{100 * (points - self.low) / (self.high - self.low):.2f}%"

    def row(self, d: dict[str, Any], style: str, shape: str) -> Markup:
        """One difference with its interval; hollow where it is noise, dashed where it is not from the seed LM."""
        noise = d["low"] <= 0 <= d["high"]
        grid = [
            tag("line", x1=self._x(v), x2=self._x(v), y1=0, y2="100%", class_="grid" if v else "zero")
            for v in self.shown
        ]
        kind = f"line dashed {style}" if d["a"] != "seed" else f"line {style}"
        bar = tag("line", x1=self._x(100 * d["low"]), x2=self._x(100 * d["high"]), y1=13, y2=13, class_=kind)
        point = mark(shape, self._x(100 * d["value"]), 13, f"{style} hollow" if noise else style)
        return tag("svg", *grid, bar, point, width="100%", height=26, aria_hidden="true")

    def axis(self) -> Markup:
        """Tick labels."""
        step = self.shown[1] - self.shown[0] if len(self.shown) > 1 else 1.0
        texts = [
            tag(
                "text",
                f"{v:+g}".replace("-", "−") if v else "0",
                x=self._x(v),
                y=13,
                text_anchor="middle",
                class_="between" if round(v / step) % 2 else None,  # no room on a phone
            )
            for v in self.shown
        ]
        return tag("svg", *texts, width="100%", height=18, aria_hidden="true")


def share_bar(share: float, style: str) -> Markup:
    """A horizontal bar of a share from 0 to 1."""
    bar = tag("rect", x=0, y=5, height=14, width=f"{100 * share:.2f}%", class_=f"bar {style}", rx=2)
    return tag("svg", bar, width="100%", height=24, aria_hidden="true")


# --- distributions and curves ------------------------------------------------------------------------------------


def distributions(before: Sequence[float], after: Sequence[float]) -> tuple[Markup, list[list[str]]] | None:
    """Two histograms of seed NLL on one axis, one above the other, and their numbers as rows. The last bin also holds
    what lies beyond it. None without rows."""
    if not before:
        return None
    every = sorted([*before, *after])
    high = max(every[min(len(every) - 1, int(0.995 * len(every)))], 0.1) * 1.02
    low = min(0.0, every[0])
    frames = [Frame(low, high, 0, 1, height=h, bottom=b, top=28) for h, b in ((140, 22), (160, 42))]
    counts = [_binned(values, low, high) for values in (before, after)]
    most = max(max(c) for c in counts)
    pictures = []
    groups = (("references", "original", before), ("selected responses", "distilled", after))
    for frame, count, (name, style, values) in zip(frames, counts, groups, strict=True):
        scaled = Frame(low, high, 0, most * 1.05, frame.width, frame.height, bottom=frame.bottom, top=frame.top)
        pictures.append(_histogram(scaled, count, name, style, sum(values) / len(values)))
    width = (high - low) / BINS
    starts = [low + i * width for i in range(BINS)]
    rows = [[f"{x:.2f} to {x + width:.2f}", str(a), str(b)] for x, a, b in zip(starts, *counts, strict=True)]
    rows[-1][0] = f"{high - width:.2f} and more"
    return Markup("").join(pictures), rows


def _binned(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * BINS
    for v in values:
        counts[min(BINS - 1, max(0, int((v - low) / (high - low) * BINS)))] += 1
    return counts


def _histogram(frame: Frame, counts: Sequence[int], name: str, style: str, mean: float) -> Markup:
    last = frame.bottom > 30
    parts = frame.axes("seed NLL, nats a token" if last else "", "rows", 3)
    step = (frame.high_x - frame.low_x) / BINS
    for i, n in enumerate(counts):
        if n:
            x, y = frame.x(frame.low_x + i * step), frame.y(n)
            wide = frame.x(frame.low_x + step) - frame.x(frame.low_x) - 1
            parts.append(tag("rect", x=x, y=y, width=wide, height=frame.y(0) - y, class_=f"bar {style}"))
    x = frame.x(mean)
    parts.append(tag("line", x1=x, x2=x, y1=frame.top - 6, y2=frame.y(0), class_="mean"))
    side = "start" if x < frame.width / 2 else "end"
    at = {"x": x + (6 if side == "start" else -6), "y": frame.top - 8, "text_anchor": side}
    parts.append(tag("text", f"{name}, mean {mean:.2f}", class_=f"label {style}", **at))
    return frame.draw(parts, f"Histogram of the seed NLL of the {name}, mean {mean:.2f} nats a token.")


def losses(curves: Sequence[dict[str, Any]]) -> Markup | None:
    """Loss by step. A curve is {method, dash, loss, held_out}, the last two lists of {step, loss}."""
    every = [p for c in curves for p in (*c["loss"], *c["held_out"])]
    if not every:
        return None
    top = max(p["loss"] for p in every)
    frame = Frame(0, max(1, *(p["step"] for p in every)), 0, max(top * 1.05, 1e-6))
    parts = frame.axes("step", "loss, nats a token")
    for c in curves:
        for points, style in ((c["loss"], "faint"), (_smoothed(c["loss"]), f"dash{c['dash']}")):
            places = [(frame.x(p["step"]), frame.y(p["loss"])) for p in _thinned(points)]
            parts.append(path(places, f"line {c['method']} {style}"))
        held = [(frame.x(p["step"]), frame.y(p["loss"])) for p in c["held_out"]]
        parts.append(path(held, f"line thin {c['method']}"))
        parts += [mark(SHAPE[c["method"]], x, y, f"hollow {c['method']}", scale=0.7) for x, y in held]
    return frame.draw(parts, "Training loss by step, a line an arm. The table below has its ends.")


def spark(losses: Sequence[dict[str, Any]], style: str) -> Markup:
    """The course of one loss, from its highest to its lowest, as small as a word."""
    points = _thinned(_smoothed(losses), 40)
    if len(points) < 2:
        return Markup("")
    least, most = min(p["loss"] for p in points), max(p["loss"] for p in points)
    frame = Frame(points[0]["step"], points[-1]["step"], least, max(most, least + 1e-9), 90, 20, 2, 2, 2, 2)
    line = path([(frame.x(p["step"]), frame.y(p["loss"])) for p in points], f"line {style}")
    return tag("svg", line, viewBox="0 0 90 20", width=90, height=20, aria_hidden="true")


def _smoothed(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each point the mean of the fiftieth of the curve around it, on both sides."""
    reach = len(points) // 50
    near = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [{"step": p["step"], "loss": sum(n["loss"] for n in g) / len(g)} for p, g in zip(points, near, strict=True)]


def _thinned(points: Sequence[dict[str, Any]], most: int = POINTS) -> list[dict[str, Any]]:
    """At most about `most` of them, each the mean of its neighbours."""
    each = math.ceil(len(points) / most)
    groups = [points[i : i + each] for i in range(0, len(points), each)] if each > 1 else [[p] for p in points]
    return [{k: sum(p[k] for p in g) / len(g) for k in ("step", "loss")} for g in groups]
