"""Plans a street from a seed, draws it, and writes splits of such scenes into a folder."""

import math
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from linknet_fastai.data.street.backdrop import (
    CENTER,
    FAR,
    Street,
    apply_shadows,
    develop,
    draw_ground,
    draw_sky,
    plan_street,
)
from linknet_fastai.data.street.buildings import draw_building, draw_fence
from linknet_fastai.data.street.canvas import Scene, Spot, ring, steps
from linknet_fastai.data.street.objects import (
    draw_bin,
    draw_bonnet,
    draw_car,
    draw_cyclist,
    draw_lamp_post,
    draw_person,
    draw_sign,
    draw_traffic_light,
    draw_tree,
)

SIZE = (320, 240)
SPLITS = {"train": 240, "val": 60, "test": 60}


def plan_lots(scene: Scene, street: Street, side: int) -> None:
    """Plan houses, gardens and parks along one side of the street, left (0) or right (1)."""
    rng, z = scene.rng, -4.0
    built, storeys = rng.uniform(0.35, 0.9), rng.uniform(1.6, 4.5)
    while z < (street.junction - 5 if street.closed else FAR):
        length = rng.uniform(6, 15)
        if z < street.junction - 2.5:
            length = min(length, street.junction - 2.5 - z)
        elif z < street.junction + 10.5:
            z = street.junction + 10.5
        plan_lot(scene, side, (street.walks[side], z), length, storeys if rng.random() < built else 0)
        z += length


def plan_lot(scene: Scene, side: int, corner: Spot, length: float, storeys: float) -> None:
    """Plan a house at the pavement or with a front garden, or if it has no storeys a park."""
    rng, (x, z), outward = scene.rng, corner, (-1, 1)[side]
    far, back = z + length, x
    if not storeys or rng.random() < 0.55:
        height, back = rng.uniform(0.9, 1.9), x + outward * rng.uniform(4, 8)
        scene.add(far, draw_fence, corner, (x, far), height)
        scene.cast((corner, (x, far)), height)
        for _ in range(rng.integers(2) if storeys else rng.integers(1, 4)):
            plan_tree(scene, (x + outward * rng.uniform(1.8, 6), z + rng.uniform(0, length)), far + 0.01)
    if storeys:
        height = 3.3 * max(1.7, storeys + rng.normal(0, 0.7))
        front = (back, z), (back, far)
        scene.add(far + 0.02, draw_building, *front, (outward * 9.0, 0.0), height)
        scene.cast((*front, (back + outward * 9, far), (back + outward * 9, z)), height)


def plan_tree(scene: Scene, spot: Spot, distance: float) -> None:
    """Plan a tree of random size."""
    height, spread, (x, z) = scene.rng.uniform(4.5, 9), scene.rng.uniform(1.3, 2.6), spot
    scene.add(distance, draw_tree, (x, max(z, 2.5)), height, spread)
    circle = [(x + spread * math.cos(angle), z + spread * math.sin(angle)) for angle in steps(0, 6.2, math.pi / 4)]
    scene.cast(circle, 0.95 * height, 0.45 * height)
    scene.cast(((x - 0.15, z), (x + 0.15, z)), 0.6 * height)


def plan_view_end(scene: Scene, street: Street) -> None:
    """Plan the end of the view: houses across the junction, or roofs and trees in the haze."""
    rng, z = scene.rng, street.junction + 10.5 if street.closed else FAR + 5
    reach, x = 0.6 * z * scene.width / scene.focal, -scene.bend * z * z
    x, end = x - reach - 5, x + reach
    while x < end:
        length = rng.uniform(7, 14)
        if rng.random() < 0.8:
            scene.add(z + 1, draw_building, (x, z), (x + length, z), (0.0, 9.0), rng.uniform(6, 14))
        else:
            plan_tree(scene, (x + length / 2, z + 2), z + 0.9)
        x += length


def plan_traffic(scene: Scene, street: Street) -> None:
    """Plan cars that are parked, drive in both lanes or cross, and cyclists at their side."""
    rng, end = scene.rng, min(street.junction - 5, 70)
    parked = 0.75 * (street.edges[1] > 3.5), 0.7 * (street.edges[0] < -7)
    rows = [(street.edges[1] - 1.15, 0.0, parked[0]), (street.edges[0] + 1.15, math.pi, parked[1])]
    for x, heading, chance in (*rows, (0.0, 0.0, 0.16), (-3.5, math.pi, 0.25)):
        z = rng.uniform(9, 14) if x == 0 else rng.uniform(3.5, 9)
        while z < end:
            if rng.random() < chance:
                plan_car(scene, (x + rng.normal(0, 0.12), z), heading + rng.normal(0, 0.02))
            z += rng.uniform(5.6, 8)
    if street.junction < FAR and rng.random() < 0.6:
        plan_car(scene, (rng.uniform(-9, 7), street.junction + 2.2), math.pi / 2)
    for _ in range(rng.integers(4)):
        side, z = float(rng.choice((-1, 1))), rng.uniform(5, 18)
        x, heading = CENTER + side * 2.9 + rng.normal(0, 0.3), math.pi * (side < 0)
        scene.add(z, draw_cyclist, (x, z), heading + rng.normal(0, 0.5))
        scene.cast(((x, z - 0.8), (x, z + 0.8)), 1.5)


def plan_car(scene: Scene, spot: Spot, heading: float) -> None:
    """Plan a car or, less often, a van or lorry."""
    tall = bool(scene.rng.random() < 0.15)
    scene.add(spot[1], draw_car, spot, heading, tall)
    scene.cast([(x, z) for x, _, z in ring(spot, heading, 0.9, (-2, 2), 0)], 2.4 if tall else 1.4)


def plan_pavement(scene: Scene, street: Street, side: int) -> None:
    """Plan people, lamps, lights, signs, trees and bins on one side of the street, left (0) or right (1)."""
    rng, outward, end = scene.rng, (-1, 1)[side], min(street.junction - 3, 50)
    kerb = street.edges[side] + outward * 0.5

    def post(z: float, high: float, draw: Callable[..., None], *arguments: object) -> None:
        scene.add(z, draw, (kerb, z), *arguments)
        scene.cast(((kerb - 0.08, z), (kerb + 0.08, z)), high)

    for z in steps(rng.uniform(4, 12), end, rng.uniform(9, 18)):
        post(z, 6, draw_lamp_post, rng.uniform(4.5, 7), outward)
    if rng.random() < 0.4:
        for z in steps(rng.uniform(7, 12), end, rng.uniform(7, 12)):
            plan_tree(scene, (kerb + outward * 0.3, z), z)
    for z in rng.uniform(5.5, 20, rng.integers(3)).tolist():
        post(z, 2.6, draw_sign)
    if rng.random() < 0.4:
        post(min(end, rng.uniform(7, 18)), 3, draw_traffic_light)
    for _ in range(rng.integers(5)):
        plan_person(scene, (kerb + rng.uniform(0, 0.85) * (street.walks[side] - kerb), rng.uniform(5, 28)))
    if rng.random() < 0.35:
        z = rng.uniform(5, 16)
        scene.add(z, draw_bin, (street.walks[side] - outward * 0.5, z))


def plan_person(scene: Scene, spot: Spot) -> None:
    """Plan an adult or a child."""
    height, (x, z) = float(scene.rng.choice((1.2, 1.6, 1.7, 1.8, 1.9))), spot
    scene.add(z, draw_person, spot, height)
    scene.cast(((x - 0.2, z), (x + 0.2, z)), height)


def draw_scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[Image.Image, np.ndarray]:
    """Draw a scene.

    Args:
        seed: decides what is drawn.
        size: (width, height). Another size shows the same street, but not pixel for pixel.

    Returns:
        An RGB frame of that size, and its HxW uint8 label map of indices in `CLASSES` and `VOID`.

    Example:
        >>> frame, labels = draw_scene(seed=1, size=(96, 72))
        >>> frame.size, labels.shape
        ((96, 72), (72, 96))
    """
    rng = np.random.default_rng(seed)
    scene, street = Scene(rng, size), plan_street(rng)
    plan_view_end(scene, street)
    plan_traffic(scene, street)
    for side in (0, 1):
        plan_lots(scene, street, side)
        plan_pavement(scene, street, side)
    for _ in range(rng.integers(1, 4) if rng.random() < 0.3 else 0):
        plan_person(scene, (rng.uniform(*street.edges), rng.uniform(8, 20)))
    draw_sky(scene)
    draw_ground(scene, street)
    scene.draw_things()
    apply_shadows(scene)
    if rng.random() < 0.3:
        draw_bonnet(scene)
    left_hand_traffic = rng.random() < 0.5
    frame, labels = develop(scene)
    if left_hand_traffic:
        return ImageOps.mirror(frame), labels[:, ::-1].copy()
    return frame, labels


def scene_seed(split: str, index: int) -> int:
    """The seed of a split's scene: the CRC of the split's name in the high bits, so that splits share no seed.

    Example:
        >>> draw_scene(scene_seed("train", 0))[0].size
        (320, 240)
    """
    return (zlib.crc32(split.encode()) << 32) + index


def write_scenes(
    folder: Path,
    splits: dict[str, int] = SPLITS,
    size: tuple[int, int] = SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write scenes as `folder/SPLIT/images/SPLIT_0000.png` and `folder/SPLIT/labels/SPLIT_0000.png`.

    Args:
        folder: is created when all scenes are drawn; if it exists already, nothing is written.
        splits: the number of scenes of each split.
        size: (width, height).
        on_progress: called with the number of scenes written and of all.

    Raises:
        OSError: the folder cannot be written.

    Example:
        ::

            write_scenes(Path("street"), {"train": 20, "val": 5})
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    scenes = [(split, index) for split, count in splits.items() for index in range(count)]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staging = Path(temporary) / folder.name
        for split in splits:
            (staging / split / "images").mkdir(parents=True)
            (staging / split / "labels").mkdir()
        for done, (split, index) in enumerate(scenes, 1):
            frame, labels = draw_scene(scene_seed(split, index), size)
            name = f"{split}_{index:04d}.png"
            image = staging / split / "images" / name
            frame.save(image, compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)  # noise has no repetitions
            Image.fromarray(labels).save(staging / split / "labels" / name)
            if on_progress:
                on_progress(done, len(scenes))
        try:
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, and its scenes are the same
                raise
