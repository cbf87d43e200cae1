"""SVG path data, basic shapes and transforms, converted to cubics (SVG 2, chapters 8 to 10).

This does not use a library for two reasons. A data set has millions of paths, so speed matters. And SVG requires broken
path data to be drawn up to the error, which libraries refuse.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Mapping
from functools import partial

Cubic = tuple[complex, complex, complex, complex]  # control points x + iy
Affine = tuple[complex, complex, complex]  # p -> a p.x + b p.y + c
IDENTITY: Affine = (1 + 0j, 1j, 0j)

# Atomic group: prevents catastrophic backtracking on long runs of digits.
_NUMBER = re.compile(r"(?>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII)
_NEXT = re.compile(rf"[\s,]*({_NUMBER.pattern})", re.ASCII)
_ARC = re.compile(
    rf"({_NUMBER.pattern})[\s,]*({_NUMBER.pattern})[\s,]*({_NUMBER.pattern})[\s,]*([01])[\s,]*([01])[\s,]*"
    rf"({_NUMBER.pattern})[\s,]*({_NUMBER.pattern})[\s,]*",
    re.ASCII,
)
_COMMAND = re.compile(r"([MmLlHhVvCcSsQqTtAaZz])([^MmLlHhVvCcSsQqTtAaZz]*)")
_SEPARATORS = dict.fromkeys(map(ord, " \t\r\n\f,"))
_TAKES = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, "q": 96 / 101.6,
          "em": 16.0, "rem": 16.0, "ex": 8.0}  # fmt: skip
_LENGTH = re.compile(rf"\s*+({_NUMBER.pattern})\s*+([A-Za-z]*+|%)\s*+", re.ASCII)
_CSS_UNIT = re.compile(r"(?<=[\d.])(?:px|deg)(?![A-Za-z])")
_TRANSFORM = re.compile(r"(?<![A-Za-z])([A-Za-z]++)\s*+\(([^()]*+)\)")


def path_cubics(d: str, limit: int = 1_000_000) -> list[list[Cubic]]:
    """Return the subpaths of path data. Lines become straight cubics. Everything before an error is kept, as in SVG.

    Stops once there are more than `limit` cubics.
    """
    pen = _Pen()
    for match in _COMMAND.finditer(d):
        command, arguments = match.groups()
        takes = _TAKES[command.upper()]
        numbers, whole = _arc_numbers(arguments) if takes == 7 else _numbers(arguments)
        if not pen.started and command not in "Mm":
            break
        if takes == 0:
            pen.close()
            if numbers or not whole:
                break
            continue
        for i in range(0, len(numbers) - takes + 1, takes):
            if pen.count > limit:
                return [subpath for subpath in pen.subpaths if subpath]
            # Further coordinate pairs of a move are lines.
            name = command if i == 0 or command not in "Mm" else ("L" if command == "M" else "l")
            pen.draw(name, numbers[i : i + takes])
        if not whole or not numbers or len(numbers) % takes:
            break
    return [subpath for subpath in pen.subpaths if subpath]


def _numbers(text: str) -> tuple[list[float], bool]:
    """Return the numbers of an argument list, and whether it contains nothing else."""
    found = _NUMBER.findall(text)
    if sum(map(len, found)) == len(text.translate(_SEPARATORS)):
        return [float(number) for number in found], True
    good: list[float] = []
    at = 0
    while match := _NEXT.match(text, at):
        good.append(float(match[1]))
        at = match.end()
    return good, False


def _arc_numbers(text: str) -> tuple[list[float], bool]:
    """Like `_numbers`, for arcs. Their two flags need no separator: `a1 1 0 01.5.5`."""
    text = text.strip(" \t\r\n\f,")
    out: list[float] = []
    at = 0
    while match := _ARC.match(text, at):
        out += map(float, match.groups())
        at = match.end()
    return out, at == len(text)


class _Pen:
    """State shared by path commands: current point, start of the subpath, last control point."""

    def __init__(self) -> None:
        self.subpaths: list[list[Cubic]] = [[]]
        self.started = False
        self.at = self.start = 0j
        self.control: complex | None = None  # of the previous command; S and T reflect it
        self.before = ""
        self.count = 0

    def draw(self, command: str, n: list[float]) -> None:
        origin = self.at if command.islower() else 0j
        name = command.upper()
        here, control = self.at, None
        if name == "H":
            self.line(complex(n[0] + origin.real, here.imag))
        elif name == "V":
            self.line(complex(here.real, n[0] + origin.imag))
        elif name == "A":
            self.arc(n[0], n[1], n[2], bool(n[3]), bool(n[4]), origin + complex(n[5], n[6]))
        else:
            p = [origin + complex(n[i], n[i + 1]) for i in range(0, len(n), 2)]
            if name == "M":
                self.started, self.at, self.start = True, p[0], p[0]
                self.subpaths.append([])
            elif name == "L":
                self.line(p[0])
            elif name in "CS":
                if name == "S":
                    smooth = self.control is not None and self.before in "CS"
                    p.insert(0, 2 * here - self.control if smooth and self.control is not None else here)
                control = p[1]
                self.add((here, p[0], p[1], p[2]))
            else:
                if name == "T":
                    smooth = self.control is not None and self.before in "QT"
                    p.insert(0, 2 * here - self.control if smooth and self.control is not None else here)
                control = p[0]
                self.add((here, here + (p[0] - here) * (2 / 3), p[1] + (p[0] - p[1]) * (2 / 3), p[1]))
        self.control, self.before = control, name

    def add(self, cubic: Cubic) -> None:
        self.subpaths[-1].append(cubic)
        self.at = cubic[3]
        self.count += 1

    def line(self, to: complex) -> None:
        self.add(line(self.at, to))

    def close(self) -> None:
        if self.at != self.start or self.before == "M":  # `M x y Z` is a dot
            self.line(self.start)
        self.subpaths.append([])  # a command other than a move starts a new subpath at the same point
        self.control, self.before = None, "Z"

    def arc(self, rx: float, ry: float, degrees: float, large: bool, sweep: bool, to: complex) -> None:
        """Add an elliptical arc, one cubic per quarter turn: accurate to 3e-4 of the radius (SVG 2, appendix B.2)."""
        if to == self.at:
            return
        rx, ry = abs(rx), abs(ry)
        turn = cmath.rect(1, math.radians(degrees))
        half = (self.at - to) / 2 / turn
        if not (rx and ry and math.isfinite(rx * ry) and cmath.isfinite(half)):
            self.line(to)
            return
        start = complex(half.real / rx, half.imag / ry)  # in the frame where the ellipse is the unit circle
        reach = abs(start)
        if not reach:
            self.line(to)
            return
        if reach > 1:  # radii too small to reach both ends: scale them up
            rx, ry, start, reach = rx * reach, ry * reach, start / reach, 1.0
        center = 1j * start * math.sqrt(max(0.0, 1 / (reach * reach) - 1)) * (1 if large == sweep else -1)
        first, last = cmath.phase(start - center), cmath.phase(-start - center)
        angle = last - first
        if sweep and angle <= 0:
            angle += 2 * math.pi
        elif not sweep and angle >= 0:
            angle -= 2 * math.pi
        pieces = max(1, math.ceil(abs(angle) / (math.pi / 2) - 1e-6))
        pull = 4 / 3 * math.tan(angle / pieces / 4)
        middle = (self.at + to) / 2

        def place(z: complex) -> complex:
            z += center
            return middle + complex(z.real * rx, z.imag * ry) * turn

        for i in range(pieces):
            a, b = (cmath.rect(1, first + angle * k / pieces) for k in (i, i + 1))
            end = to if i == pieces - 1 else place(b)
            self.add((self.at, place(a + 1j * pull * a), place(b - 1j * pull * b), end))


def line(start: complex, end: complex) -> Cubic:
    """Return a straight cubic at constant speed."""
    step = end - start
    return start, start + step / 3, start + step * (2 / 3), end


def length(text: str | None, whole: float, default: float = 0.0, em: float = 16.0) -> float:
    """Convert a length to user units at 96 dpi. Percentages refer to `whole`. Invalid text gives `default`."""
    match = _LENGTH.fullmatch(text or "")
    if not match:
        return default
    number, unit = float(match[1]), match[2].lower()
    if unit == "%":
        return number / 100 * whole
    if unit in ("em", "ex"):
        return number * em * _UNITS[unit] / 16
    return number * _UNITS[unit] if unit in _UNITS else default


def shape_path(tag: str, a: Mapping[str, str], width: float, height: float, em: float = 16.0) -> str:
    """Return the path data equivalent to a basic shape. Percentages refer to a viewport of `width` x `height`."""
    measure = partial(length, em=em)
    diagonal = math.hypot(width, height) / math.sqrt(2)
    x, y = measure(a.get("x"), width), measure(a.get("y"), height)
    if tag == "line":
        ends = [measure(a.get(key), whole) for key, whole in zip(("x1", "y1", "x2", "y2"), (width, height) * 2)]  # noqa: B905
        return "M{!r} {!r}L{!r} {!r}".format(*ends)
    if tag in ("polyline", "polygon"):
        numbers, _ = _numbers(a.get("points", ""))
        pairs = " ".join(map(repr, numbers[: len(numbers) // 2 * 2]))
        return f"M{pairs}" + ("Z" if tag == "polygon" else "") if pairs else ""
    if tag == "rect":
        w, h = measure(a.get("width"), width), measure(a.get("height"), height)
        if w <= 0 or h <= 0:
            return ""
        rx, ry = measure(a.get("rx"), width, -1), measure(a.get("ry"), height, -1)
        rx, ry = (rx if rx >= 0 else max(ry, 0)), (ry if ry >= 0 else max(rx, 0))
        rx, ry = min(rx, w / 2), min(ry, h / 2)
        if not (rx and ry):
            return f"M{x!r} {y!r}H{x + w!r}V{y + h!r}H{x!r}Z"
        corner = f"A{rx!r} {ry!r} 0 0 1 "
        return (
            f"M{x + rx!r} {y!r}H{x + w - rx!r}{corner}{x + w!r} {y + ry!r}V{y + h - ry!r}{corner}{x + w - rx!r} {y + h!r}"
            f"H{x + rx!r}{corner}{x!r} {y + h - ry!r}V{y + ry!r}{corner}{x + rx!r} {y!r}Z"
        )
    cx, cy = measure(a.get("cx"), width), measure(a.get("cy"), height)
    if tag == "circle":
        rx = ry = measure(a.get("r"), diagonal)
    else:
        rx, ry = measure(a.get("rx"), width, -1), measure(a.get("ry"), height, -1)
        rx, ry = (rx if rx >= 0 else ry), (ry if ry >= 0 else rx)
    if rx <= 0 or ry <= 0:
        return ""
    arc = f"A{rx!r} {ry!r} 0 0 1 "
    quarters = ((cx, cy + ry), (cx - rx, cy), (cx, cy - ry), (cx + rx, cy))
    return f"M{cx + rx!r} {cy!r}" + "".join(f"{arc}{px!r} {py!r}" for px, py in quarters) + "Z"


def compose(outer: Affine, inner: Affine) -> Affine:
    """Compose two affine maps. `inner` is applied first."""
    linear = lambda z: outer[0] * z.real + outer[1] * z.imag  # noqa: E731
    return linear(inner[0]), linear(inner[1]), linear(inner[2]) + outer[2]


def mapped(cubic: Cubic, affine: Affine) -> Cubic:
    ax, ay, shift = affine
    p0, p1, p2, p3 = (ax * p.real + ay * p.imag + shift for p in cubic)
    return p0, p1, p2, p3


def parse_transform(text: str) -> Affine:
    """Parse a `transform`, as an attribute or in CSS (px, deg). Return the identity if it is invalid, as browsers do."""
    total = IDENTITY
    if "px" in text or "deg" in text:
        text = _CSS_UNIT.sub("", text)
    for name, arguments in _TRANSFORM.findall(text):
        n, whole = _numbers(arguments)
        step = _transform(name, n) if whole else None
        if step is None:
            return IDENTITY
        total = compose(total, step)
    return total


def _transform(name: str, n: list[float]) -> Affine | None:
    count = len(n)
    if name == "matrix" and count == 6:
        return complex(n[0], n[1]), complex(n[2], n[3]), complex(n[4], n[5])
    if name == "translate" and count in (1, 2):
        return 1 + 0j, 1j, complex(n[0], n[1] if count == 2 else 0)
    if name == "scale" and count in (1, 2):
        return complex(n[0]), complex(0, n[-1]), 0j
    if name in ("translateX", "translateY", "scaleX", "scaleY") and count == 1:
        rest = 0.0 if name[0] == "t" else 1.0
        return _transform(name[:-1], [n[0], rest] if name[-1] == "X" else [rest, n[0]])
    if name == "rotate" and count in (1, 3):
        turn = cmath.rect(1, math.radians(n[0]))
        center = complex(n[1], n[2]) if count == 3 else 0j
        return turn, turn * 1j, center - turn * center
    if name == "skewX" and count == 1:
        return 1 + 0j, complex(math.tan(math.radians(n[0])), 1), 0j
    if name == "skewY" and count == 1:
        return complex(1, math.tan(math.radians(n[0]))), 1j, 0j
    return None
