"""What is built along a street: houses with windows and doors, and fences."""

import math

import numpy as np

from linknet_fastai.data.street.canvas import (
    BUILDING,
    FENCE,
    PAINTS,
    Quad,
    Scene,
    Spot,
    palette,
    patch,
    steps,
    upright,
    within,
)

WALLS = palette("964b37 7d3c32 c3aa82 d7cdb9 8c8c8a 696c70 c8966e afbec3 e1d796 a0785f cda09b 788778")
TRIMS = palette("ebe8e1 5a5550 b4aa96")
ROOFS = palette("824132 4b4b52 64554b")
FENCES = palette("3c3c3e 825f41 968c82 d7d7d2 8c4b3c")
GLASS = np.array((0.9, 1, 1.1))


def draw_building(scene: Scene, a: Spot, b: Spot, depth: Spot, height: float) -> None:
    """Draw a house with its facade from spot a to b; `depth` points from the facade to the back."""
    rng = scene.rng
    scene.label = BUILDING
    wall, trim = scene.pick(WALLS) * rng.uniform(0.65, 1.1), scene.pick(TRIMS, 8)
    back_a, back_b = ((x + depth[0], z + depth[1]) for x, z in (a, b))
    gable = upright(a, back_a, 0, height)
    scene.fill(gable, wall * rng.uniform(0.6, 0.85))
    facade = upright(a, b, 0, height)
    if rng.random() < 0.5:
        top = height + rng.uniform(1.5, 3.5)
        ridge_a, ridge_b = (within(upright(p, q, top, top), 0.5, 0) for p, q in ((a, back_a), (b, back_b)))
        slope, roof = (facade[3], facade[2], ridge_b, ridge_a), scene.pick(ROOFS)
        scene.fill((gable[3], gable[2], ridge_a), wall * 0.75)
        scene.fill(slope, roof)
        for row in steps(1 / 6, 0.99, 1 / 6):
            scene.panel(slope, (0, 1, row, row + 0.03), roof * 0.8)
    draw_facade(scene, facade, wall, trim)


def draw_facade(scene: Scene, quad: Quad, wall: np.ndarray, trim: np.ndarray) -> None:
    """Draw a wall with courses, windows, a door, a shop front or ground-floor windows, and a cornice."""
    rng, height = scene.rng, quad[3][1]
    length, ground = math.dist(quad[0], quad[1]), 3.4 / height
    columns, floors = max(2, int(length / rng.uniform(2.2, 3.6))), max(2, round(height / 3.2))
    scene.fill(quad, wall)
    if quad[0][2] < 30:
        for low in steps(0.45 / height, 1, 0.45 / height):
            scene.panel(quad, (0, 1, low, low + 0.06 / height), wall * rng.uniform(0.84, 1.12))
    rise, wide, tall = 0.97 * (1 - ground) / (floors - 1), rng.uniform(0.2, 0.36), rng.uniform(0.25, 0.36)
    lit = 0.45 if scene.light.lamps else 0.03
    for middle in steps(ground + 0.5 * rise, 0.97 - 0.3 * rise, rise):
        for center in steps(0.5 / columns, 1, 1 / columns):
            left, right = center - wide / columns, center + wide / columns
            draw_window(scene, patch(quad, left, right, middle - tall * rise, middle + tall * rise), trim, lit)
    if rng.random() < 0.4:
        draw_window(scene, patch(quad, 0.08, 0.62, 0.1 * ground, 0.75 * ground), trim, 2 * lit)
        scene.panel(quad, (0.04, 0.96, 0.8 * ground, 0.98 * ground), scene.pick(PAINTS))
    else:
        for left in steps(0.2 / columns, 1, 2 / columns):
            draw_window(scene, patch(quad, left, left + 0.6 / columns, 0.3 * ground, 0.75 * ground), trim, lit)
    door = scene.panel(quad, (0.74, 0.74 + 0.5 / columns, 0, 0.7 * ground), trim)
    scene.panel(door, (0.1, 0.9, 0, 0.93), scene.pick(PAINTS) * 0.7)
    scene.panel(quad, (-0.01, 1.01, 0.965, 1), trim * 0.9)


def draw_window(scene: Scene, quad: Quad, trim: np.ndarray, chance_lit: float) -> None:
    """Draw a window, lit with a probability."""
    scene.fill(quad, trim)
    lit, glass = scene.rng.random() < chance_lit, scene.rng.uniform(25, 75) * GLASS
    scene.panel(quad, (0.1, 0.9, 0.07, 0.94), (250, 205, 125) if lit else glass, shines=lit)
    if not lit and scene.rng.random() < 0.5:  # the sky in the upper half of the glass
        scene.panel(quad, (0.1, 0.9, 0.5, 0.94), glass + 45)
    if quad[0][2] < 35:
        scene.panel(quad, (0.47, 0.53, 0.05, 0.95), trim)


def draw_fence(scene: Scene, a: Spot, b: Spot, height: float) -> None:
    """Draw railings, boards or a wall. Its whole region is Fence, also between bars, as in hand-made label maps."""
    rng, color, quad, length = scene.rng, scene.pick(FENCES), upright(a, b, 0, height), math.dist(a, b)
    scene.label = FENCE
    kind = rng.choice(("railings", "boards", "wall"))
    if kind == "railings":
        scene.mark(quad)
    else:
        scene.fill(quad, color * 0.7)
    if kind == "wall":
        for low in steps(0, 0.92, 0.2 / height):
            scene.panel(quad, (0, 1, low, low + 0.16 / height), color * rng.uniform(0.9, 1.1))
        scene.panel(quad, (0, 1, 0.92, 1), color * 1.25)
        return
    step, bar = (0.25, 0.05) if kind == "railings" else (0.16, 0.13)
    coarser = max(1, a[1] / 10)  # distant bars are too fine to distinguish
    for left in steps(0, 1 - bar / length, step * coarser / length):
        scene.panel(quad, (left, left + bar * coarser / length, 0, 1), color * rng.uniform(0.85, 1.1))
    for low in (0.12, 0.86):
        scene.panel(quad, (0, 1, low, low + 0.08), color * 0.9)
