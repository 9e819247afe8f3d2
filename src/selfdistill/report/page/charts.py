"""The charts of the page, drawn from what the report and the run folder hold. Shape and text say what colour says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from selfdistill.comparison.intervals import mean_score
from selfdistill.methods import METHODS
from selfdistill.report.page.svg import Frame, Labels, mark, path, tag, ticks

SHAPE = {"seed": "circle"} | {name: method.shape for name, method in METHODS.items()}
"""Of a method's marks; its colour is the class of its name in the page's style."""

POINTS = 250
"""Most points of a curve that are drawn."""

BINS = 28


# --- target against retained -------------------------------------------------------------------------------------


def _mean(results: Iterable[dict[str, Any] | None]) -> dict[str, float] | None:
    """`intervals.mean_score` of the tasks that were measured; None without any."""
    found = [(r["score"], r["low"], r["high"]) for r in results if r and r["score"] is not None]
    return dict(zip(("value", "low", "high"), mean_score(found), strict=True)) if found else None


def arm_points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm as {name, method, target, retained, seeds}: means over its tasks by role, and of each seed."""
    points = []
    for name, method in [("seed", "seed"), *((a["name"], a["method"]) for a in report["arms"])]:
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


def scatter(points: Sequence[dict[str, Any]], curves: dict[str, list[dict[str, Any]]]) -> Markup | None:
    """Target (up) against retained (right), in percent. None where an arm has no target or nothing retained."""
    shown = [p for p in points if p["target"] and p["retained"]]
    between = {arm: [p for p in c if float(p["strength"]) not in (0, 1)] for arm, c in curves.items()}
    every = [*shown, *(p for c in between.values() for p in c)]
    if not shown:
        return None
    extra = [s for p in shown for s in p["seeds"]]
    frame = _frame_around(every, extra)
    at = {id(p): (frame.x(100 * p["retained"]["value"]), frame.y(100 * p["target"]["value"])) for p in every}
    parts = frame.axes("retained abilities, mean % correct", "target, mean % correct")
    parts += _seed_lines(frame, shown)
    method = {p["name"]: p["method"] for p in points}
    for arm, curve in curves.items():
        places = [(frame.x(100 * p["retained"]["value"]), frame.y(100 * p["target"]["value"])) for p in curve]
        parts.append(path(places, f"line thin dashed {method.get(arm, '')}"))
    parts += [_cross(frame, p, f"thin {method.get(arm, '')}") for arm, c in between.items() for p in c]
    parts += [_cross(frame, p, p["method"]) for p in shown]
    for p in shown:
        shape = SHAPE[p["method"]]
        small = [
            mark(shape, frame.x(100 * x), frame.y(100 * y), f"hollow {p['method']}", scale=0.6) for x, y in p["seeds"]
        ]
        parts += [*small, mark(shape, *at[id(p)], p["method"], _said(p["name"], p))]
    labels = Labels(frame, [box for p in every for box in _boxes(frame, p)])
    parts += [labels.put("seed LM" if p["name"] == "seed" else p["name"], *at[id(p)], p["method"]) for p in shown]
    for arm, curve in between.items():
        for p in curve:
            kind, text = method.get(arm, ""), f"{p['strength']:g}"
            parts.append(
                mark(SHAPE.get(kind, "circle"), *at[id(p)], f"hollow {kind}", _said(f"{arm} x {text}", p), 0.7)
            )
            parts.append(labels.put(f"× {text}", *at[id(p)], f"small {kind}"))
    name = "Scatter: score on the target against the mean score on all other tasks; the table has the same numbers."
    return frame.draw(parts, name)


def _frame_around(every: Sequence[dict[str, Any]], extra: Sequence[tuple[float, float]]) -> Frame:
    ends = {}
    for axis, (role, k) in {"x": ("retained", 0), "y": ("target", 1)}.items():
        values = [100 * p[role][end] for p in every for end in ("low", "high")] + [100 * e[k] for e in extra]
        low, high = min(values), max(values)
        pad = max(0.08 * (high - low), (10 - high + low) / 2, 1.0)
        ends[axis] = (max(0.0, low - pad), min(100.0, high + pad) + 0.5)
    return Frame(*ends["x"], *ends["y"])


def _seed_lines(frame: Frame, shown: Sequence[dict[str, Any]]) -> list[Markup]:
    seed = next((p for p in shown if p["name"] == "seed"), None)
    if not seed:
        return []
    x, y = frame.x(100 * seed["retained"]["value"]), frame.y(100 * seed["target"]["value"])
    return [
        tag("line", x1=x, x2=x, y1=frame.top, y2=frame.height - frame.bottom, class_="reference"),
        tag("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, class_="reference"),
    ]


def _ends(frame: Frame, p: dict[str, Any]) -> tuple[float, ...]:
    """x, y, and the ends of both intervals: left, right, top, bottom."""
    x, left, right = (frame.x(100 * p["retained"][k]) for k in ("value", "low", "high"))
    y, top, bottom = (frame.y(100 * p["target"][k]) for k in ("value", "high", "low"))
    return x, y, left, right, top, bottom


def _cross(frame: Frame, p: dict[str, Any], style: str) -> Markup:
    x, y, left, right, top, bottom = _ends(frame, p)
    across = tag("line", x1=left, x2=right, y1=y, y2=y, class_=f"line {style}")
    return across + tag("line", x1=x, x2=x, y1=top, y2=bottom, class_=f"line {style}")


def _boxes(frame: Frame, p: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """Where no label may lie: the mark, and both intervals."""
    x, y, left, right, top, bottom = _ends(frame, p)
    return [(x - 7, y - 7, x + 7, y + 7), (left, y - 1, right, y + 1), (x - 1, top, x + 1, bottom)]


def _said(name: str, p: dict[str, Any]) -> str:
    return f"{name}: target {100 * p['target']['value']:.1f}, retained {100 * p['retained']['value']:.1f}"


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
        """One difference with its interval; hollow where it is noise."""
        noise = d["low"] <= 0 <= d["high"]
        grid = [
            tag("line", x1=self._x(v), x2=self._x(v), y1=0, y2="100%", class_="grid" if v else "zero")
            for v in self.shown
        ]
        bar = tag("line", x1=self._x(100 * d["low"]), x2=self._x(100 * d["high"]), y1=13, y2=13, class_=f"line {style}")
        point = mark(shape, self._x(100 * d["value"]), 13, f"{style} hollow" if noise else style)
        return tag("svg", *grid, bar, point, width="100%", height=26, aria_hidden="true")

    def axis(self) -> Markup:
        """Tick labels."""
        texts = [
            tag("text", f"{v:+g}".replace("-", "−") if v else "0", x=self._x(v), y=13, text_anchor="middle")
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


def _smoothed(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each point the mean of the fiftieth of the curve around it, on both sides."""
    reach = len(points) // 50
    near = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [{"step": p["step"], "loss": sum(n["loss"] for n in g) / len(g)} for p, g in zip(points, near, strict=True)]


def _thinned(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about POINTS of them, each the mean of its neighbours."""
    each = math.ceil(len(points) / POINTS)
    groups = [points[i : i + each] for i in range(0, len(points), each)] if each > 1 else [[p] for p in points]
    return [{k: sum(p[k] for p in g) / len(g) for k in ("step", "loss")} for g in groups]
