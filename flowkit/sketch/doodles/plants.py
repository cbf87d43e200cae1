"""Doodles of plants and the sky."""

from __future__ import annotations

import numpy as np

from flowkit.sketch.doodles.pen import Pen, arc, bezier, bow, dot, ellipse, join, line, polar, wave


def flower(pen: Pen) -> None:
    heart, core = 1j * pen.between(-0.36, -0.28), pen.between(0.125, 0.165)
    number, reach = pen.choice(5, 6, 7, 8), pen.between(0.22, 0.3)
    middle = pen.draw(ellipse(heart, core, core, 4))
    ground, sway = 0.76, pen.between(-0.16, 0.16)
    first = pen.between(82, 98)  # one petal hangs, and the stem begins at its tip
    start = polar(heart, core + reach * 0.97, first)
    foot = sway * 0.5 + 1j * ground
    stem = pen.draw(bezier(start, start - sway + 0.24j, foot - 0.45 * sway - 0.3j, foot))
    plump = 180 / number * pen.between(0.85, 1.02)
    for i in range(8):
        angle = first + 360 * i / number
        left, right = polar(heart, core * 1.02, angle - plump * 0.8), polar(heart, core * 1.02, angle + plump * 0.8)
        tip = polar(heart, core + reach, angle)
        wide = polar(heart, core + reach * 0.75, angle - plump), polar(heart, core + reach * 0.75, angle + plump)
        side = tip + (wide[0] - wide[1]) * 0.34, tip - (wide[0] - wide[1]) * 0.34
        pen.draw(join(bezier(left, wide[0], side[0], tip), bezier(tip, side[1], wide[1], right)), i < number, middle)
    for side, at in ((-1, 0.62), (1, 0.78)):
        root = start + (foot - start) * at - sway * 0.2
        tip = root + side * pen.between(0.26, 0.36) - 1j * pen.between(0.1, 0.22)
        leaf = pen.chance(0.8)
        pen.draw(join(bow(root, tip, -side * 0.32), bow(tip, root, -side * 0.26)), leaf, stem)
        pen.draw(line(root, root + (tip - root) * 0.7), leaf & pen.chance(0.5), stem)


def tree(pen: Pen) -> None:
    high, wide, tall = 1j * pen.between(-0.3, -0.24), pen.between(0.44, 0.6), pen.between(0.36, 0.46)
    bumps, puff, turn = 8, pen.between(0.2, 0.38), pen.between(-5, 5)
    rim = [
        high + wide * np.cos(a) + 1j * tall * np.sin(a)
        for a in (np.radians(112.5 + turn + 45 * i) for i in range(bumps))
    ]
    crown = pen.draw(join(*[bow(a, b, -puff) for a, b in zip(rim, rim[1:] + rim[:1], strict=True)]))
    foot, thick, flare = 0.76, pen.between(0.08, 0.13), pen.between(0.05, 0.13)
    # The lowest bump spans 45 degrees of the crown; the trunk begins where it meets that bump.
    chord = 2 * wide * np.sin(np.radians(22.5))
    under = high.imag + tall * 0.92 + puff * chord * (1 - (2 * thick / chord) ** 2) - 0.01
    for side in (-1, 1):
        pen.draw(
            bezier(
                side * thick + 1j * under,
                side * thick + 1j * (under + 0.2),
                side * thick + 1j * (foot - 0.1),
                side * (thick + flare) + 1j * foot,
            )
        )
    ground = pen.chance(0.7)
    for side in (-1, 1):
        start = side * (thick + flare) + 1j * foot
        pen.draw(bow(start, start + side * pen.between(0.2, 0.4) + 0.01j, side * 0.04), ground, crown)
    apples = pen.chance(0.55)
    for x, y in ((-0.5, -0.1), (0.42, -0.42), (0.46, 0.36), (-0.28, 0.5), (-0.1, -0.55)):
        at = high + wide * (x + pen.between(-0.1, 0.1)) + 1j * tall * (y + pen.between(-0.1, 0.1))
        pen.draw(ellipse(at, 0.055, 0.055, 2), apples & pen.chance(0.85), crown)
    for x, y in ((-0.3, -0.35), (0.3, 0.05), (-0.2, 0.2)):
        at = high + wide * x + 1j * tall * y
        pen.draw(bow(at - 0.1, at + 0.1, -pen.between(0.3, 0.5)), ~apples & pen.chance(0.7), crown)
    hollow = 1j * (under * 0.55 + foot * 0.45)
    pen.draw(ellipse(hollow, thick * 0.4, thick * 0.55, 2), pen.chance(0.4), crown)


def sun(pen: Pen) -> None:
    disc, number, first = pen.between(0.3, 0.38), pen.choice(8, 10, 12), pen.between(-100, -80)
    edge = pen.draw(ellipse(0j, disc, disc, 5))
    gap, long, short = pen.between(0.06, 0.1), pen.between(0.22, 0.34), pen.between(0.5, 1.0)
    swing = pen.chance(0.4) * pen.between(0.08, 0.14)
    for i in range(12):
        angle = first + 360 * i / number
        start, length = polar(0j, disc + gap, angle), long * (short if i % 2 else 1.0)
        pen.draw(wave(start, start + polar(0j, length, angle), swing), i < number, edge)
    face, wide, high = pen.chance(0.8), disc * pen.between(0.3, 0.4), disc * pen.between(-0.24, -0.1)
    for side in (-1, 1):
        pen.draw(dot(side * wide + 1j * high, pen.between(0.026, 0.038)), face, edge)
    smile = disc * pen.between(0.35, 0.55)
    pen.draw(bow(-smile + 0.25j * disc, smile + 0.25j * disc, pen.between(0.22, 0.42)), face, edge)
    blush = face & pen.chance(0.5)
    for side in (-1, 1):
        pen.draw(ellipse(side * disc * 0.68 + 0.16j * disc, 0.05, 0.035, 2), blush, edge)


def mushroom(pen: Pen) -> None:
    half, brim, top = pen.between(0.5, 0.64), pen.between(-0.04, 0.08), pen.between(-0.66, -0.5)
    droop = pen.between(0.02, 0.1)
    left, right = -half + 1j * brim, half + 1j * brim
    crown = pen.draw(join(arc(1j * brim, half, brim - top, 180, 360, 4), bow(right, left, -droop)))
    thick, foot = pen.between(0.14, 0.2), pen.between(0.62, 0.7)
    bulb, under = thick * pen.between(1.0, 1.5), brim + droop * half * 1.8
    stem = pen.draw(
        join(
            bow(-thick + 1j * under, -bulb + 1j * foot, -0.1),
            bow(-bulb + 1j * foot, bulb + 1j * foot, 0.14),
            bow(bulb + 1j * foot, thick + 1j * under, -0.1),
        )
    )
    face, ring = pen.chance(0.4), under + pen.between(0.1, 0.16)
    pen.draw(bow(-thick * 1.05 + 1j * ring, thick * 1.05 + 1j * ring, 0.2), ~face & pen.chance(0.7), stem)
    for x, y, r in ((-0.5, 0.34, 0.085), (0.05, 0.66, 0.1), (0.55, 0.36, 0.08), (-0.08, 0.26, 0.06), (0.4, 0.7, 0.045)):
        at = half * (x + pen.between(-0.06, 0.06)) + 1j * (brim + (top - brim) * (y + pen.between(-0.04, 0.04)))
        size = r * pen.between(0.8, 1.15)
        pen.draw(ellipse(at, size, size * 0.85, 2), pen.chance(0.88 if r > 0.07 else 0.5), crown)
    eyes = ring + 0.1
    for side in (-1, 1):
        pen.draw(dot(side * thick * 0.42 + 1j * eyes, 0.022), face, stem)
    pen.draw(bow(-0.04 + 1j * (eyes + 0.07), 0.04 + 1j * (eyes + 0.07), 0.4), face, stem)
    little, cap, rise = pen.chance(0.5), pen.between(0.13, 0.18), foot - pen.between(0.2, 0.28)
    at = bulb + cap + pen.between(0.04, 0.1)
    pen.draw(
        join(arc(at + 1j * rise, cap, cap * 0.9, 180, 360, 2), bow(at + cap + 1j * rise, at - cap + 1j * rise, -0.08)),
        little,
        crown,
    )
    for side in (-1, 1):
        pen.draw(
            bow(at + side * cap * 0.35 + 1j * (rise + 0.02), at + side * cap * 0.45 + 1j * foot, side * 0.1),
            little,
            stem,
        )
    for side in (-1, 1):
        grass, tuft = side * (bulb + pen.between(0.12, 0.2)) + 1j * (foot + 0.03), pen.chance(0.7)
        tuft = tuft & (~little if side > 0 else True)
        pen.draw(line(grass - 0.06 - 0.1j, grass, grass + 0.02 - 0.16j), tuft, crown)


def cactus(pen: Pen) -> None:
    half, top, soil = pen.between(0.13, 0.17), pen.between(-0.62, -0.52), 0.36
    left, right = -half + 1j * soil, half + 1j * soil
    body = pen.draw(
        join(
            line(left, -half + 1j * (top + half)),
            arc(1j * (top + half), half, half, 180, 360, 2),
            line(half + 1j * (top + half), right),
        )
    )
    pot, rim, base = pen.between(0.24, 0.3), 0.115, pen.between(0.72, 0.78)
    pen.draw(
        line(-pot + 1j * soil, pot + 1j * soil, pot + 1j * (soil + rim), -pot + 1j * (soil + rim), -pot + 1j * soil)
    )
    taper = pot * pen.between(0.62, 0.75)
    pen.draw(
        line(-pot * 0.88 + 1j * (soil + rim), -taper + 1j * base, taper + 1j * base, pot * 0.88 + 1j * (soil + rim))
    )
    for side, p in ((-1, 0.9), (1, 0.8)):
        arm, y = pen.chance(p), pen.between(-0.12, 0.12)
        out, up, thick = side * (half + pen.between(0.2, 0.28)), y - pen.between(0.22, 0.34), pen.between(0.1, 0.13)
        pen.draw(
            join(
                bezier(
                    side * half + 1j * (y + thick),
                    out + side * 0.05 + 1j * (y + thick),
                    out + side * thick / 2 + 1j * y,
                    out + side * thick / 2 + 1j * up,
                ),
                bezier(
                    out + side * thick / 2 + 1j * up,
                    out + side * thick / 2 + 1j * (up - 0.09),
                    out - side * thick / 2 + 1j * (up - 0.09),
                    out - side * thick / 2 + 1j * up,
                ),
                bezier(
                    out - side * thick / 2 + 1j * up,
                    out - side * thick / 2 + 1j * (y - 0.02),
                    out - side * thick + 1j * y,
                    side * half + 1j * y,
                ),
            ),
            arm,
            body,
        )
    spines = pen.chance(0.65)
    for x, y in ((-0.4, -0.28), (0.3, -0.12), (-0.3, 0.06), (0.35, 0.2), (0.2, -0.4)):
        at, tilt = half * x + 1j * y, pen.between(-0.02, 0.02)
        pen.draw(line(at - 0.048j - tilt, at + 0.048j + tilt), spines, body)
    ribs = ~spines & pen.chance(0.7)
    for x in (-0.4, 0.4):
        pen.draw(line(half * x + 1j * (top + half * 0.8), half * x + 1j * (soil - 0.08)), ribs, body)
    bloom, crown, size = pen.chance(0.6), 1j * (top + 0.01), pen.between(0.85, 1.2)
    for way in (-55, 0, 55):
        left, right = polar(0, 0.24 * size, way - 90 - 34), polar(0, 0.24 * size, way - 90 + 34)
        pen.draw(bezier(crown, crown + left, crown + right, crown), bloom, body)


PLANTS = {"cactus": cactus, "flower": flower, "mushroom": mushroom, "sun": sun, "tree": tree}
