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


class Labels:
    """Puts texts beside points, where nothing lies yet."""

    WIDE = 6.8  # a character, on average
    PLACES = (
        (11, 4, "start"), (-11, 4, "end"), (0, -12, "middle"), (0, 21, "middle"), (10, -9, "start"),
        (10, 17, "start"), (-10, -9, "end"), (-10, 17, "end"), (0, -26, "middle"), (0, 35, "middle"),
    )  # fmt: skip

    def __init__(self, frame: Frame, boxes: Sequence[tuple[float, float, float, float]]) -> None:
        self.frame = frame
        self.taken = list(boxes)

    def put(self, text: str, x: float, y: float, style: str) -> Markup:
        """The text beside (x, y); nothing where there is no room."""
        shown = text if len(text) <= 26 else text[:25] + "…"
        wide = self.WIDE * len(shown)
        for dx, dy, anchor in self.PLACES:
            left = x + dx - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
            box = (left, y + dy - 10, left + wide, y + dy + 3)
            frame = self.frame
            inside = (
                box[0] > frame.left and box[2] < frame.width - 2 and box[1] > 0 and box[3] < frame.height - frame.bottom
            )
            if inside and not any(_overlap(box, other) for other in self.taken):
                self.taken.append(box)
                return tag("text", shown, x=x + dx, y=y + dy, text_anchor=anchor, class_=f"label {style}")
        return Markup("")


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
