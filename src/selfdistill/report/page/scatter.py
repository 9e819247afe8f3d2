"""The front of the page: what every arm gains on the target (up) against what it keeps (right), with the seed LM in the
origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from selfdistill.comparison.front import unbeaten
from selfdistill.methods import lead
from selfdistill.report.page.charts import SHAPE, arm_points
from selfdistill.report.page.svg import Frame, Labels, mark, path, tag
from selfdistill.report.standings import MANY, SEED, many, standing_cell

NAME = "Scatter: change on the target against the mean change on what must be kept; the table has the same numbers."

ZERO = {"value": 0.0, "low": 0.0, "high": 0.0}
ORIGIN = (0.0, 0.0)

Points = Sequence[Mapping[str, Any]]


def scatter(report: Mapping[str, Any], curves: Mapping[str, Points]) -> Markup | None:
    """The arms' changes in points, with their intervals and the front; `curves` are arms at other strengths. None where
    no arm has a target and something retained."""
    method = {arm["name"]: lead(arm["method"]) for arm in report["arms"]}
    arms = [s | {"kind": method[s["arm"]]} for s in report["front"]["arms"] if s["target"] and s["retained"]]
    if not arms:
        return None
    crowd = many(report)
    between = _against_seed(report, curves)
    every = [{"target": ZERO, "retained": ZERO}, *arms, *(p for c in between.values() for p in c)]
    frame = _frame_around(every, arms, 440 if crowd else 290)
    parts = frame.axes("retained, points against the seed LM", "target, points against the seed LM")
    parts += _through_origin(frame)
    parts += [_cross(frame, s, f"thin {'faint ' if crowd and s['beaten_by'] else ''}{s['kind']}") for s in arms]
    parts.append(_front(frame, arms))
    for arm, curve in between.items():
        ends = [ORIGIN, *map(_at, curve), *(_at(s) for s in arms if s["arm"] == arm)]
        parts.append(path([_place(frame, end) for end in ends], f"line thin dashed {method.get(arm, '')}"))
    parts.append(mark("circle", *_place(frame, ORIGIN), "seed", SEED))
    for s in arms:
        if not crowd:
            parts += [_small(frame, point, s["kind"]) for point in s["each"]]
        style = f"hollow {s['kind']}" if s["beaten_by"] else s["kind"]
        parts.append(mark(SHAPE[s["kind"]], *_place(frame, _at(s)), style, _said(s)))
    return frame.draw([*parts, *_labels(frame, arms, between, method)], NAME)


def _at(point: Mapping[str, Any]) -> tuple[float, float]:
    """Retained and target, in points."""
    return 100 * point["retained"]["value"], 100 * point["target"]["value"]


def _place(frame: Frame, at: tuple[float, float]) -> tuple[float, float]:
    """Coordinates of changes in points."""
    return frame.x(at[0]), frame.y(at[1])


def _against_seed(report: Mapping[str, Any], curves: Mapping[str, Points]) -> dict[str, list[dict[str, Any]]]:
    """Arms at strengths between 0 and 1, less the seed LM's means; none where the means are over other tasks."""
    seed = next(p for p in arm_points(dict(report)) if p["name"] == "seed")
    if report["front"]["left_out"] or not (seed["target"] and seed["retained"]):
        return {}
    return {
        arm: [
            {r: {"value": p[r]["value"] - seed[r]["value"]} for r in ("target", "retained")} | {"by": p["strength"]}
            for p in curve
            if float(p["strength"]) not in (0, 1)
        ]
        for arm, curve in curves.items()
    }


def _frame_around(every: Points, arms: Points, height: float) -> Frame:
    """Room for all points, and for their intervals as far as they leave the points room."""
    ends: list[float] = []
    for role in ("retained", "target"):
        values = [100 * p[role]["value"] for p in every]
        values += [100 * point[role == "retained"] for s in arms for point in s["each"]]
        low, high = min(values), max(values)
        reach = 0.35 * max(high - low, 10.0)
        low = max(low - reach, min(low, *(100 * s[role]["low"] for s in arms)))
        high = min(high + reach, max(high, *(100 * s[role]["high"] for s in arms)))
        pad = max(0.07 * (high - low), (10 - high + low) / 2)
        beside = 0.15 * (high - low) if role == "retained" and len(arms) > MANY else 0.0  # for the names of the best
        ends += [low - pad, high + pad + beside]
    return Frame(ends[0], ends[1], ends[2], ends[3], height=height)


def _through_origin(frame: Frame) -> list[Markup]:
    """Lines through the seed LM."""
    x, y = _place(frame, ORIGIN)
    return [
        tag("line", x1=x, x2=x, y1=frame.top, y2=frame.height - frame.bottom, class_="reference"),
        tag("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, class_="reference"),
    ]


def _front(frame: Frame, arms: Points) -> Markup:
    """The edge of what some arm or the seed LM reaches: a step at each that nothing beats."""
    named = {s["arm"]: (s["target"]["value"], s["retained"]["value"]) for s in arms} | {"seed": ORIGIN}
    steps = sorted((100 * named[name][1], 100 * named[name][0]) for name in unbeaten(named))
    places = [(frame.low_x, steps[0][1])]
    for (x, y), below in zip(steps, [*(y for _, y in steps[1:]), frame.low_y], strict=True):
        places += [(x, y), (x, below)]
    return path([_place(frame, place) for place in places], "front")


def _ends(frame: Frame, p: Mapping[str, Any]) -> tuple[float, ...]:
    """x, y, and the ends of both intervals: left, right, top, bottom."""
    x, left, right = (frame.x(100 * p["retained"][k]) for k in ("value", "low", "high"))
    y, top, bottom = (frame.y(100 * p["target"][k]) for k in ("value", "high", "low"))
    return x, y, left, right, top, bottom


def _cross(frame: Frame, p: Mapping[str, Any], style: str) -> Markup:
    x, y, left, right, top, bottom = _ends(frame, p)
    across = tag("line", x1=left, x2=right, y1=y, y2=y, class_=f"line {style}")
    return across + tag("line", x1=x, x2=x, y1=top, y2=bottom, class_=f"line {style}")


def _small(frame: Frame, point: Sequence[float], kind: str) -> Markup:
    """One training of several."""
    return mark(SHAPE[kind], frame.x(100 * point[1]), frame.y(100 * point[0]), f"hollow {kind}", scale=0.5)


def _said(s: Mapping[str, Any]) -> str:
    x, y = _at(s)
    return f"{s['arm']}: target {y:+.1f}, retained {x:+.1f}; {standing_cell(s)}"


def _labels(frame: Frame, arms: Points, between: Mapping[str, Points], method: Mapping[str, str]) -> list[Markup]:
    """The names beside the marks, those that nothing beats first; hollow marks of other strengths with theirs."""
    weak = [(p, method.get(arm, "")) for arm, curve in between.items() for p in curve]
    places = [_place(frame, at) for at in (ORIGIN, *map(_at, arms), *(_at(p) for p, _ in weak))]
    lines = []
    for s in arms:
        x, y, left, right, top, bottom = _ends(frame, s)
        lines += [(left, y - 1, right, y + 1), (x - 1, top, x + 1, bottom)]
    labels = Labels(frame, [(x - 7, y - 7, x + 7, y + 7) for x, y in places], lines)
    parts = [labels.put(SEED, *_place(frame, ORIGIN), "seed")]
    for s in sorted(arms, key=lambda s: bool(s["beaten_by"])):
        style = f"small {s['kind']}" if s["beaten_by"] else s["kind"]
        parts.append(labels.put(s["arm"], *_place(frame, _at(s)), style))
    for p, kind in weak:
        text, at = f"× {p['by']:g}", _place(frame, _at(p))
        parts.append(mark(SHAPE.get(kind, "circle"), *at, f"hollow {kind}", text, 0.7))
        parts.append(labels.put(text, *at, f"small {kind}", leader=False))
    return parts
