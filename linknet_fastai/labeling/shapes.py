"""What label tools draw, in one form for all of them: polygons, figures, run lengths, bitmaps; and its pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image, ImageDraw

from linknet_fastai.core.errors import import_optional
from linknet_fastai.core.images import MAX_PIXELS, opened_image
from linknet_fastai.labeling.runs import brush_values, uncompressed

MAX_POINTS = 100_000  # of one outline: the time to fill it grows with their number
MAX_REGIONS = 10_000  # of one image
UNLABELED, IGNORED = -1, -2  # in drawn label maps: what nobody labeled, and what is void by its name
LINE_WIDTH, POINT_RADIUS = 10, 5  # in pixels, as labelme draws them

Points = Sequence[tuple[float, float]]
FigureKind = Literal["rectangle", "ellipse", "line", "point"]


class Outline(Protocol):
    """The pixels of one region."""

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """HxW booleans for an image of (width, height); raises ValueError if the outline does not fit it."""


@dataclass(frozen=True)
class Polygons:
    """Polygons of one region, in pixels.

    Args:
        rings: the polygons; their union is drawn.
        holes: polygons that are cut out.
        fill: whose rule decides about the pixels on the border: Pillow's, as labelme uses it, pycocotools', or
            OpenCV's of whole pixels, which Pillow gives if it draws the border too.
    """

    rings: Sequence[Points]
    holes: Sequence[Points] = ()
    fill: Literal["pillow", "coco", "opencv"] = "pillow"

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """See `Outline`."""
        for ring in (*self.rings, *self.holes):
            _check_points(ring, size, least=3)
        if self.fill == "coco":
            coco = import_optional("pycocotools.mask", "labels")
            filled, holes = (
                coco.decode(coco.merge(coco.frPyObjects([np.ravel(ring).tolist() for ring in rings], *size[::-1])))
                if rings
                else np.zeros(size[::-1], np.uint8)
                for rings in (self.rings, self.holes)
            )
            return (filled > 0) & (holes == 0)
        drawn = Image.new("L", size)
        pen = ImageDraw.Draw(drawn)
        for ring, value in [*((ring, 1) for ring in self.rings), *((ring, 0) for ring in self.holes)]:
            points = list(map(tuple, ring))
            pen.polygon(points, outline=value, fill=value)
            if self.fill == "opencv":
                pen.line([*points, points[0]], fill=value)
        return np.asarray(drawn, bool)


@dataclass(frozen=True)
class Figure:
    """A figure that is no polygon, in pixels, drawn as labelme does.

    Args:
        kind: a rectangle or an ellipse between two corners, a line through points, or points.
        points: corners, or the points.
        turned: degrees that rectangle and ellipse are turned clockwise around `pivot`.
        pivot: a point.
    """

    kind: FigureKind
    points: Points
    turned: float = 0
    pivot: tuple[float, float] = (0, 0)

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """See `Outline`."""
        _check_points(self.points, size, least=1 if self.kind == "point" else 2)
        drawn = Image.new("L", size)
        pen = ImageDraw.Draw(drawn)
        if self.kind == "line":
            pen.line(list(map(tuple, self.points)), fill=1, width=LINE_WIDTH)
        elif self.kind == "point":
            for x, y in self.points:
                pen.ellipse((x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS), 1, 1)
        else:
            xs, ys = zip(*self.points, strict=True)  # two corners, or all four as X-AnyLabeling writes them
            box = min(xs), min(ys), max(xs), max(ys)
            if self.turned:
                pen.polygon(self._turned(box), outline=1, fill=1)
            else:
                (pen.ellipse if self.kind == "ellipse" else pen.rectangle)(box, fill=1, outline=1)
        return np.asarray(drawn, bool)

    def _turned(self, box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
        left, top, right, bottom = box
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        if self.kind == "ellipse":
            middle, radii = ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2)
            turns = [math.tau * step / 360 for step in range(360)]
            corners = [(middle[0] + radii[0] * math.cos(t), middle[1] + radii[1] * math.sin(t)) for t in turns]
        angle, (px, py) = math.radians(self.turned), self.pivot
        cosine, sine = math.cos(angle), math.sin(angle)
        return [
            (px + (x - px) * cosine - (y - py) * sine, py + (x - px) * sine + (y - py) * cosine) for x, y in corners
        ]


@dataclass(frozen=True)
class Runs:
    """Run lengths, that begin with those of zeros.

    Args:
        counts: the lengths; as a text they are compressed as COCO does.
        by_column: whether they run down the columns, as COCO's do, or along the rows.
        box: left, top, width and height of the part of the image that they cover; None is the whole.
    """

    counts: Sequence[int] | str
    by_column: bool = True
    box: tuple[int, int, int, int] | None = None

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """See `Outline`."""
        left, top, width, height = self.box or (0, 0, *size)
        if not (0 <= left <= left + width <= size[0] and 0 <= top <= top + height <= size[1]):
            raise ValueError(f"a mask of {width}x{height} at {left}, {top}, outside of the image")
        counts = np.array(uncompressed(self.counts) if isinstance(self.counts, str) else self.counts, np.int64)
        if not 0 < width * height <= MAX_PIXELS or counts.min(initial=0) < 0 or counts.sum() != width * height:
            raise ValueError(f"its run lengths do not add up to {width}x{height} pixels")
        pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        part = pixels.reshape(width, height).T if self.by_column else pixels.reshape(height, width)
        return part if self.box is None else _placed(part, left, top, size)


@dataclass(frozen=True)
class Bitmap:
    """A small image of a region: its pixels that are not 0, and of an image with an alpha channel not transparent.

    Args:
        png: the image, as the bytes or the path of a file.
        left: its place, in pixels.
        top: the same.
    """

    png: bytes | Path
    left: int = 0
    top: int = 0

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """See `Outline`."""
        if isinstance(self.png, Path):
            with opened_image(self.png, "this mask") as image:
                return _placed(self._set_pixels(image), self.left, self.top, size)
        with Image.open(BytesIO(self.png), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"a mask of {image.width}x{image.height}")
            return _placed(self._set_pixels(image), self.left, self.top, size)

    def _set_pixels(self, image: Image.Image) -> np.ndarray:
        pixels = np.asarray(
            image.convert("RGBA") if image.mode in ("P", "PA") and "transparency" in image.info else image
        )
        if pixels.ndim == 3:
            pixels = pixels[..., -1] if pixels.shape[2] in (2, 4) else pixels.max(2)
        return pixels > 0


@dataclass(frozen=True)
class Brush:
    """A stroke of Label Studio's brush: run lengths of bits, of an image with four channels.

    Args:
        rle: the bytes.
    """

    rle: Sequence[int]

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """See `Outline`."""
        return brush_values(self.rle, size)[..., 3] > 0


@dataclass(frozen=True)
class Region:
    """A labeled part of an image."""

    label: str
    outline: Outline


@dataclass(frozen=True)
class LabeledImage:
    """An image and what was drawn on it.

    Attributes:
        image: the file.
        regions: in the order of drawing: later ones cover earlier ones.
        size: (width, height) as the tool has it, None if it does not say.
        origin: the file that has the regions.
    """

    image: Path
    regions: Sequence[Region]
    size: tuple[int, int] | None
    origin: Path


@dataclass
class Drawn:
    """A drawn label map.

    Attributes:
        labels: HxW int16, the number of each pixel's class, `UNLABELED` or `IGNORED`.
        overlaps: how many pixels of which class cover another class, by (upper, lower).
    """

    labels: np.ndarray
    overlaps: dict[tuple[int, int], int] = field(default_factory=dict)


def draw(image: LabeledImage, size: tuple[int, int], number_of: dict[str, int]) -> Drawn:
    """Draw the regions of an image.

    Args:
        image: the image and its regions.
        size: (width, height) of the label map.
        number_of: the number of each label.

    Raises:
        ValueError: an outline does not fit the image, or there are too many; the message does not name the file.

    Example:
        >>> regions = [Region("wall", Runs([2, 1, 1])), Region("road", Runs([3, 1]))]
        >>> drawn = draw(LabeledImage(Path("a.jpg"), regions, None, Path("a.json")), (2, 2), {"wall": 0, "road": 1})
        >>> drawn.labels.tolist()
        [[-1, 0], [-1, 1]]
    """
    if len(image.regions) > MAX_REGIONS:
        raise ValueError(f"{len(image.regions)} regions, more than {MAX_REGIONS}")
    drawn = Drawn(np.full(size[::-1], UNLABELED, np.int16))
    for region in image.regions:
        try:
            mask = region.outline.mask(size)
        except (TypeError, IndexError, OverflowError, OSError) as error:
            raise ValueError(f"{region.label[:64]!r}: its outline is damaged ({error})") from None
        except ValueError as error:
            raise ValueError(f"{region.label[:64]!r}: {error}") from None
        upper = number_of[region.label]
        below = drawn.labels[mask]
        for lower, pixels in zip(*np.unique(below[(below >= 0) & (below != upper)], return_counts=True), strict=True):
            pair = (upper, int(lower))
            drawn.overlaps[pair] = drawn.overlaps.get(pair, 0) + int(pixels)
        drawn.labels[mask] = upper
    return drawn


def _check_points(points: Points, size: tuple[int, int], least: int) -> None:
    if not least <= len(points) <= MAX_POINTS:
        raise ValueError(f"an outline of {len(points)} points, it must be {least} to {MAX_POINTS}")
    values = np.array(points, float)
    limit = 4 * max(size)  # far outside of the image Pillow and pycocotools overflow, or take forever
    if values.shape[1:] != (2,) or not (np.abs(values) <= limit).all():
        raise ValueError(f"a point is far outside of the image, which is {size[0]}x{size[1]}")


def _placed(part: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """A part of an image as HxW booleans of the whole; what is outside is cut off."""
    whole = np.zeros(size[::-1], bool)
    (x1, x2), (y1, y2) = (
        (max(start, 0), min(start + length, end))
        for start, length, end in ((left, part.shape[1], size[0]), (top, part.shape[0], size[1]))
    )
    if x1 < x2 and y1 < y2:
        whole[y1:y2, x1:x2] = part[y1 - top : y2 - top, x1 - left : x2 - left]
    return whole
