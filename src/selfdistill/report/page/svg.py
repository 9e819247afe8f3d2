"""Small helpers that write inline SVG. Everything that comes from data is cleaned and escaped here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# What a page must not take from a name: control characters, halves of characters, and marks that turn the writing
# direction of the text around them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

SHAPES = {
    "circle": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "square": "M-4.5,-4.5h9v9h-9z",
    "diamond": "M0,-6L6,0L0,6L-6,0z",
    "triangle": "M0,-6L5.5,4.5L-5.5,4.5z",
}


def clean(value: object) -> object:
    """A text without what changes more than its own place, each such character replaced by U+FFFD; others as is."""
    return _UNSAFE.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element. `class_` and `stroke_width` stand for `class` and `stroke-width`; floats are written short."""
    pairs = [(k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None]
    said = "".join(f' {k}="{escape(clean(number(v)))}"' for k, v in pairs)
    return Markup(f"<{name}{said}>{''.join(escape(clean(c)) for c in children)}</{name}>")


def number(value: object) -> object:
    """Coordinates to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def mark(shape: str, x: object, y: object, style: str, title: str | None = None, scale: float = 1) -> Markup:
    """A shape around (x, y); x may be a percentage."""
    shown = tag("path", d=SHAPES[shape], class_=f"mark {style}", transform=f"scale({scale})" if scale != 1 else None)
    named = [tag("title", title)] if title else []
    return tag("svg", *named, shown, x=x, y=y, overflow="visible", width=1, height=1)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Frame:
    """A plot of width x height user units whose inner area maps data to coordinates."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    width: float = 380
    height: float = 290
    left: float = 44
    right: float = 14
    top: float = 12
    bottom: float = 44

    def x(self, value: float) -> float:
        """Horizontal coordinate of a value, cut at the edges."""
        share = (min(max(value, self.low_x), self.high_x) - self.low_x) / (self.high_x - self.low_x)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical coordinate of a value, cut at the edges."""
        share = (min(max(value, self.low_y), self.high_y) - self.low_y) / (self.high_y - self.low_y)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def axes(self, title_x: str, title_y: str, count_y: int = 5) -> list[Markup]:
        """Grid, tick labels and titles."""
        base, end = self.height - self.bottom, self.width - self.right
        parts = []
        for v in ticks(self.low_x, self.high_x):
            parts.append(tag("line", x1=self.x(v), x2=self.x(v), y1=self.top, y2=base, class_="grid"))
            parts.append(tag("text", f"{v:g}", x=self.x(v), y=base + 16, text_anchor="middle"))
        for v in ticks(self.low_y, self.high_y, count_y):
            parts.append(tag("line", x1=self.left, x2=end, y1=self.y(v), y2=self.y(v), class_="grid"))
            parts.append(tag("text", f"{v:g}", x=self.left - 6, y=self.y(v) + 4, text_anchor="end"))
        middle = (self.top + base) / 2
        parts.append(
            tag("text", title_x, x=(self.left + end) / 2, y=self.height - 8, text_anchor="middle", class_="title")
        )
        turned = f"rotate(-90 12 {middle})"
        parts.append(tag("text", title_y, x=12, y=middle, text_anchor="middle", transform=turned, class_="title"))
        return parts

    def draw(self, parts: Sequence[Markup], name: str) -> Markup:
        """The whole picture. `name` is what a screen reader says."""
        box = f"0 0 {self.width:g} {self.height:g}"
        return tag("svg", *parts, viewBox=box, class_="chart", role="img", aria_label=name)


def path(points: Sequence[tuple[float, float]], style: str) -> Markup:
    """A line through points."""
    said = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", points=said, class_=style)


Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class Labels:
    """Puts texts beside points: not over marks and other texts, and over lines where there is no better place. What
    finds no room near its point stands further off, with a line to it."""

    WIDE, TALL = 7.4, 13  # a character, on average
    PLACES: tuple[tuple[float, float, str], ...] = (
        (11, 4, "start"), (-11, 4, "end"), (0, -12, "middle"), (0, 21, "middle"), (10, -9, "start"),
        (10, 17, "start"), (-10, -9, "end"), (-10, 17, "end"), (0, -26, "middle"), (0, 35, "middle"),
    )  # fmt: skip
    RINGS = (36, 52, 70, 92, 118, 150, 190)

    def __init__(self, frame: Frame, taken: Sequence[Box], lines: Sequence[Box] = ()) -> None:
        self.frame = frame
        self.taken = list(taken)
        self.lines = list(lines)

    def put(self, text: str, x: float, y: float, style: str, leader: bool = True) -> Markup:
        """The text beside (x, y); nothing where there is no room. With a `leader` it may stand further off."""
        shown = text if len(text) <= 26 else text[:25] + "…"
        places = [(0.05 * k, place) for k, place in enumerate(self.PLACES)]
        if leader:
            places += [(1.5 + k, place) for k, radius in enumerate(self.RINGS) for place in _around(radius)]
        costs = [(self._cost(far, shown, x, y, *place), place) for far, place in places]
        found = [(cost, place) for cost, place in costs if cost is not None]
        if not found:
            return Markup("")
        dx, dy, anchor = min(found, key=lambda one: one[0])[1]
        self.taken.append(self._box(shown, x + dx, y + dy, anchor))
        label = tag("text", shown, x=x + dx, y=y + dy, text_anchor=anchor, class_=f"label {style}")
        if math.hypot(dx, dy) < self.RINGS[0] - 1:
            return label
        self.lines += [(px - 1, py - 1, px + 1, py + 1) for px, py in _along(x, y, dx, dy - 4)]
        return tag("line", x1=x, y1=y, x2=x + dx, y2=y + dy - 4, class_=f"leader {style}") + label

    def _cost(self, far: float, text: str, x: float, y: float, dx: float, dy: float, anchor: str) -> float | None:
        """How bad a place is: its distance, and what the text and its line would cross. None where it cannot be."""
        box, frame = self._box(text, x + dx, y + dy, anchor), self.frame
        inside = box[0] > frame.left and box[2] < frame.width - 2 and box[1] > 0
        if not inside or box[3] > frame.height - frame.bottom or any(_overlap(box, other) for other in self.taken):
            return None
        crossed = 0.0
        if far > 1:
            on_line = _along(x, y, dx, dy - 4)
            near = (x - 9, y - 9, x + 9, y + 9)
            others = [other for other in self.taken if not _overlap(other, near)]
            crossed = 1.5 * sum(any(_holds(other, *point) for point in on_line) for other in others)
        return far + crossed + 0.4 * sum(_overlap(box, line) for line in self.lines)

    def _box(self, text: str, x: float, y: float, anchor: str) -> Box:
        wide = self.WIDE * len(text)
        left = x - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
        return left, y - self.TALL + 3, left + wide, y + 3


def _around(radius: float) -> list[tuple[float, float, str]]:
    """Places on a ring, each with the anchor of a text that reads away from its middle."""
    turns = [(math.cos(math.pi * k / 8), math.sin(math.pi * k / 8)) for k in range(16)]
    return [(radius * c, radius * s + 4, "start" if c > 0.3 else "end" if c < -0.3 else "middle") for c, s in turns]


def _along(x: float, y: float, dx: float, dy: float) -> list[tuple[float, float]]:
    """Points on the line from (x, y) to (x + dx, y + dy), but for its beginning."""
    steps = max(2, int(math.hypot(dx, dy) / 4))
    return [(x + dx * k / steps, y + dy * k / steps) for k in range(1, steps + 1)]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _holds(box: tuple[float, ...], x: float, y: float) -> bool:
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
