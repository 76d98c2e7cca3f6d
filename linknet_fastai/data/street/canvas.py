"""What all parts of a scene are drawn with: colors, light, geometry in meters, and the `Scene` itself.

The things in a street are drawn elsewhere: `backdrop`, `buildings`, `objects`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
    *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))
VOID = len(CLASSES)
VERGE = VOID + 1  # only while drawing: grass takes shadows as ground does; the finished label map has Tree
SUPERSAMPLING = 2
NEAREST = 0.6  # meters; what is nearer, or behind the camera, is drawn as if here, far outside the frame

Color = Sequence[float] | NDArray  # red, green, blue from 0 to 255
Spot = tuple[float, float]  # on the ground: meters right of the camera and ahead of it
Point = tuple[float, float, float]  # meters right of the camera, above the road, ahead of the camera
Quad = tuple[Point, Point, Point, Point]  # lower left, lower right, upper right, upper left
Box = tuple[float, float, float, float]  # left, top, right and bottom in the frame


def palette(codes: str) -> list[Color]:
    """Colors from hexadecimal codes separated by spaces."""
    return [ImageColor.getrgb("#" + code) for code in codes.split()]


PAINTS = palette("be1e1e 1e3c8c e1e1e1 19191c 82878c 464b50 285a3c c89628 781e2d 96afc3")
LEAVES = palette("3c5f23 55732d 2d4b2d 6e7832 a57323 8c4123 5f6450")


class Light(NamedTuple):
    """The light of a scene, by weather and time of day."""

    zenith: Color
    horizon: Color  # also the color of the haze
    cloud: Color
    daylight: Color  # factors on the color of everything that is no light source
    shadow: float  # the fraction of the light that is missing in a shadow
    reach: float  # meters of shadow for a meter of height
    visibility: float  # meters at which haze removes two thirds of the contrast
    lamps: bool


NOON = Light((75, 130, 210), (185, 210, 235), (250, 250, 250), (1.05, 1.03, 1.0), 0.5, 0.45, 400, False)
OVERCAST = Light((160, 167, 176), (206, 208, 211), (140, 144, 150), (0.84, 0.86, 0.9), 0.1, 0.2, 220, False)
LOW_SUN = Light((105, 140, 195), (250, 218, 170), (255, 226, 196), (1.12, 0.96, 0.76), 0.6, 2.0, 260, False)
DUSK = Light((40, 50, 95), (205, 140, 120), (105, 80, 105), (0.46, 0.45, 0.55), 0.0, 0.0, 220, True)
FOG = Light((188, 192, 196), (203, 205, 206), (196, 198, 200), (0.76, 0.78, 0.8), 0.0, 0.0, 38, True)


def steps(start: float, stop: float, step: float) -> list[float]:
    """A range of Python floats, which are several times faster than numpy's in the many small sums here."""
    return np.arange(start, stop, step).tolist()


def upright(a: Spot, b: Spot, low: float, high: float) -> Quad:
    """An upright wall from spot a to spot b."""
    return (a[0], low, a[1]), (b[0], low, b[1]), (b[0], high, b[1]), (a[0], high, a[1])


def within(quad: Sequence[Point], s: float, t: float) -> Point:
    """The point at fraction s from left to right and t from bottom to top of a quad."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz), (dx, dy, dz) = quad
    a, b, c, d = (1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t
    x, y = a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy
    return x, y, a * az + b * bz + c * cz + d * dz


def patch(quad: Sequence[Point], left: float, right: float, low: float, high: float) -> Quad:
    """A part of a quad, its bounds as fractions of the quad."""
    lower = within(quad, left, low), within(quad, right, low)
    return *lower, within(quad, right, high), within(quad, left, high)


def ellipse(quad: Quad) -> list[Point]:
    """The ellipse that fills a quad."""
    angles = steps(0, 2 * math.pi, math.pi / 8)
    return [within(quad, 0.5 + 0.5 * math.cos(angle), 0.5 + 0.5 * math.sin(angle)) for angle in angles]


def ring(spot: Spot, heading: float, half_width: float, ends: Spot, up: float) -> list[Point]:
    """A horizontal rectangle around a spot: rear left, rear right, front right, front left."""
    sine, cosine = math.sin(heading), math.cos(heading)
    rear, front = ends
    corners = ((-half_width, rear), (half_width, rear), (half_width, front), (-half_width, front))
    return [(spot[0] + r * cosine + a * sine, up, spot[1] + a * cosine - r * sine) for r, a in corners]


class Scene:
    """A frame and its label map while they are drawn, their camera and light.

    Both are drawn with the same shapes, distant things first, at `SUPERSAMPLING` times their size. `label` is the
    class of the shapes that follow; with None the label map does not change.

    Args:
        rng: where all random numbers of the scene come from.
        size: (width, height) of the finished frame.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng, self.size = rng, size
        self.width, self.height = (side * SUPERSAMPLING for side in size)
        self.focal = self.width * rng.uniform(0.75, 0.95)
        self.horizon = self.height * rng.uniform(0.4, 0.52)
        self.vanishing = self.width * rng.uniform(0.4, 0.6)
        self.eye = rng.uniform(1.3, 1.8)
        self.bend = rng.normal(0, 0.004) if rng.random() < 0.5 else 0.0
        lights = (NOON, OVERCAST, LOW_SUN, DUSK, FOG)
        self.light = lights[rng.choice(len(lights), p=(0.28, 0.22, 0.24, 0.14, 0.12))]
        self.sun = float(rng.choice((-1, 1))) * rng.uniform(0.5, 1), rng.uniform(-0.6, 0.4)
        self.frame = Image.new("RGB", (self.width, self.height))
        self.labels, self.shade = (Image.new("L", self.frame.size) for _ in range(2))
        self.pen, self.label_pen = ImageDraw.Draw(self.frame), ImageDraw.Draw(self.labels)
        self.shade_pen = ImageDraw.Draw(self.shade)
        self.label: int | None = SKY
        self.things: list[tuple[float, Callable[..., None], tuple]] = []
        self.halos: list[tuple[Spot, Box, tuple[int, int, int]]] = []  # center and box in the frame, color there

    def pick(self, colors: Sequence[Color], spread: float = 14) -> np.ndarray:
        """One of the colors with a random change of brightness and tint."""
        drift = self.rng.normal(0, spread) + self.rng.normal(0, 0.4 * spread, 3)
        return np.asarray(colors[int(self.rng.integers(len(colors)))]) + drift

    def add(self, distance: float, draw: Callable[..., None], *arguments: object) -> None:
        """Defer `draw(scene, *arguments)` until everything farther away has been drawn."""
        self.things.append((distance, draw, arguments))

    def draw_things(self) -> None:
        """Draw what was added, the farthest first."""
        for _, draw, arguments in sorted(self.things, key=lambda thing: -thing[0]):
            draw(self, *arguments)

    def project(self, point: Point) -> Spot:
        """Where in the frame a point appears."""
        x, y, z = point
        if z < NEAREST:
            z = NEAREST
        scale = self.focal / z
        return self.vanishing + (x + self.bend * z * z) * scale, self.horizon + (self.eye - y) * scale

    def box(self, center: Point, radius: float) -> Box:
        """The box in the frame around a disc."""
        reach = radius * self.focal / max(center[2], NEAREST)
        u, v = self.project(center)
        return u - reach, v - reach, u + reach, v + reach

    def misses(self, box: Box) -> bool:
        """Whether a box is left of the frame, right of it or above it."""
        left, _, right, bottom = box
        return right < 0 or left > self.width or bottom < 0

    def tone(self, color: Color, z: float, shines: bool = False) -> tuple[int, int, int]:
        """A color in this light, seen through z meters of haze."""
        clear = math.exp(-z / self.light.visibility) if z > 0 else 1.0
        (r, g, b), haze, veil = np.asarray(color).tolist(), self.light.horizon, 1 - clear
        day = (1, 1, 1) if shines else self.light.daylight
        red = int(r * day[0] * clear + haze[0] * veil)
        green = int(g * day[1] * clear + haze[1] * veil)
        blue = int(b * day[2] * clear + haze[2] * veil)
        if 0 <= red <= 255 and 0 <= green <= 255 and 0 <= blue <= 255:
            return red, green, blue
        return min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255)

    def mark(self, points: Sequence[Point]) -> None:
        """Draw a polygon into the label map only."""
        self.label_pen.polygon([self.project(point) for point in points], fill=self.label)

    def fill(self, points: Sequence[Point], color: Color, shines: bool = False) -> None:
        """Draw a polygon."""
        outline = [self.project(point) for point in points]
        if max(outline)[0] < 0 or min(outline)[0] > self.width:
            return
        self.pen.polygon(outline, fill=self.tone(color, points[0][2], shines))
        if self.label is not None:
            self.label_pen.polygon(outline, fill=self.label)

    def panel(self, quad: Sequence[Point], bounds: Sequence[float], color: Color, shines: bool = False) -> Quad:
        """Fill the part of a quad within (left, right, low, high), fractions of the quad, and return it."""
        part = patch(quad, *bounds)
        self.fill(part, color, shines)
        return part

    def stroke(self, points: Sequence[Point], meters: float, color: Color, least: float = 1.4) -> None:
        """Draw a line so many meters thick, but never thinner than `least` pixels of the finished frame."""
        z = max(points[0][2], NEAREST)
        width = round(max(meters * self.focal / z, least * SUPERSAMPLING))
        outline = [self.project(point) for point in points]
        self.pen.line(outline, fill=self.tone(color, z), width=width, joint="curve")
        self.label_pen.line(outline, fill=self.label, width=width, joint="curve")

    def disc(self, center: Point, radius: float, color: Color, shines: bool = False) -> None:
        """Draw a disc that faces the camera."""
        box = self.box(center, radius)
        if self.misses(box):
            return
        self.pen.ellipse(box, fill=self.tone(color, center[2], shines))
        self.label_pen.ellipse(box, fill=self.label)
        if shines:
            self.halo(center, 2 * radius, color)

    def halo(self, center: Point, radius: float, color: Color) -> None:
        """Add the glow around a light source of this color that was just drawn."""
        tone = self.tone(color, center[2], shines=True)
        self.halos.append((self.project(center), self.box(center, radius), tone))

    def cast(self, footprint: Sequence[Spot], high: float, low: float = 0.0) -> None:
        """Draw the shadow on the ground of something above a footprint, from a low to a high point."""
        if not self.light.shadow:
            return
        drift = [part * self.light.reach for part in self.sun]
        near, far = ([(x + drift[0] * y, 0.0, z + drift[1] * y) for x, z in footprint] for y in (low, high))
        swept = [(near[i - 1], near[i], far[i], far[i - 1]) for i in range(len(near))]
        for shadow in (*swept, far):
            self.shade_pen.polygon([self.project(point) for point in shadow], fill=255)
