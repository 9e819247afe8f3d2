"""The charts of the page, drawn from what the report and the run folder hold. Shape and text say what colour says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from selfdistill.page.svg import Frame, Labels, mark, path, tag, ticks

SHAPE = {"seed": "circle", "vanilla": "square", "sdft": "diamond"}
"""Of a method's marks; its colour is the class of the same name in page.css."""

POINTS = 250
"""Most points of a curve that are drawn."""

BINS = 28


# --- target against retained -------------------------------------------------------------------------------------


def mean_score(results: Iterable[dict[str, Any] | None]) -> dict[str, float] | None:
    """Mean over tasks of {score, low, high}, with the error of the items: the tasks' own errors added in squares, as
    `selfdistill scale` does. None where no task was measured."""
    found = [r for r in results if r and all(isinstance(r.get(k), int | float) for k in ("score", "low", "high"))]
    if not found:
        return None
    value = sum(r["score"] for r in found) / len(found)
    down = math.sqrt(sum((r["score"] - r["low"]) ** 2 for r in found)) / len(found)
    up = math.sqrt(sum((r["high"] - r["score"]) ** 2 for r in found)) / len(found)
    return {"value": value, "low": value - down, "high": value + up}


def arm_points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm as {name, method, target, retained, seeds}: means over its tasks by role, and of each seed."""
    points = []
    for name, method in [("seed", "seed"), *((a["name"], a["method"]) for a in report["arms"])]:
        point: dict[str, Any] = {"name": name, "method": method, "seeds": []}
        seeds: dict[str, list[float]] = {}
        for role in ("target", "retained"):
            results = [t["arms"].get(name) for t in report["tasks"] if t["role"] == role]
            point[role] = mean_score(results)
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
    labels = Labels(frame, list(at.values()))
    parts += [labels.put("seed LM" if p["name"] == "seed" else p["name"], *at[id(p)], p["method"]) for p in shown]
    for arm, curve in between.items():
        for p in curve:
            kind, text = method.get(arm, ""), f"{p['strength']:g}"
            parts.append(
                mark(SHAPE.get(kind, "circle"), *at[id(p)], f"hollow {kind}", _said(f"{arm} x {text}", p), 0.7)
            )
            parts.append(labels.put(f"× {text}", *at[id(p)], f"small {kind}"))
    return frame.draw(parts, "Scatter: score on the target against the mean score on all other tasks, each arm a point. "
                      "The table below has the same numbers.")  # fmt: skip


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


def _cross(frame: Frame, p: dict[str, Any], style: str) -> Markup:
    x, y = frame.x(100 * p["retained"]["value"]), frame.y(100 * p["target"]["value"])
    across = tag("line", x1=frame.x(100 * p["retained"]["low"]), x2=frame.x(100 * p["retained"]["high"]), y1=y, y2=y, class_=f"line {style}")  # fmt: skip
    up = tag("line", x1=x, x2=x, y1=frame.y(100 * p["target"]["low"]), y2=frame.y(100 * p["target"]["high"]), class_=f"line {style}")  # fmt: skip
    return across + up


def _said(name: str, p: dict[str, Any]) -> str:
    return f"{name}: target {100 * p['target']['value']:.1f}, retained {100 * p['retained']['value']:.1f}"


# --- the forest plot ---------------------------------------------------------------------------------------------


class Forest:
    """Bars of one table: each row draws its own difference on the common axis. Percentages, so it fits any width."""

    def __init__(self, differences: Sequence[dict[str, Any]]) -> None:
        ends = [0.0, *(100 * d[k] for d in differences for k in ("low", "high"))]
        pad = max(2.0, 0.04 * (max(ends) - min(ends)))
        self.low, self.high = min(ends) - pad, max(ends) + pad

    def _x(self, points: float) -> str:
        return f"{100 * (points - self.low) / (self.high - self.low):.2f}%"

    def row(self, d: dict[str, Any], style: str, shape: str) -> Markup:
        """One difference with its interval; hollow where it is noise."""
        noise = d["low"] <= 0 <= d["high"]
        zero = tag("line", x1=self._x(0), x2=self._x(0), y1=0, y2="100%", class_="zero")
        bar = tag("line", x1=self._x(100 * d["low"]), x2=self._x(100 * d["high"]), y1=13, y2=13, class_=f"line {style}")
        point = mark(shape, self._x(100 * d["value"]), 13, f"{style} hollow" if noise else style)
        return tag("svg", zero, bar, point, width="100%", height=26, aria_hidden="true")

    def axis(self) -> Markup:
        """Tick labels."""
        shown = [v for v in ticks(self.low, self.high, 4) if self.low + 3 < v < self.high - 3 or v == 0]
        texts = [tag("text", f"{v:+g}" if v else "0", x=self._x(v), y=13, text_anchor="middle") for v in shown]
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
    frames = [Frame(low, high, 0, 1, 440, 176, bottom=b, top=28) for b in (24, 44)]
    counts = [_binned(values, low, high) for values in (before, after)]
    most = max(max(c) for c in counts)
    pictures = []
    groups = (("references", "vanilla", before), ("selected responses", "sdft", after))
    for frame, count, (name, style, values) in zip(frames, counts, groups, strict=True):
        scaled = Frame(low, high, 0, most * 1.05, frame.width, frame.height, bottom=frame.bottom, top=frame.top)
        pictures.append(_histogram(scaled, count, name, style, sum(values) / len(values)))
    width = (high - low) / BINS
    rows = [[f"{low + i * width:.2f} to {low + (i + 1) * width:.2f}", str(a), str(b)] for i, (a, b) in enumerate(zip(*counts, strict=True))]  # fmt: skip
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
    parts.append(tag("text", f"{name}, mean {mean:.2f}", x=x + (6 if side == "start" else -6), y=frame.top - 8, text_anchor=side, class_=f"label {style}"))  # fmt: skip
    return frame.draw(parts, f"Histogram of the seed NLL of the {name}, mean {mean:.2f} nats a token.")


def losses(curves: Sequence[dict[str, Any]]) -> Markup | None:
    """Loss by step. A curve is {method, dash, loss, held_out}, the last two lists of {step, loss}."""
    points = [p for c in curves for p in (*c["loss"], *c["held_out"])]
    if not points:
        return None
    top = max(p["loss"] for p in points)
    frame = Frame(0, max(1, *(p["step"] for p in points)), 0, max(top * 1.05, 1e-6))
    parts = frame.axes("step", "loss, nats a token")
    for c in curves:
        places = [(frame.x(p["step"]), frame.y(p["loss"])) for p in _thinned(c["loss"])]
        parts.append(path(places, f"line {c['method']} dash{c['dash']}"))
        held = [(frame.x(p["step"]), frame.y(p["loss"])) for p in c["held_out"]]
        parts.append(path(held, f"line thin {c['method']}"))
        parts += [mark(SHAPE[c["method"]], x, y, f"hollow {c['method']}", scale=0.7) for x, y in held]
    return frame.draw(parts, "Training loss by step, a line an arm. The table below has its ends.")


def _thinned(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about POINTS of them, each the mean of its neighbours."""
    each = math.ceil(len(points) / POINTS)
    groups = [points[i : i + each] for i in range(0, len(points), each)] if each > 1 else [[p] for p in points]
    return [{k: sum(p[k] for p in g) / len(g) for k in ("step", "loss")} for g in groups]
