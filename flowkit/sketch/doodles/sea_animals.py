"""Doodles of sea animals. They face right; `generate_doodles` flips half of those in `FLIPPED`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from flowkit.sketch.doodles.pen import Pen, bezier, bow, dot, ellipse, join, line


def fish(pen: Pen) -> None:
    high, low = pen.between(0.26, 0.42), pen.between(0.26, 0.4)
    mouth, neck = 0.66 + 0.02j, -0.38 + 0j
    thin, fin = pen.between(0.05, 0.09), pen.between(0.2, 0.32)
    wide, notch = pen.between(-0.74, -0.66), pen.between(-0.62, -0.52)
    body = pen.draw(
        join(
            bezier(
                neck - 1j * thin,
                -0.2 - 0.8j * high,
                0.0 - 1j * high,
                0.18 - 1j * high,
                0.4 - 1j * high,
                0.6 - 0.14j,
                mouth,
                0.58 + 0.16j,
                0.4 + 1j * low,
                0.16 + 1j * low,
                0.0 + 1j * low,
                -0.2 + 0.8j * low,
                neck + 1j * thin,
            )
        )
    )
    tail = pen.draw(
        join(
            bow(neck + 1j * thin, wide + 1j * fin, 0.12),
            bow(wide + 1j * fin, notch + 0j, -0.12),
            bow(notch + 0j, wide - 1j * fin, -0.12),
            bow(wide - 1j * fin, neck - 1j * thin, 0.12),
        )
    )
    eye, size = 0.4 - 1j * high * 0.3, pen.between(0.055, 0.075)
    pen.draw(ellipse(eye, size, size, 2))
    pen.draw(dot(eye + 0.01, 0.024))
    pen.draw(bow(0.27 - 0.66j * high, 0.27 + 0.66j * low, pen.between(0.14, 0.24)), pen.chance(0.85), body)
    pen.draw(bow(0.61 + 0.07j, 0.45 + 0.08j, -pen.between(0.15, 0.35)), pen.chance(0.85), body)
    crest, lean = pen.chance(0.85), pen.between(-0.12, 0.02)
    pen.draw(
        join(
            bow(0.18 - 1j * (high + 0.0), lean - 0.08 - 1j * (high + 0.18), 0.1),
            bow(lean - 0.08 - 1j * (high + 0.18), -0.14 - 0.86j * high, 0.2),
        ),
        crest,
        body,
    )
    keel = pen.chance(0.7)
    pen.draw(
        join(
            bow(0.1 + 1j * low, -0.08 + 1j * (low + 0.15), -0.1),
            bow(-0.08 + 1j * (low + 0.15), -0.12 + 0.88j * low, -0.2),
        ),
        keel,
        body,
    )
    scales = pen.chance(0.6)
    for x, y in ((0.08, -0.32), (0.08, 0.32), (-0.08, 0.0), (-0.2, -0.28), (-0.2, 0.28)):
        at, r = x + 1j * np.where(y < 0, high, low) * y, 0.075
        pen.draw(bow(at - 1j * r, at + 1j * r, pen.between(0.3, 0.45)), scales, body)
    bands = ~scales & pen.chance(0.7)
    for x, h in ((0.08, 0.88), (-0.08, 0.76)):
        pen.draw(bow(x - 1j * high * h, x + 1j * low * h, -0.14), bands, body)
    root, tip = 0.12 + 0.04j, -0.16 + 0.02j
    pen.draw(join(bow(root, tip, 0.28), bow(tip, root, 0.28)), ~scales & ~bands, body)
    bubbles = pen.chance(0.6)
    for x, y, r in ((0.76, -0.2, 0.04), (0.7, -0.4, 0.055)):
        pen.draw(ellipse(x + 1j * y, r, r, 2), bubbles & pen.chance(0.85), tail)


def whale(pen: Pen) -> None:
    high, low = pen.between(0.3, 0.38), pen.between(0.3, 0.36)
    nose, back = 0.68 + 0.1j, 0.2 - 1j * high + 0.06j
    root, tip = -0.52 - 0.1j, -0.62 - 0.28j
    body = pen.draw(
        bezier(
            nose,
            nose - 0.02 - 0.26j,
            back + 0.26,
            back,
            back - 0.3,
            root + 0.22 + 0.14j,
            tip + 0.04,
        )
    )
    chin = 0.16 + 1j * (low + 0.1)
    belly = pen.draw(
        bezier(nose, nose + 0.0 + 0.2j, chin + 0.28, chin, chin - 0.42, root - 0.06 + 0.34j, tip - 0.05 + 0.03j)
    )
    fluke = pen.between(0.22, 0.3)
    pen.draw(
        join(
            bow(tip + 0.04, tip + fluke * 0.9 - 1j * fluke, -0.25),
            bow(tip + fluke * 0.9 - 1j * fluke, tip - 0.02 - 0.09j, -0.3),
            bow(tip - 0.02 - 0.09j, tip - fluke - 0.7j * fluke, -0.3),
            bow(tip - fluke - 0.7j * fluke, tip - 0.05 + 0.03j, -0.25),
        )
    )
    pen.draw(dot(0.44 + 0.02j, pen.between(0.026, 0.036)))
    pen.draw(bezier(nose - 0.01 + 0.06j, nose - 0.16 + 0.14j, nose - 0.26 + 0.14j, nose - 0.34 + 0.06j))
    flipper = pen.chance(0.7)
    pen.draw(
        bezier(0.06 + 0.17j, -0.06 + 0.2j, -0.14 + 0.32j, -0.12 + 0.38j, 0.0 + 0.38j, 0.14 + 0.32j, 0.2 + 0.2j),
        flipper,
        belly,
    )
    pen.draw(bezier(0.44 + 0.24j, 0.3 + 0.34j, -0.2 + 0.3j, root + 0.1 + 0.06j), ~flipper, belly)
    jet, blow = pen.chance(0.8), back + 0.02 - 0.05j
    tall = pen.between(0.2, 0.3)
    pen.draw(line(blow, blow - 0.6j * tall), jet, body)
    for side in (-1, 1):
        pen.draw(
            bezier(
                blow - 0.6j * tall,
                blow - 1.2j * tall + side * 0.02,
                blow - 1.2j * tall + side * 0.2,
                blow - 0.5j * tall + side * 0.22,
            ),
            jet,
            body,
        )
    sea, waves = 0.6, pen.chance(0.65)
    crests = [-0.66 + 0.26 * i + 1j * (sea + pen.between(-0.01, 0.01)) for i in range(6)]
    pen.draw(join(*[bow(a, b, 0.25) for a, b in pairwise(crests)]), waves, belly)


SEA_ANIMALS = {"fish": fish, "whale": whale}
