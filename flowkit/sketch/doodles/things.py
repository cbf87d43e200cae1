"""Doodles of objects. Coordinates are canvas units before the random pose is applied."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from flowkit.sketch.doodles.pen import Pen, arc, bezier, bow, box, curve, dot, drop, ellipse, join, line, polar, wave


def house(pen: Pen) -> None:
    half, eave, ground = pen.between(0.42, 0.58), pen.between(-0.14, 0.06), 0.7
    over, apex = pen.between(0.06, 0.15), pen.between(-0.07, 0.07) + 1j * pen.between(-0.68, -0.5)
    door, side = pen.choice(-0.45, 0.45) * half, pen.between(0.1, 0.14)
    sill, pane = (eave + 0.72) * 0.42 + eave - 0.14, pen.between(0.1, 0.14)
    lintel = ground - (ground - eave) * pen.between(0.56, 0.68)
    walls = pen.draw(line(-half + 1j * eave, -half + 1j * ground, half + 1j * ground, half + 1j * eave))
    left, right = -half - over + 1j * eave, half + over + 1j * eave
    roof = pen.draw(line(left, apex, right, left))
    frame = line(door - side + 1j * ground, door - side + 1j * lintel)
    arch = pen.chance(0.4) * -0.35
    pen.draw(
        join(
            frame,
            bow(door - side + 1j * lintel, door + side + 1j * lintel, arch),
            line(door + side + 1j * lintel, door + side + 1j * ground),
        )
    )
    pen.draw(dot(door + side * 0.5 + 1j * (lintel + ground) / 2, 0.022), pen.chance(0.7), walls)
    at, framed, cross = -door, pen.chance(0.92), pen.chance(0.75)
    pen.draw(box(at - pane, sill, at + pane, sill + 2 * pane), framed, walls)
    middle = at + 1j * (sill + pane)
    pen.draw(line(middle - 1j * pane, middle + 1j * pane), framed & cross, walls)
    pen.draw(line(middle - pane, middle + pane), framed & cross, walls)
    attic = (apex + 1j * eave * 1.4) / 2.4 + 0.1j * (apex.imag < -0.6)
    pen.draw(ellipse(attic, 0.075, 0.075, 2), pen.chance(0.5), roof)
    stack, tip = pen.chance(0.65), apex.imag - pen.between(-0.04, 0.06)
    foot, wide = 0.34, 0.2
    slope = right - apex
    low, high = apex + slope * foot, apex + slope * (foot + wide)
    pen.draw(line(low, low.real + 1j * tip, high.real + 1j * tip, high), stack, roof)
    smoke = (low.real + high.real) / 2 + 1j * (tip - 0.06)
    pen.draw(
        curve(smoke, smoke + 0.07 - 0.08j, smoke - 0.01 - 0.15j, smoke + 0.1 - 0.22j), stack & pen.chance(0.7), roof
    )


def umbrella(pen: Pen) -> None:
    half, rim, top = pen.between(0.6, 0.7), pen.between(-0.02, 0.08), pen.between(-0.64, -0.52)
    dome = pen.draw(arc(1j * rim, half, rim - top, 180, 360, 4))
    number, rise = 4, pen.between(0.14, 0.24)
    joints = [-half + 2 * half * i / number + 1j * rim for i in range(number + 1)]
    pen.draw(join(*[bow(a, b, -rise) for a, b in pairwise(joints)]))
    for joint in joints[1:-1]:
        pen.draw(bezier(1j * top, joint.real * 0.75 + 1j * (top + 0.1), joint * 1.0 - 0.3j, joint))
    pen.draw(line(1j * top, 1j * (top - pen.between(0.09, 0.13))))
    foot, crook = pen.between(0.5, 0.6), pen.between(0.09, 0.14)
    hook = pen.choice(-1.0, 1.0)
    handle = pen.draw(
        join(
            line(1j * (rim - 0.02), 1j * foot),
            bezier(
                1j * foot,
                1j * (foot + crook * 1.4),
                hook * 2 * crook + 1j * (foot + crook * 1.4),
                hook * 2 * crook + 1j * (foot - 0.01),
            ),
        )
    )
    rain = pen.chance(0.65)
    for x, y in ((-0.42, 0.36), (0.46, 0.3), (-0.62, 0.6), (0.62, 0.62), (-0.37, 0.76)):
        at, r = x + pen.between(-0.06, 0.06) + 1j * (y + pen.between(-0.07, 0.07)), pen.between(0.035, 0.05)
        pen.draw(drop(at, r), rain & pen.chance(0.8), dome if x < 0 else handle)


def cup(pen: Pen) -> None:
    half, rim, foot = pen.between(0.36, 0.46), pen.between(-0.16, -0.04), pen.between(0.48, 0.56)
    base, open_ = half * pen.between(0.55, 0.9), pen.between(0.07, 0.11)
    left, right = -half + 1j * rim, half + 1j * rim
    pen.draw(ellipse(1j * rim, half, open_, 4, start=180.0))
    bowl = pen.draw(
        join(
            bow(left, -base + 1j * foot, -pen.between(0.02, 0.12)),
            bow(-base + 1j * foot, base + 1j * foot, 0.09),
            bow(base + 1j * foot, right, -0.06),
        )
    )
    ear, high, low = pen.between(0.2, 0.3), rim + 0.1, foot - 0.17
    root, back = half * 0.985, (half * 0.35 + base * 0.65) * 1.06
    handle = pen.draw(
        bezier(
            root + 1j * high,
            root + ear + 1j * (high - 0.06),
            root + ear + 0.02 + 1j * (low - 0.02),
            back + 1j * low,
        )
    )
    pen.draw(
        bezier(
            root + 1j * (high + 0.07),
            root + ear * 0.62 + 1j * (high + 0.02),
            root + ear * 0.6 + 1j * (low - 0.1),
            back + 0.015 + 1j * (low - 0.08),
        )
    )
    plate, under = pen.chance(0.6), half + pen.between(0.2, 0.28)
    pen.draw(bow(-base - 0.03 + 1j * (foot - 0.01), -under + 1j * (foot - 0.02), 0.05), plate, bowl)
    pen.draw(arc(1j * (foot - 0.02), under, 0.15, 180, 0, 2), plate, bowl)
    pen.draw(bow(under + 1j * (foot - 0.02), base + 0.03 + 1j * (foot - 0.01), 0.05), plate, bowl)
    steam = rim - pen.between(0.14, 0.2)
    swing, tall = pen.choice(-1, 1) * pen.between(0.1, 0.18), pen.between(0.3, 0.42)
    for x, p, spare in ((0.0, 0.9, bowl), (-0.2, 0.7, bowl), (0.2, 0.7, handle)):
        start = x + 1j * (steam - 0.05 * (x == 0))
        pen.draw(wave(start, start - 1j * tall, swing), pen.chance(p), spare)
    face, middle = pen.chance(0.55), 1j * (rim * 0.42 + foot * 0.58)
    for side in (-1, 1):
        pen.draw(dot(middle + side * 0.15 - 0.03j, 0.03), face, bowl)
    pen.draw(bow(middle - 0.07 + 0.03j, middle + 0.07 + 0.03j, 0.4), face, bowl)
    heart = middle + 0.1j
    pen.draw(
        join(
            bezier(heart, heart - 0.26 - 0.16j, heart - 0.1 - 0.3j, heart - 0.15j),
            bezier(heart - 0.15j, heart + 0.1 - 0.3j, heart + 0.26 - 0.16j, heart),
        ),
        ~face & pen.chance(0.6),
        bowl,
    )


def star(pen: Pen) -> None:
    outer, inner, puff = pen.between(0.62, 0.74), pen.between(0.42, 0.54), pen.between(-0.02, 0.09)
    corners = [polar(0.04j, outer * (1 if i % 2 == 0 else inner), -90 + 36 * i) for i in range(10)]
    edges = [bow(a, b, -puff) for a, b in zip(corners, corners[1:] + corners[:1], strict=False)]
    outline = pen.draw(join(*edges))
    face, wide, high = pen.chance(0.75), pen.between(0.09, 0.14), pen.between(-0.04, 0.02)
    for side in (-1, 1):
        pen.draw(dot(side * wide + 1j * high, pen.between(0.026, 0.038)), face, outline)
    smile = pen.between(0.06, 0.1)
    pen.draw(bow(-smile + 1j * (high + 0.1), smile + 1j * (high + 0.1), pen.between(0.25, 0.5)), face, outline)
    blush = face & pen.chance(0.5)
    for side in (-1, 1):
        cheek = side * (wide + 0.08) + 1j * (high + 0.09)
        pen.draw(line(cheek - 0.035 + 0.02j, cheek + 0.035 - 0.02j), blush, outline)
    facets = ~face & pen.chance(0.6)
    for i in range(0, 10, 2):
        pen.draw(line(0.04j + (corners[i] - 0.04j) * 0.12, corners[i] * 0.8), facets, outline)
    glow = pen.chance(0.6)
    for i in range(5):
        beam = pen.between(0.09, 0.15)
        start = polar(0.04j, outer * 0.84, -54 + 72 * i)
        pen.draw(line(start, start + polar(0, beam, -54 + 72 * i)), glow, outline)


def snowman(pen: Pen) -> None:
    big, mid, small = pen.between(0.29, 0.34), pen.between(0.21, 0.25), pen.between(0.17, 0.2)
    lean = pen.between(-0.03, 0.03)
    low = 0.76 - big
    chest, gap = low - (big + mid) * 0.92, (mid + small) * 0.92
    head = chest - gap
    # Each ball hides the top of the one below it. This is the angle from the top to where the two circles cross.
    cover = np.degrees(np.arccos((big**2 + (low - chest) ** 2 - mid**2) / (2 * big * (low - chest))))
    base = pen.draw(arc(1j * low, big, big, -90 + cover, 270 - cover, 4))
    cover = np.degrees(np.arccos((mid**2 + gap**2 - small**2) / (2 * mid * gap)))
    body = pen.draw(arc(lean + 1j * chest, mid, mid, -90 + cover, 270 - cover, 3))
    pen.draw(arc(1.6 * lean + 1j * head, small, small, -90 + 47, 270 - 47, 3))
    face, brow = 1.6 * lean + 1j * head, head - small * 0.68
    hat, tall, brim = small * pen.between(0.62, 0.75), pen.between(0.15, 0.24), small * pen.between(1.0, 1.3)
    mid_hat = 1.6 * lean
    pen.draw(bow(mid_hat - brim + 1j * brow, mid_hat + brim + 1j * brow, 0.03))
    pen.draw(
        line(
            mid_hat - hat + 1j * brow,
            mid_hat - hat + 1j * (brow - tall),
            mid_hat + hat + 1j * (brow - tall),
            mid_hat + hat + 1j * brow,
        )
    )
    band = brow - 0.05
    pen.draw(line(mid_hat - hat + 1j * band, mid_hat + hat + 1j * band), pen.chance(0.6), base)
    for side in (-1, 1):
        pen.draw(dot(face + side * small * 0.4 - 0.22j * small, 0.024))
    nose, long = face + 0.14j * small, pen.choice(-1, 1) * small * pen.between(0.75, 1.15)
    pen.draw(line(nose - 0.03j, nose + long + 0.02j, nose + 0.03j))
    smile = face + 0.52j * small
    pen.draw(bow(smile - small * 0.32, smile + small * 0.32, 0.3), pen.chance(0.85), body)
    for i in range(3):
        pen.draw(dot(lean + 1j * (chest + mid * (-0.3 + 0.4 * i)), 0.024), pen.chance(0.9 if i < 2 else 0.6), base)
    lift = pen.between(-0.22, 0.08)
    for side in (-1, 1):
        shoulder = lean + side * mid * 0.98 + 1j * (chest - mid * 0.2)
        hand = shoulder + side * pen.between(0.28, 0.36) + 1j * lift
        pen.draw(line(shoulder, hand))
        fork = shoulder + (hand - shoulder) * 0.68
        pen.draw(line(fork, fork + side * 0.05 - 0.1j), pen.chance(0.8), base)
    scarf, neck = pen.chance(0.6), (chest - mid + head + small) / 2 + 0.02
    pen.draw(bow(lean - small * 0.85 + 1j * neck, lean + small * 0.85 + 1j * neck, 0.22), scarf, base)
    knot = lean + small * 0.5 + 1j * (neck + 0.06)
    pen.draw(line(knot, knot + 0.03 + 0.2j), scarf, base)
    pen.draw(line(knot + 0.1 - 0.01j, knot + 0.12 + 0.17j), scarf, base)


THINGS = {"cup": cup, "house": house, "snowman": snowman, "star": star, "umbrella": umbrella}
