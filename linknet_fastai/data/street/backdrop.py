"""What covers the whole frame: the plan of the ground, ground and sky, shadows and glow, and the camera's effects.

Arrays are HxW, one for each of red, green and blue, which is much faster than one of HxWx3.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from linknet_fastai.data.street.canvas import (
    BUILDING,
    CLASSES,
    FENCE,
    LEAVES,
    PAVEMENT,
    ROAD,
    SKY,
    SUPERSAMPLING,
    TREE,
    VERGE,
    Scene,
    Spot,
    palette,
)

FAR = 95.0  # meters to the street's last houses
CENTER = -1.75  # meters right of the camera: the line between the two directions of traffic
ASPHALTS = palette("5c5c5f 46464a 787672")
STONES = palette("96928c 7d7a78 a58273")


class Street(NamedTuple):
    """Where the parts of the ground are, in meters; left before right."""

    edges: Spot  # of the road
    walks: Spot  # the outer edges of the pavements
    junction: float  # how far ahead a road crosses, infinity if none does
    closed: bool  # whether houses behind that road end the street


def plan_street(rng: np.random.Generator) -> Street:
    """Choose the widths of lanes and pavements, and the crossing road."""
    parking = [float(width) for width in rng.choice((0.3, 2.3), size=2)]
    left, right = -5.0 - parking[0] - rng.uniform(0, 1.5), 1.7 + parking[1] + rng.uniform(0, 0.6)
    junction = rng.uniform(14, 45) if rng.random() < 0.45 else math.inf
    walks = left - rng.uniform(1.8, 4.5), right + rng.uniform(1.8, 4.5)
    return Street((left, right), walks, junction, junction < FAR and rng.random() < 0.6)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: Sequence[int]) -> np.ndarray:
    """HxW of smooth noise around 0: the mean of layers with so many cells across."""
    total = np.zeros(size[::-1], np.float32)
    for count in cells:
        coarse = rng.normal(0, 1, (max(2, count * size[1] // size[0]), count)).astype(np.float32)
        total += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return total / len(cells)


def join(planes: Sequence[np.ndarray]) -> Image.Image:
    """The RGB image of three HxW planes of 0 to 255."""
    levels = [np.clip(plane, 0, 255).astype(np.uint8) for plane in planes]
    return Image.merge("RGB", [Image.fromarray(level) for level in levels])


def draw_sky(scene: Scene) -> None:
    """Draw a gradient from the zenith to the horizon, and clouds."""
    thickness = smooth_noise(scene.rng, scene.size, (4, 9, 20)) + scene.rng.uniform(-0.6, 0.5)
    seen = int(scene.horizon / SUPERSAMPLING) + 4  # rows; the ground covers the others
    cover = np.clip(thickness[:seen] * 1.6, 0, 0.85)
    fall = np.linspace(0, scene.height / scene.horizon, scene.size[1], dtype=np.float32)[:seen, None]
    fall = np.minimum(fall, 1)
    clear, shading = 1 - cover, 1.05 - 0.15 * cover
    planes = []
    for zenith, horizon, cloud in np.array(scene.light[:3], np.float32).T:
        planes.append((zenith * (1 - fall) + horizon * fall) * clear + cloud * cover * shading)
    sky = join(planes)
    scene.frame.paste(sky.resize((scene.width, sky.height * SUPERSAMPLING)))


def draw_ground(scene: Scene, street: Street) -> None:
    """Draw road, kerbs, pavements and verges: what a pixel shows follows from its position on the ground."""
    rng, first = scene.rng, int(scene.horizon) + 1
    rows = np.arange(first, scene.height, dtype=np.float32)[:, None] + 0.5 - scene.horizon
    ahead = np.float32(scene.focal * scene.eye) / rows
    columns = np.arange(scene.width, dtype=np.float32) + 0.5 - scene.vanishing
    across = columns * ahead / np.float32(scene.focal) - np.float32(scene.bend) * ahead**2
    crossing = (ahead > street.junction) & (ahead < street.junction + 8)
    beyond = street.closed & (ahead > street.junction + 8)
    road = (across > street.edges[0]) & (across < street.edges[1]) & ~beyond | crossing
    paved = (across > street.walks[0]) & (across < street.walks[1])
    paved |= (ahead > street.junction - 2.5) & (ahead < street.junction + 10.5)
    kerb = (across > street.edges[0] - 0.18) & (across < street.edges[1] + 0.18) & ~beyond & ~road
    paint = road & draw_markings(rng, street, across, ahead) & ~crossing
    kind = np.where(road, np.uint8(0), np.where(paved, np.uint8(1), np.uint8(2)))
    shown = np.where(kerb, np.uint8(3), np.where(paint, np.uint8(4), kind))
    asphalt, stone = scene.pick(ASPHALTS, 8), scene.pick(STONES, 10)
    colors = np.array((asphalt, stone, scene.pick(LEAVES, 8), stone * 1.2, (225, 222, 210)), np.float32)
    slab = float(rng.choice((0.5, 0.8, 1.2)))
    grain, stains = rng.standard_normal((128, 128), np.float32), smooth_noise(rng, (128, 128), (16, 50))
    fine = look_up(grain, ahead * 14, across * 14)
    coarse = look_up(stains, ahead * 3, across * 6)
    rough = np.array((5, 5, 12, 4, 9), np.float32).take(shown) * (fine * np.minimum(1, 9 / ahead) + 1.8 * coarse)
    slabs = (shown == 1) & (ahead < 14)
    seams = across[slabs] % slab < 0.03
    seams |= np.broadcast_to(ahead % slab < 0.05, slabs.shape)[slabs]
    rough[slabs] -= seams * np.float32(22)
    clear = np.exp(-ahead / scene.light.visibility)
    lit, haze = colors * np.array(scene.light.daylight, np.float32), np.array(scene.light.horizon, np.float32)
    planes = [(lit[:, i].take(shown) + rough) * clear + haze[i] * (1 - clear) for i in range(3)]
    scene.frame.paste(join(planes), (0, first))
    scene.labels.paste(Image.fromarray(np.array((ROAD, PAVEMENT, VERGE), np.uint8).take(kind)), (0, first))


def look_up(texture: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """HxW from a repeated 128x128 texture, at rows `down` (Hx1) and columns `across` (HxW)."""
    return texture.take((down.astype(np.int32) & 127) * 128 + (across.astype(np.int32) & 127))


def draw_markings(rng: np.random.Generator, street: Street, across: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """HxW, true where a line, a stop line or a zebra crossing is painted."""
    dashes = ahead % rng.choice((6, 9)) < rng.choice((2.5, 4, 9))
    paint = (np.abs(across - CENTER) < 0.07) & dashes
    if rng.random() < 0.5:
        middle, reach = sum(street.edges) / 2, (street.edges[1] - street.edges[0]) / 2 - 0.35
        paint |= np.abs(np.abs(across - middle) - reach) < 0.05
    paint |= (np.abs(ahead - street.junction + 0.9) < 0.2) & (across > CENTER)
    if rng.random() < 0.45:
        zebra = min(street.junction - 4, rng.uniform(8, 22))
        rows = np.abs(ahead[:, 0] - zebra) < 1.3
        paint[rows] |= across[rows] % 1.0 < 0.5
    return paint


def apply_shadows(scene: Scene) -> None:
    """Darken the visible ground in shadows, blue the least."""
    if not scene.light.shadow:
        return
    box = (0, int(scene.horizon) - 4, scene.width, scene.height)  # ground and shadows are below the horizon
    labels, shade, frame = (image.crop(box) for image in (scene.labels, scene.shade, scene.frame))
    ground = labels.point([255 * (label in (ROAD, PAVEMENT, VERGE)) for label in range(256)])
    mask = ImageChops.multiply(ground, shade.filter(ImageFilter.BoxBlur(SUPERSAMPLING)))
    factors = [1 - scene.light.shadow * part for part in (1, 0.94, 0.82)]
    dark = frame.point([int(value * factor) for factor in factors for value in range(256)])
    scene.frame.paste(dark, box, mask)


def glow(scene: Scene) -> np.ndarray | float:
    """HxW from 0 to 255: the light around each lamp that was not drawn over."""
    if not scene.halos:
        return 0.0
    lights = Image.new("L", scene.frame.size)
    pen = ImageDraw.Draw(lights)
    for (u, v), box, tone in scene.halos:
        outside = not (0 <= u < scene.width and 0 <= v < scene.height)
        if outside or scene.frame.getpixel((int(u), int(v))) == tone:
            pen.ellipse(box, fill=255)
    blur = ImageFilter.GaussianBlur(scene.size[0] / 90)
    return np.asarray(lights.reduce(SUPERSAMPLING).filter(blur), np.float32)


def develop(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """The finished frame and label map, with stains, glow, and a camera's exposure, white balance, blur and noise."""
    rng, size = scene.rng, scene.size
    labels = np.asarray(scene.labels)[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]
    labels = np.where(labels == VERGE, np.uint8(TREE), labels)
    blur = ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6) * size[0] / 320)
    planes = scene.frame.reduce(SUPERSAMPLING).filter(blur).split()
    stains = np.full(len(CLASSES) + 1, 0.03, np.float32)
    stains[[SKY, BUILDING, ROAD, PAVEMENT, TREE, FENCE]] = 0, 0.09, 0.05, 0.06, 0.12, 0.06
    stained = 1 + stains.take(labels) * smooth_noise(rng, size, (9, 31, 90))
    lights = glow(scene)
    balance = (rng.uniform(0.8, 1.18) * (1 + rng.normal(0, 0.035, 3))).astype(np.float32)
    contrast = rng.uniform(0.8, 1.15)
    noise = rng.standard_normal((*labels.shape, 3), np.float32) * rng.uniform(1.5, 5)
    finished = []
    for i, shine in enumerate(np.array((0.5, 0.42, 0.28), np.float32)):
        plane = np.asarray(planes[i], np.float32) * stained + lights * shine
        finished.append((plane * balance[i] - 110) * contrast + 110 + noise[..., i])
    return join(finished), labels
