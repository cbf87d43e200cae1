"""Doodles of land animals, birds and insects. All but the butterfly face right; `generate_doodles` flips half of them."""

from __future__ import annotations

from flowkit.sketch.doodles.pen import Pen, bezier, bow, curve, dot, ellipse, join, line, polar


def cat(pen: Pen) -> None:
    half, tall, head = pen.between(0.29, 0.35), pen.between(0.22, 0.27), 1j * pen.between(-0.36, -0.3)
    ear, tip = pen.between(0.2, 0.28), pen.between(0.72, 0.95)
    inner = [head + s * half * 0.32 - 1j * tall * 0.96 for s in (-1, 1)]
    outer = [head + s * half * 0.94 - 1j * tall * 0.36 for s in (-1, 1)]
    tips = [head + s * half * tip - 1j * (tall * 0.8 + ear) for s in (-1, 1)]
    skull = pen.draw(
        join(
            bow(outer[0], tips[0], -0.05),
            bow(tips[0], inner[0], -0.05),
            bow(inner[0], inner[1], -0.08),
            bow(inner[1], tips[1], -0.05),
            bow(tips[1], outer[1], -0.05),
            bezier(
                outer[1],
                head + half * 1.12 + 1j * tall * 0.2,
                head + half * 0.7 + 1j * tall,
                head + 1j * tall,
                head - half * 0.7 + 1j * tall,
                head - half * 1.12 + 1j * tall * 0.2,
                outer[0],
            ),
        )
    )
    neck, hip, floor = head.imag + tall * 0.9, pen.between(0.3, 0.4), 0.74
    body = pen.draw(
        join(
            bezier(-half * 0.62 + 1j * neck, -half * 0.75 + 1j * (neck + 0.25), -hip + 1j * 0.3, -hip + 1j * 0.56),
            bezier(-hip + 1j * 0.56, -hip + 1j * 0.74, -hip * 0.7 + 1j * floor, -0.05 + 1j * floor),
            bezier(-0.05 + 1j * floor, hip * 0.8 + 1j * floor, hip + 1j * 0.74, hip + 1j * 0.56),
            bezier(hip + 1j * 0.56, hip + 1j * 0.3, half * 0.75 + 1j * (neck + 0.25), half * 0.62 + 1j * neck),
        )
    )
    curl, lift = pen.between(0.2, 0.3), pen.between(0.0, 0.3)
    root = -hip * 0.8 + 1j * (floor - 0.06)
    end = -hip - curl * 0.7 + 1j * lift
    pen.draw(
        bezier(
            root,
            root - curl * 1.4 + 0.12j,
            end - 0.14 + 0.22j,
            end,
            end + 0.06 - 0.09j,
            end + 0.13 + 0.0j,
            end + 0.1 + 0.06j,
        )
    )
    eyes = half * pen.between(0.38, 0.46)
    narrow = pen.between(0.6, 1.0)
    for side in (-1, 1):
        pen.draw(ellipse(head + side * eyes - 0.06j * tall, 0.046 * narrow, 0.052, 2))
    nose = head + 0.3j * tall
    pen.draw(bezier(nose, nose - 0.11 - 0.06j, nose + 0.11 - 0.06j, nose))
    smile = pen.between(0.06, 0.085)
    for side in (-1, 1):
        pen.draw(bow(nose, nose + side * smile * 1.3 + 0.02j, side * 0.4))
    whiskers = pen.chance(0.85)
    for side in (-1, 1):
        for lift in (-0.03, 0.05):
            start = nose + side * half * 0.5 + 0.4j * lift
            pen.draw(line(start, start + side * pen.between(0.24, 0.32) + 1j * lift * 1.5), whiskers, body)
    for side in (-1, 1):
        pen.draw(bow(side * 0.07 + 0.36j, side * 0.07 + 1j * floor, side * 0.05))
    stripes = pen.chance(0.5)
    for x in (-0.3, 0.0, 0.3):
        start = head + half * x * 0.8 - 1j * tall * (0.93 - 0.1 * abs(x))
        pen.draw(line(start, start + 0.11j), stripes, skull)


def bird(pen: Pen) -> None:
    plump, head = pen.between(0.25, 0.33), 0.3 + 1j * pen.between(-0.36, -0.28)
    skull = pen.between(0.17, 0.21)
    tail, wide = -0.74 + 1j * pen.between(-0.22, 0.06), pen.between(0.07, 0.11)
    breast, belly = 0.34 + 0.06j, -0.02 + 1j * (0.1 + plump)
    crown, nape = head - 1j * skull, head - skull * 0.98 + 0.02j
    face, throat = head + skull, head + skull * 0.75 + 1j * skull * 0.75
    body = pen.draw(
        join(
            bezier(
                tail - 1j * wide,
                tail + 0.22 - 1j * (wide - 0.02),
                nape - 0.18 + 0.12j,
                nape,
                nape - 0.12j,
                crown - 0.1,
                crown,
                crown + 0.12,
                face - 0.1j,
                face,
                face + 0.06j,
                throat + 0.02 - 0.02j,
                throat,
            ),
            bezier(
                throat,
                throat + 0.06 + 0.2j,
                breast + 0.08 + 0.2j,
                belly + 0.16 + 0.0j,
                belly - 0.18 - 0.02j,
                tail + 0.3 + 0.16j,
                tail + 1j * wide,
            ),
            line(tail + 1j * wide, tail - 1j * wide),
        )
    )
    beak = pen.between(0.13, 0.22)
    pen.draw(line(face - 0.01 - 0.05j, face + beak + 0.03j, face - 0.015 + 0.07j))
    pen.draw(line(face - 0.005 + 0.02j, face + beak * 0.6 + 0.025j), pen.chance(0.5), body)
    pen.draw(dot(head + skull * 0.3 - 0.04j, pen.between(0.026, 0.034)))
    root, spread = 0.12 - 0.02j, pen.between(0.36, 0.46)
    tip = root - spread + 1j * pen.between(0.02, 0.14)
    wing = pen.draw(join(bow(root, tip, 0.16), bezier(tip, tip + 0.12 + 0.2j, root + 0.02 + 0.24j, root)))
    for at in (0.34, 0.56):
        feather = tip + (root - tip) * at + 0.03j
        pen.draw(bow(feather, feather + 0.12 + 0.06j, 0.3), pen.chance(0.6), wing)
    fan = pen.chance(0.6)
    for y in (-0.35, 0.35):
        pen.draw(line(tail + 0.01 + 1j * wide * y, tail + 0.2 + 1j * wide * y + 0.02j), fan, body)
    foot = 0.66
    for x in (-0.1, 0.08):
        leg = x + 1j * (0.08 + plump)
        pen.draw(line(leg, x + 0.01 + 1j * foot))
        pen.draw(line(x - 0.08 + 1j * (foot + 0.05), x + 0.01 + 1j * foot, x + 0.11 + 1j * (foot + 0.05)))
    crest = pen.chance(0.45)
    pen.draw(
        join(bow(crown - 0.02, crown - 0.14 - 0.12j, 0.2), bow(crown - 0.14 - 0.12j, crown - 0.08 + 0.03j, 0.1)),
        crest,
        body,
    )
    perch = pen.chance(0.5)
    pen.draw(bow(-0.6 + 1j * (foot + 0.06), 0.62 + 1j * (foot + 0.05), 0.02), perch, body)
    leaf = -0.42 + 1j * (foot + 0.08)
    pen.draw(
        join(bow(leaf, leaf - 0.16 + 0.12j, -0.3), bow(leaf - 0.16 + 0.12j, leaf, -0.3)), perch & pen.chance(0.7), body
    )


def butterfly(pen: Pen) -> None:
    long, slim = pen.between(0.24, 0.32), pen.between(0.035, 0.055)
    body = pen.draw(ellipse(0.06j, slim, long, 2))
    top = 1j * (0.06 - long - 0.05)
    pen.draw(ellipse(top, 0.06, 0.06, 2))
    upper, rise, lower, fall = (
        pen.between(0.5, 0.66),
        pen.between(0.5, 0.66),
        pen.between(0.38, 0.52),
        pen.between(0.46, 0.62),
    )
    point = pen.between(0.85, 1.0)
    forewings, hindwings = [], []
    for side in (-1, 1):
        shoulder, waist = side * slim - 0.1j, side * slim + 0.08j
        tip = side * upper - 1j * rise * point
        edge = side * upper * 0.86 + 0.02j
        forewings.append(
            pen.draw(
                bezier(
                    shoulder,
                    side * 0.2 - 1j * rise * 0.8,
                    side * upper * 0.6 - 1j * rise * 1.12,
                    tip,
                    tip + side * 0.16 + 0.12j,
                    edge + side * 0.12 - 0.1j,
                    edge,
                    edge - side * 0.2 + 0.12j,
                    waist + side * 0.14 + 0.03j,
                    waist,
                )
            )
        )
        end = side * lower * 0.8 + 1j * fall
        hindwings.append(
            pen.draw(
                bezier(
                    waist + 0.03j,
                    waist + side * 0.3 - 0.04j,
                    side * lower * 1.25 + 0.14j,
                    side * lower + 0.3j,
                    side * lower * 0.95 + 1j * (fall - 0.06),
                    end + side * 0.05 + 0.05j,
                    end,
                    end - side * 0.2 + 0.02j,
                    side * 0.1 + 0.4j,
                    side * slim + 0.2j,
                )
            )
        )
    curl = pen.between(0.08, 0.16)
    for side in (-1, 1):
        start, end = top + side * 0.03 - 0.05j, top + side * curl - 0.24j
        pen.draw(bezier(start, start + side * 0.02 - 0.14j, end - side * 0.1 - 0.06j, end))
        pen.draw(dot(end, 0.022), pen.chance(0.6), forewings[side > 0])
    spots, size = pen.chance(0.75), pen.between(0.06, 0.095)
    for side in (-1, 1):
        pen.draw(ellipse(side * upper * 0.72 - 1j * rise * 0.62, size, size, 2), spots, forewings[side > 0])
        pen.draw(
            ellipse(side * lower * 0.72 + 1j * (0.1 + fall * 0.4), size * 0.75, size * 0.75, 2),
            spots,
            hindwings[side > 0],
        )
    veins = ~spots | pen.chance(0.3)
    for side in (-1, 1):
        pen.draw(
            bow(side * 0.1 - 0.08j, side * upper * 0.72 - 1j * rise * 0.3, side * -0.1), veins, forewings[side > 0]
        )
    stripes = pen.chance(0.4)
    for y in (0.04, 0.16):
        pen.draw(line(-slim * 0.9 + 1j * y, slim * 0.9 + 1j * y), stripes, body)


def snail(pen: Pen) -> None:
    shell, floor = pen.between(0.38, 0.46), 0.48
    center = -0.2 + 1j * (floor - 0.02 - shell)
    turn, tight = pen.between(60, 90), pen.between(0.18, 0.23)
    coil = [polar(center, shell * (1 - (1 - tight) * (i / 10) ** 0.85), turn + 72 * i) for i in range(11)]
    spiral = pen.draw(curve(*coil))
    head = 0.52 + 1j * pen.between(-0.24, -0.08)
    tail = -0.78 + 1j * floor
    size = pen.between(0.12, 0.15)
    foot = pen.draw(bow(tail, polar(center, shell * 1.02, 142), 0.08))
    chest = polar(center, shell * 1.02, 36)
    pen.draw(
        bezier(
            chest,
            chest + 0.08 + 0.04j,
            head - size + 0.18j,
            head - size,
            head - size - 1j * size * 0.9,
            head + size * 0.9 - 1j * size * 1.2,
            head + size,
            head + size * 1.3 + 0.26j,
            0.52 + 1j * floor,
            0.3 + 1j * floor,
        )
    )
    pen.draw(bow(0.3 + 1j * floor, tail, 0.015))
    rise = pen.between(0.2, 0.3)
    for side, lean in ((-1, -0.1), (1, 0.12)):
        start = head + side * size * 0.4 - 1j * size * 0.75
        end = start + lean - 1j * rise
        pen.draw(bow(start, end, side * 0.08))
        pen.draw(ellipse(end - 0.04j, 0.045, 0.045, 2))
    pen.draw(dot(head + size * 0.3 - 0.01j, 0.024), pen.chance(0.7), spiral)
    pen.draw(bow(head + size * 0.1 + 0.1j, head + size * 0.9 + 0.06j, 0.3), pen.chance(0.85), spiral)
    slime = pen.chance(0.6)
    pen.draw(line(-0.78 + 1j * (floor + 0.1), 0.1 + 1j * (floor + 0.1)), slime, foot)
    pen.draw(line(0.24 + 1j * (floor + 0.1), 0.6 + 1j * (floor + 0.1)), slime, foot)


ANIMALS = {"bird": bird, "butterfly": butterfly, "cat": cat, "snail": snail}
