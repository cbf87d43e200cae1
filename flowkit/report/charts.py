"""Line charts and intervals as inline SVG. Colors and fonts are the style sheet's, so that they follow its dark mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowkit.html import Markup, element
from flowkit.ui.quantities import short_count, value

WIDTH, HEIGHT = 460, 250  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 26  # room around the plot
TICKS = 5
STEEP = 0.05  # share of the steps whose steep start may be cut off
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One curve. color: a CSS value, usually a variable of the style sheet."""

    name: str
    points: Points
    color: str
    kind: str = "line"  # "line" | "faint" | "baseline" (dashed, horizontal) | "steps"
    dots: bool = False  # mark each point, with its value as a tooltip


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    log: bool = False,
    x_words: Callable[[float], str] | None = None,
    x_title: str = "step",
    x_range: tuple[float, float] | None = None,
    y_words: Callable[[float], str] = value,
) -> Markup | None:
    """Draw the lines that have points; None if none has. label: what a screen reader says.

    log: logarithmic values, if all are positive. A steep start is cut off at the top.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    x_words = x_words or _steps
    xs = [x for line in lines for x, _ in line.points if line.kind != "baseline"]
    low_x, high_x = x_range or (0.0, max(xs, default=1.0))
    if high_x <= low_x:
        high_x = low_x + 1
    values = [y for line in lines for _, y in line.points]
    log = log and min(values) > 0
    late = [y for line in lines for x, y in line.points
            if line.kind == "baseline" or x >= low_x + STEEP * (high_x - low_x)]  # fmt: skip
    low_y, high_y = min(values), max(late or values)
    warp = (lambda y: math.log10(max(y, low_y))) if log else float
    bottom, top = warp(low_y), warp(high_y)
    span = top - bottom or abs(top) or 1.0
    bottom, top = bottom - 0.06 * span, top + 0.06 * span

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - low_x) / (high_x - low_x)
        up = (warp(y) - bottom) / (top - bottom)
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts: list[Markup] = []
    for tick in log_ticks(low_y, high_y) if log else ticks(low_y, high_y):
        _, y = place(low_x, tick)
        if TOP - 1 <= y <= HEIGHT - BOTTOM + 1:
            parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
            parts.append(element("text", _tick(tick), x=LEFT - 7, y=f"{y + 3.5:.1f}", class_="tick end"))
    for tick in ticks(low_x, high_x):
        x, _ = place(tick, low_y)
        anchor = "middle" if LEFT + 14 < x < WIDTH - RIGHT - 14 else "end" if x > WIDTH / 2 else "start"
        parts.append(element("text", x_words(tick), x=f"{x:.1f}", y=HEIGHT - BOTTOM + 15, class_=f"tick {anchor}"))
    parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis"))
    curves: list[Markup] = []
    for line in lines:
        if line.kind == "baseline":
            _, y = place(low_x, line.points[-1][1])
            tip, y = element("title", f"{line.name}: {y_words(line.points[-1][1])}"), f"{y:.1f}"
            curves.append(
                element("line", tip, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="baseline", stroke=line.color)
            )
            continue
        places = [place(x, y) for x, y in line.points]
        path = _path(places)
        curves.append(element("path", d=path, class_=line.kind, stroke=line.color))
        if line.dots:
            for (x, y), (at, shown) in zip(places, line.points, strict=True):
                tip = element("title", f"{line.name}, {x_title} {x_words(at)}: {y_words(shown)}")
                curves.append(element("circle", tip, cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.6, fill=line.color))
    # An inner picture cuts off what is above the plot. It is wider by half a mark.
    box = (LEFT - 4, TOP - 4, WIDTH - LEFT - RIGHT + 8, HEIGHT - TOP - BOTTOM + 4)
    x, y, width, height = box
    parts.append(element("svg", *curves, x=x, y=y, width=width, height=height, viewBox=" ".join(map(str, box))))
    return element("svg", element("title", label), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img")


def interval_bar(
    columns: Sequence[tuple[str, tuple[float, float, float] | None, str]], target: float | None = None
) -> Markup:
    """Draw estimates with their intervals on one axis: (name, (value, low, high), color) each on a line of its own.

    target: the best value, a dashed line, if there is one.
    """
    width, step, edge = 180, 11, 5
    known = [one for _, one, _ in columns if one is not None]
    ends = [end for one in known for end in one] + ([] if target is None else [target])
    if not known:
        return Markup("")
    low, high = min(ends), max(ends)
    span = high - low or abs(high) or 1.0
    at = lambda x: edge + (x - low) / span * (width - 2 * edge)  # noqa: E731
    height = step * len(columns) + 4
    parts = []
    if target is not None:
        parts.append(element("line", x1=f"{at(target):.1f}", x2=f"{at(target):.1f}", y1=0, y2=height, class_="target"))
    for number, (name, one, color) in enumerate(columns):
        if one is None:
            continue
        y = step * number + step / 2 + 2
        middle, left, right = (at(x) for x in one)
        parts.append(element("line", element("title", name), x1=f"{left:.1f}", x2=f"{right:.1f}", y1=y, y2=y,
                             class_="whisker", stroke=color))  # fmt: skip
        parts.append(element("circle", element("title", name), cx=f"{middle:.1f}", cy=y, r=3.2, fill=color))
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", class_="interval", aria_hidden="true")


def _tick(y: float) -> str:
    """`0.25`, `8e-4`, `12k`: short enough for the margin."""
    if y and abs(y) < 0.01:
        digits, _, power = f"{y:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{y:g}" if abs(y) < 1e4 else short_count(y).replace(" ", "")


def _steps(x: float) -> str:
    """`1,500`, `250 k`."""
    return f"{x:,.0f}" if x < 1e5 else f"{short_count(x)[:-2].rstrip('0').rstrip('.')} {short_count(x)[-1]}"


def ticks(low: float, high: float) -> list[float]:
    """Return round values from `low` to `high`, about five."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / TICKS
    unit = 10 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [0.0 if abs(found := number * step) < step / 1e6 else found
            for number in range(first, math.floor(high / step + 1e-9) + 1)]  # fmt: skip


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values from `low` to `high` for a logarithmic axis: powers of ten, with 2 and 5 if there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [factor * 10.0**power for power in decades for factor in factors]
        found = [one for one in found if low * 0.97 <= one <= high * 1.03]
        if len(found) >= 3:
            return found if len(found) <= 7 else found[:: math.ceil(len(found) / 6)]
    return ticks(low, high)


def _path(places: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = places
    return f"M{x:.1f} {y:.1f}" + "".join(f"L{x:.1f} {y:.1f}" for x, y in rest) + ("h.01" if not rest else "")
