"""Doodles of vehicles."""

from __future__ import annotations

from itertools import pairwise

from flowkit.sketch.doodles.pen import Pen, arc, bezier, bow, curve, ellipse, join, line


def balloon(pen: Pen) -> None:
    half, top, skirt = pen.between(0.44, 0.54), -0.76, pen.between(0.2, 0.28)
    throat = pen.between(0.11, 0.15)
    wide = -0.25
    left, right = -half + 1j * wide, half + 1j * wide
    envelope = pen.draw(
        bezier(
            -throat + 1j * skirt,
            -throat - 0.1 + 1j * (skirt - 0.14),
            -half + 1j * (wide + 0.24),
            left,
            -half + 1j * (wide - 0.28),
            -half * 0.55 + 1j * top,
            1j * top,
            half * 0.55 + 1j * top,
            half + 1j * (wide - 0.28),
            right,
            half + 1j * (wide + 0.24),
            throat + 0.1 + 1j * (skirt - 0.14),
            throat + 1j * skirt,
        )
    )
    pen.draw(bow(-throat + 1j * skirt, throat + 1j * skirt, 0.12))
    gores = pen.chance(0.7)
    for side in (-1, 1):
        pen.draw(
            bezier(
                1j * top,
                side * half * 0.55 + 1j * (top + 0.15),
                side * half * 0.6 + 1j * (wide + 0.2),
                side * throat * 0.4 + 1j * (skirt + 0.02),
            ),
            gores,
            envelope,
        )
    stripes = ~gores | pen.chance(0.5)
    for y, scale in ((wide - 0.16, 0.95), (wide + 0.12, 0.965)):
        pen.draw(bow(-half * scale + 1j * y, half * scale + 1j * y, 0.1), stripes, envelope)
    basket, deep = skirt + pen.between(0.17, 0.24), pen.between(0.14, 0.18)
    rim, floor = pen.between(0.12, 0.155), pen.between(0.09, 0.12)
    for side in (-1, 1):
        pen.draw(line(side * throat * 0.92 + 1j * (skirt + 0.02), side * rim * 0.9 + 1j * basket))
    pen.draw(
        line(
            -rim + 1j * basket,
            rim + 1j * basket,
            floor + 1j * (basket + deep),
            -floor + 1j * (basket + deep),
            -rim + 1j * basket,
        )
    )
    weave = pen.chance(0.6)
    pen.draw(line(-rim * 0.9 + 1j * (basket + deep / 2), rim * 0.9 + 1j * (basket + deep / 2)), weave, envelope)
    for x, y in ((-0.62, 0.34), (0.6, 0.12)):
        cloud, r = x + 1j * (y + pen.between(-0.12, 0.12)), pen.between(0.8, 1.15)
        shape = [cloud + r * p for p in (-0.16, -0.08 - 0.09j, 0.07 - 0.08j, 0.16)]
        puffs = [
            bow(shape[0], shape[1], -0.5),
            bow(shape[1], shape[2], -0.5),
            bow(shape[2], shape[3], -0.5),
            bow(shape[3], shape[0], 0.05),
        ]
        pen.draw(join(*puffs), pen.chance(0.65), envelope)


def car(pen: Pen) -> None:
    rear, front, floor = -0.74, 0.76, pen.between(0.3, 0.36)
    belt, roof = pen.between(-0.04, 0.03), pen.between(-0.4, -0.3)
    nose, tail = belt + pen.between(0.03, 0.1), belt + pen.between(-0.04, 0.05)
    back, wind = pen.between(-0.5, -0.36), pen.between(0.2, 0.34)
    wheel, hind, fore = pen.between(0.15, 0.185), -0.42, 0.44
    arch = wheel * 1.18
    body = pen.draw(
        join(
            line(hind - arch + 1j * floor, rear + 1j * floor),
            bow(rear + 1j * floor, rear + 1j * tail, 0.1),
            bow(rear + 1j * tail, back + 1j * roof, pen.between(0.02, 0.14)),
            bow(back + 1j * roof, wind - 0.16 + 1j * roof, -0.06),
            bow(wind - 0.16 + 1j * roof, wind + 0.08 + 1j * belt, -0.05),
            bow(wind + 0.08 + 1j * belt, front - 0.04 + 1j * nose, -0.1),
            bow(front - 0.04 + 1j * nose, front + 1j * floor, -0.15),
            line(front + 1j * floor, fore + arch + 1j * floor),
        )
    )
    pen.draw(line(hind + arch + 1j * floor, fore - arch + 1j * floor))
    for at in (hind, fore):
        pen.draw(arc(at + 1j * floor, arch, arch, 180, 360, 2))
    for at in (hind, fore):
        pen.draw(ellipse(at + 1j * (floor + 0.03), wheel, wheel, 3))
    hubs = pen.chance(0.8)
    for at in (hind, fore):
        pen.draw(ellipse(at + 1j * (floor + 0.03), wheel * 0.42, wheel * 0.42, 2), hubs, body)
    post = (back + wind) / 2 - 0.06 + pen.between(-0.04, 0.04)
    top, sill = roof + 0.07, belt - 0.01
    pen.draw(
        line(
            back + 0.06 + 1j * top,
            wind - 0.19 + 1j * top,
            wind + 1j * sill,
            back - 0.02 + 1j * sill,
            back + 0.06 + 1j * top,
        )
    )
    pen.draw(line(post + 1j * top, post + 1j * sill))
    pen.draw(line(post + 1j * sill, post + 1j * (floor - 0.02)), pen.chance(0.75), body)
    pen.draw(line(post + 0.06 + 1j * (belt + 0.08), post + 0.16 + 1j * (belt + 0.08)), pen.chance(0.7), body)
    light = front - 0.075 + 1j * (nose + 0.09)
    pen.draw(ellipse(light, 0.045, 0.055, 2), pen.chance(0.7), body)


def rocket(pen: Pen) -> None:
    half, nose, tail = pen.between(0.17, 0.23), pen.between(-0.74, -0.64), pen.between(0.26, 0.34)
    belly = half * pen.between(1.05, 1.25)
    tip, left, right = 1j * nose, -half * 0.8 + 1j * tail, half * 0.8 + 1j * tail
    middle = nose * 0.3 + tail * 0.4
    body = pen.draw(
        join(
            bezier(
                left,
                -half * 0.9 + 1j * (tail - 0.12),
                -belly + 1j * (middle + 0.2),
                -belly + 1j * middle,
                -belly + 1j * (middle - 0.3),
                -0.1 + 1j * (nose + 0.1),
                tip,
                0.1 + 1j * (nose + 0.1),
                belly + 1j * (middle - 0.3),
                belly + 1j * middle,
                belly + 1j * (middle + 0.2),
                half * 0.9 + 1j * (tail - 0.12),
                right,
            ),
            line(right, left),
        )
    )
    spread, drop = pen.between(0.2, 0.32), pen.between(0.1, 0.2)
    for side in (-1, 1):
        root, low = side * half * 1.02 + 1j * (tail - 0.28), side * half * 0.8 + 1j * tail
        point = side * (half + spread) + 1j * (tail + drop)
        pen.draw(join(bow(root, point, side * 0.14), bow(point, low, -side * 0.12)))
    porthole, size = 1j * (middle - pen.between(0.02, 0.1)), half * pen.between(0.42, 0.52)
    pen.draw(ellipse(porthole, size, size, 3))
    pen.draw(ellipse(porthole, size * 0.6, size * 0.6, 2), pen.chance(0.6), body)
    pen.draw(bow(-belly * 0.66 + 1j * (nose + 0.27), belly * 0.66 + 1j * (nose + 0.27), 0.1), pen.chance(0.75), body)
    pen.draw(bow(-half * 0.95 + 1j * (tail - 0.1), half * 0.95 + 1j * (tail - 0.1), 0.06), pen.chance(0.6), body)
    pen.draw(line(1j * (tail - 0.26), 1j * (tail + drop * 0.8)), pen.chance(0.7), body)
    burn, long = half * 0.6, tail + pen.between(0.28, 0.42)
    flicker = pen.between(-0.05, 0.05)
    flame = tail + 0.03
    fire = pen.chance(0.85)
    pen.draw(
        curve(
            -burn + 1j * flame,
            -burn * 1.1 + 1j * (flame + 0.13),
            flicker + 1j * long,
            burn * 1.1 + 1j * (flame + 0.13),
            burn + 1j * flame,
        ),
        fire,
        body,
    )
    pen.draw(
        curve(
            -burn * 0.5 + 1j * (flame + 0.05),
            flicker * 0.5 + 1j * (flame * 0.45 + long * 0.55),
            burn * 0.5 + 1j * (flame + 0.05),
        ),
        fire & pen.chance(0.6),
        body,
    )
    for x, y in ((-0.58, -0.4), (0.56, -0.2), (-0.62, 0.18)):
        star, r = x + pen.between(-0.06, 0.06) + 1j * (y + pen.between(-0.14, 0.14)), pen.between(0.045, 0.075)
        when = pen.chance(0.6)
        pen.draw(line(star - r, star + r), when, body)
        pen.draw(line(star - 1j * r, star + 1j * r), when, body)


def sailboat(pen: Pen) -> None:
    long, deck, deep = pen.between(0.5, 0.66), pen.between(0.28, 0.38), pen.between(0.22, 0.3)
    keel = pen.between(0.55, 0.75)
    bow_, stern = long + 1j * deck, -long + 0.04 + 1j * deck
    hull = pen.draw(
        join(
            bow(stern, bow_, 0.04),
            bow(bow_, keel * long + 1j * (deck + deep), 0.1),
            line(keel * long + 1j * (deck + deep), -keel * long + 1j * (deck + deep)),
            bow(-keel * long + 1j * (deck + deep), stern, 0.1),
        )
    )
    mast, top = pen.between(-0.12, 0.06), pen.between(-0.76, -0.66)
    pen.draw(line(mast + 1j * (deck + 0.02), mast + 1j * top))
    boom, reach = deck - pen.between(0.09, 0.14), pen.between(0.4, 0.56)
    head, tack = mast + 0.035 + 1j * (top + 0.17), mast + 0.035 + 1j * boom
    main = pen.draw(join(line(tack, head), bow(head, tack + reach, -pen.between(0.04, 0.16)), line(tack + reach, tack)))
    luff, clew = mast - 0.04 + 1j * (top + pen.between(0.18, 0.3)), mast - 0.04 + 1j * boom
    outer = clew - pen.between(0.28, 0.42)
    jib = pen.chance(0.7)
    pen.draw(join(line(clew, luff), bow(luff, outer, pen.between(0.04, 0.14)), line(outer, clew)), jib, hull)
    seam = pen.chance(0.5)
    pen.draw(bow(tack - 0.24j, tack + reach * 0.66 - 0.24j, 0.04), seam, main)
    tip = mast + 1j * top
    flag = pen.chance(0.6)
    pen.draw(line(tip, tip + 0.2 + 0.06j, tip + 0.13j), flag, hull)
    stripe = pen.chance(0.55)
    inner = long * (1 + keel) / 2 * 0.98
    pen.draw(line(-inner + 1j * (deck + deep * 0.45), inner + 1j * (deck + deep * 0.45)), stripe, hull)
    sea, rise = deck + deep + 0.1, pen.between(0.15, 0.32)
    for y, start, when in ((0.0, -0.65, True), (0.1, -0.5, pen.chance(0.6))):
        crests = [start + 0.26 * i + 1j * (sea + y) for i in range(6 if when is True else 5)]
        pen.draw(join(*[bow(a, b, rise) for a, b in pairwise(crests)]), when, hull)
    gull = pen.between(0.42, 0.6) + 1j * pen.between(-0.66, -0.5)
    pen.draw(join(bow(gull - 0.14 - 0.03j, gull, -0.3), bow(gull, gull + 0.14 - 0.03j, -0.3)), pen.chance(0.5), hull)


VEHICLES = {"balloon": balloon, "car": car, "rocket": rocket, "sailboat": sailboat}
