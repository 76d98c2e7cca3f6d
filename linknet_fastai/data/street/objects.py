"""The objects in a street: trees, cars, people, cyclists, poles, signs and bins, each drawn by a function.

Where they are is decided in `scenes`.
"""

import math
from collections.abc import Sequence

import numpy as np

from linknet_fastai.data.street.canvas import (
    BICYCLIST,
    CAR,
    LEAVES,
    PAINTS,
    PEDESTRIAN,
    POLE,
    SIGN,
    TREE,
    VOID,
    Color,
    Point,
    Quad,
    Scene,
    Spot,
    ellipse,
    palette,
    patch,
    ring,
    upright,
    within,
)

CLOTHES = [*PAINTS, *palette("ebc83c 5a3c28 c85a82 3c8282 aaa08c")]
SKINS = palette("ebc3a5 cd9b78 966446 5f4132")
METALS = palette("464b4b 787d7d 32463c")
BARKS = palette("554434 6e6458")
SIGN_FACES = palette("f0f0ee 1e46a0 ebbe28")


def draw_tree(scene: Scene, spot: Spot, height: float, spread: float) -> None:
    """Draw a trunk, and a crown of clumps that are lighter at the top."""
    rng, color, (x, z) = scene.rng, scene.pick(LEAVES), spot
    scene.label = TREE
    bark = scene.pick(BARKS)
    scene.stroke([(x, 0, z), (x + rng.normal(0, 0.15), height * 0.6, z)], 0.1 + height * 0.03, bark)
    count = int(np.clip(1200 / z, 18, 180))
    angles, reaches = rng.uniform(0, 2 * math.pi, count), np.sqrt(rng.random(count))
    sizes = np.where(np.arange(count) < 12, 0.3, rng.uniform(0.04, 0.14, count)) * spread
    shades = 0.88 + 0.25 * reaches * np.sin(angles) + rng.normal(0, 0.14, count)
    if scene.misses(scene.box((x, 0.68 * height, z), 1.3 * spread + 0.3 * height)):
        return
    for angle, reach, size, shade in np.stack((angles, reaches, sizes, shades), 1).tolist():
        up = height * (0.68 + 0.3 * reach * math.sin(angle))
        scene.disc((x + spread * reach * math.cos(angle), up, z), size, color * shade)


def seen_sides(scene: Scene, low: Sequence[Point], high: Sequence[Point]) -> list[tuple[int, Quad]]:
    """The sides between two rings that face the camera, numbered: 0 rear, 1 right, 2 front, 3 left."""
    sides = [(i, (low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i])) for i in range(4)]
    return [(i, side) for i, side in sides if scene.project(side[0])[0] < scene.project(side[1])[0]]


def draw_car(scene: Scene, spot: Spot, heading: float, tall: bool) -> None:
    """Draw a car, or if `tall` a van or lorry."""
    rng, paint = scene.rng, scene.pick(PAINTS)
    half, waist, top = (1.1, 1.2, rng.uniform(2.3, 3.2)) if tall else (0.9, 0.9, rng.uniform(1.4, 1.65))
    ends = (-3.2, 3.2) if tall else (-2.1, 2.1)
    cabin = (-3.15, 2.9) if tall else (rng.uniform(-2.0, -1.3), 1.0)
    scene.label = None  # the shadow under a car is ground
    scene.fill(ring(spot, heading, half + 0.15, ends, 0.02), (22, 22, 25))
    scene.label = CAR
    deck = ring(spot, heading, half, ends, waist)
    for side, quad in seen_sides(scene, ring(spot, heading, half, ends, 0.28), deck):
        scene.fill(quad, paint * (0.8, 1.0, 0.9, 0.7)[side])
        if side in (1, 3):
            draw_wheels(scene, quad, waist - 0.28)
        else:
            draw_car_end(scene, quad, front=side == 2)
    scene.fill(deck, paint * 1.12)
    slope = (0.1, 0.2) if tall else (0.3, 0.6)
    roof = ring(spot, heading, half - slope[0] * 0.6, (cabin[0] + slope[0], cabin[1] - slope[1]), top)
    scene.fill(roof, paint)
    glass = np.array((38, 46, 54)) + rng.uniform(0, 50)
    for side, quad in seen_sides(scene, ring(spot, heading, half - 0.04, cabin, waist), roof):
        scene.fill(quad, paint * (0.85, 1.0, 0.9, 0.75)[side])
        panes = [(0.08, 0.92)] if side in (0, 2) else [(0.72, 0.94)] if tall else [(0.08, 0.48), (0.53, 0.93)]
        for pane in panes:  # the left side's quad runs from front to rear
            left, right = (1 - pane[1], 1 - pane[0]) if side == 3 else pane
            scene.panel(quad, (left, right, 0.45 if tall else 0.12, 0.86), glass)


def draw_wheels(scene: Scene, quad: Quad, height: float) -> None:
    """Draw the wheels at a car's side, which is `height` meters high and starts 0.28 m above the road."""
    for s in (0.2, 0.8):
        wheel = patch(quad, s - 0.08, s + 0.08, -0.28 / height, 0.36 / height)
        scene.fill(ellipse(wheel), (20, 20, 22))
        scene.fill(ellipse(patch(wheel, 0.25, 0.75, 0.25, 0.75)), (150, 152, 155))


def draw_car_end(scene: Scene, quad: Quad, front: bool) -> None:
    """Draw bumper, plate, lights and the visible part of the wheels at a car's front or rear."""
    lamps = scene.light.lamps
    colors = ((215, 218, 220), (255, 245, 215)) if front else ((165, 25, 25), (235, 35, 25))
    for left in (0.05, 0.77):
        scene.panel(quad, (left + 0.02, left + 0.16, -0.42, 0.02), (18, 18, 20))
        lamp = scene.panel(quad, (left, left + 0.18, 0.55, 0.85), colors[lamps], shines=lamps)
        if lamps:
            scene.halo(within(lamp, 0.5, 0.5), 0.35 if front else 0.12, colors[lamps])
    scene.panel(quad, (0.02, 0.98, 0.0, 0.22), (45, 45, 48))
    scene.panel(quad, (0.36, 0.64, 0.26, 0.44), (230, 225, 190))


def draw_person(scene: Scene, spot: Spot, height: float) -> None:
    """Draw a person in mid-step."""
    rng, (x, z) = scene.rng, spot
    scene.label = PEDESTRIAN
    top, trousers, skin = scene.pick(CLOTHES), scene.pick(CLOTHES) * 0.6, scene.pick(SKINS, 6)
    step, swing = rng.uniform(0.03, 0.16), rng.uniform(-0.12, 0.12)

    def limb(points: Sequence[Spot], thick: float, color: Color) -> None:
        scene.stroke([(x + across * height, up * height, z) for across, up in points], thick * height, color)

    for sign in (-1, 1):
        foot = step * sign
        limb(((0.03 * sign, 0.5), (0.6 * foot, 0.26), (foot, 0.02)), 0.085, trousers)
        limb(((foot, 0.015), (foot + 0.05, 0.015)), 0.035, (30, 26, 24))
        arm = (0.11 * sign, 0.78), (0.14 * sign + swing, 0.6), (0.13 * sign + 1.4 * swing, 0.45)
        limb(arm, 0.055, top * 0.85)
    limb(((0, 0.47), (0, 0.83)), 0.2, top)
    if rng.random() < 0.3:
        limb(((0.15, 0.4), (0.15, 0.52)), 0.12, scene.pick(CLOTHES))
    scene.disc((x, 0.93 * height, z), 0.068 * height, skin * 0.4)
    scene.disc((x, 0.915 * height, z), 0.055 * height, skin)


def draw_cyclist(scene: Scene, spot: Spot, heading: float) -> None:
    """Draw a rider on a bicycle. The whole of a wheel is Bicyclist, also between the spokes."""
    (x, z), sine, cosine = spot, math.sin(heading), math.cos(heading)
    scene.label = BICYCLIST
    top, paint, skin = scene.pick(CLOTHES), scene.pick(PAINTS), scene.pick(SKINS, 6)
    trousers, hat = scene.pick(CLOTHES) * 0.6, scene.pick(PAINTS)

    def at(ahead: float, up: float, aside: float = 0) -> Point:
        return x + ahead * sine + aside * cosine, up, z + ahead * cosine - aside * sine

    for hub in (-0.52, 0.52):
        rim = ellipse((at(hub - 0.34, 0), at(hub + 0.34, 0), at(hub + 0.34, 0.68), at(hub - 0.34, 0.68)))
        scene.mark(rim)
        scene.stroke([*rim, rim[0]], 0.05, (25, 25, 28), least=0.8)
    saddle, crank = at(-0.18, 0.85), at(0.02, 0.32)
    for line in (
        (at(-0.52, 0.34), saddle, at(0.4, 0.88), crank, saddle),
        (at(-0.52, 0.34), crank),
        (at(0.52, 0.34), at(0.36, 1.02)),
    ):
        scene.stroke(line, 0.05, paint, least=0.8)
    for aside, pedal in ((0.1, 0.2), (-0.1, 0.48)):
        scene.stroke([at(-0.18, 0.95, aside), at(0.22, pedal + 0.38, aside), at(0.05, pedal, aside)], 0.15, trousers)
    scene.stroke([at(-0.2, 0.92), at(0.12, 1.42)], 0.34, top)
    for aside in (-0.2, 0.2):
        scene.stroke([at(0.12, 1.38, aside), at(0.28, 1.12, aside), at(0.42, 1.04, aside)], 0.1, top * 0.85)
    scene.disc(at(0.22, 1.66), 0.14, hat)
    scene.disc(at(0.24, 1.6), 0.11, skin)


def draw_lamp_post(scene: Scene, spot: Spot, height: float, side: int) -> None:
    """Draw a lamp post left (-1) or right (1) of the road, with its arm over the road."""
    color, (x, z), lamps = scene.pick(METALS, 8), spot, scene.light.lamps
    scene.label = POLE
    scene.stroke([(x, 0, z), (x, height, z)], 0.16, color)
    scene.stroke([(x, height, z), (x - side * 1.2, height + 0.35, z)], 0.1, color)
    scene.disc((x - side * 1.3, height + 0.3, z), 0.18, (255, 225, 160) if lamps else (200, 200, 200), lamps)


def draw_traffic_light(scene: Scene, spot: Spot) -> None:
    """Draw a traffic light that shows one of its colors."""
    x, z = spot
    scene.label = POLE
    scene.stroke([(x, 0, z), (x, 2.4, z)], 0.14, (60, 62, 64))
    scene.label = SIGN
    scene.fill(upright((x - 0.26, z), (x + 0.26, z), 2.3, 3.55), (25, 27, 28))
    burning = scene.rng.integers(3)
    for index, color in enumerate(np.array(((60, 225, 120), (250, 180, 40), (240, 45, 35)))):
        shines = bool(index == burning)
        scene.disc((x, 2.52 + index * 0.39, z), 0.16, color * (1 if shines else 0.25), shines)


def draw_sign(scene: Scene, spot: Spot) -> None:
    """Draw a disc, a triangle or a board on a pole."""
    rng, (x, z) = scene.rng, spot
    high, edge, face = rng.uniform(1.9, 2.8), scene.pick(PAINTS[:3], 8), scene.pick(SIGN_FACES, 8)
    scene.label = POLE
    scene.stroke([(x, 0, z), (x, high + 0.3, z)], 0.1, (135, 138, 140))
    scene.label = SIGN
    plate = upright((x - 0.42, z), (x + 0.42, z), high, high + 0.84)
    kind = rng.choice(("disc", "triangle", "board"))
    if kind == "disc":
        scene.fill(ellipse(plate), edge)
        scene.fill(ellipse(patch(plate, 0.15, 0.85, 0.15, 0.85)), face)
    elif kind == "triangle":
        scene.fill((plate[0], plate[1], within(plate, 0.5, 1)), edge)
        scene.fill((within(plate, 0.2, 0.1), within(plate, 0.8, 0.1), within(plate, 0.5, 0.75)), face)
    else:
        board = scene.panel(plate, (-rng.uniform(0, 0.5), 1 + rng.uniform(0, 0.5), 0, 1), edge)
        scene.panel(board, (0.05, 0.95, 0.08, 0.92), face)
        for row in (0.25, 0.6):
            scene.panel(board, (0.15, rng.uniform(0.5, 0.85), row, row + 0.15), edge * 0.8)


def draw_bin(scene: Scene, spot: Spot) -> None:
    """Draw a bin or a box, which belongs to no class."""
    color = scene.pick(PAINTS)
    low, top = (ring(spot, 0.2, 0.35, (-0.35, 0.35), up) for up in (0.0, scene.rng.uniform(0.8, 1.3)))
    scene.label = VOID
    for side, quad in seen_sides(scene, low, top):
        scene.fill(quad, color * (0.9 if side == 0 else 0.7))
    scene.fill(top, color * 1.1)


def draw_bonnet(scene: Scene) -> None:
    """Draw the bonnet of the car that the camera is in."""
    paint, rise = scene.pick(PAINTS), scene.rng.uniform(0.04, 0.1) * scene.height
    for drop, shade in ((0.0, 1.0), (0.3, 0.85)):
        top, bottom = scene.height - rise * (1 - drop), scene.height + 3 * rise
        box = (-0.1 * scene.width, top, 1.1 * scene.width, bottom)
        scene.pen.ellipse(box, fill=scene.tone(paint * shade, 1))
        scene.label_pen.ellipse(box, fill=VOID)
