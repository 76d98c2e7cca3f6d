"""Class maps as shapes: connected pieces, their outlines, and outlines with fewer points. Writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from contourpy import contour_generator
from scipy import ndimage

BESIDE = np.ones((3, 3), bool)  # pixels of a piece touch at a side or a corner: a thin slanted pole is one piece
AREA_KEPT = 0.1  # a simplified outline may have a larger or smaller area by this share


@dataclass(frozen=True)
class Piece:
    """Connected pixels of one class.

    Attributes:
        channel: the network's channel.
        left: the place of `mask` in the frame, in pixels.
        top: the same.
        mask: HxW booleans of the smallest box around the piece.
        score: the mean confidence of its pixels, 0 to 1; None if it is unknown.
    """

    channel: int
    left: int
    top: int
    mask: np.ndarray
    score: float | None = None

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return int(self.mask.sum())

    @property
    def has_holes(self) -> bool:
        """Whether other pixels lie inside."""
        return bool(_holes(self.mask).any())

    def whole(self, size: tuple[int, int]) -> np.ndarray:
        """The piece as HxW booleans of a frame of (width, height)."""
        whole = np.zeros(size[::-1], bool)
        height, width = self.mask.shape
        whole[self.top : self.top + height, self.left : self.left + width] = self.mask
        return whole


def find_pieces(
    channels: np.ndarray, classes: int, min_pixels: int = 1, confidence: np.ndarray | None = None
) -> list[Piece]:
    """Divide a class map into connected pieces.

    Pieces below `min_pixels` are left out. Smaller holes in a piece are filled: what lies in them was left out.

    Args:
        channels: HxW uint8, the network's channel of each pixel, 255 for void, which is no piece.
        classes: the number of channels.
        min_pixels: pixels of the smallest piece and of the smallest hole.
        confidence: HxW uint8, a probability times 255, for the scores.

    Returns:
        The pieces, the largest first: drawn in this order, small objects stay visible.

    Example:
        >>> [(piece.channel, piece.pixels) for piece in find_pieces(np.uint8([[0, 0, 1], [0, 1, 255]]), 2)]
        [(0, 3), (1, 2)]
    """
    found = []
    for channel in np.unique(channels[channels < classes]):
        numbers, _ = ndimage.label(channels == channel, BESIDE)
        counts = np.bincount(numbers.ravel())
        for number, box in enumerate(ndimage.find_objects(numbers), 1):
            if counts[number] < min_pixels:
                continue
            mask = numbers[box] == number
            score = None if confidence is None else float(confidence[box][mask].mean() / 255)
            mask = _without_small_holes(mask, min_pixels)
            found.append(Piece(int(channel), box[1].start, box[0].start, mask, score))
    return sorted(found, key=lambda piece: -piece.pixels)


def _without_small_holes(mask: np.ndarray, min_pixels: int) -> np.ndarray:
    holes = _holes(mask)
    small = np.bincount(holes.ravel()) < min_pixels
    small[0] = False  # what is no hole
    return mask | small[holes]


def _holes(mask: np.ndarray) -> np.ndarray:
    """The number of the hole that each pixel of a mask is in, 0 for none."""
    # Much faster than `binary_fill_holes`. The frame of one pixel joins all that is outside, which gets number 1.
    numbers, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return np.maximum(numbers[1:-1, 1:-1] - 1, 0)


def outline(piece: Piece, tolerance: float = 0, inset: float = 0) -> np.ndarray:
    """The polygon around a piece, without its holes.

    It runs along the sides of pixels and cuts their corners. It is simplified with the algorithm of Douglas and
    Peucker; where that would change the area by more than a tenth, as of a thin pole, with a smaller tolerance.

    Args:
        piece: the piece.
        tolerance: how far the polygon may be from the exact one, in pixels; 0 leaves out only points on a line.
        inset: how far it is moved inwards, 0 to 0.5 pixels. Tools that cut coordinates to whole pixels and draw the
            border too, as labelme, draw exactly the piece if every point is inside a pixel of it.

    Returns:
        Nx2 floats, x and y; the center of the upper left pixel of the frame is (0.5, 0.5). At least 3 points.

    Example:
        >>> ring = outline(Piece(0, left=4, top=2, mask=np.ones((2, 3), bool)))
        >>> len(ring), ring.min(0).tolist(), ring.max(0).tolist()
        (8, [4.0, 2.0], [7.0, 4.0])
    """
    filled = np.pad(piece.mask | (_holes(piece.mask) > 0), 1).astype(float)
    # Below one half, so that pixels which touch at a corner are joined.
    rings: Any = contour_generator(z=filled, line_type="Separate").lines(0.45)  # the type depends on `line_type`
    ring = np.asarray(rings[0])[:-1] - 1
    inner = np.where(ring % 1 > 0.5, np.floor(ring), np.ceil(ring))  # the centers of the pixels inside of it
    exact = np.round(2 * ring) / 2
    area = _area(exact)
    for allowed in (tolerance, tolerance / 2, tolerance / 4, 0):
        kept = _simplified(exact, allowed)
        if len(kept) > 2 and abs(_area(exact[kept]) - area) <= AREA_KEPT * area:
            break
    moved = exact[kept] + (inner[kept] - exact[kept]) * (2 * inset)
    return moved + np.array([piece.left + 0.5, piece.top + 0.5])


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _simplified(ring: np.ndarray, tolerance: float) -> Sequence[int]:
    """The points of a closed ring that Douglas and Peucker's algorithm keeps, as indices in order."""
    closed = np.vstack([ring, ring[:1]])
    farthest = int(np.hypot(*(ring - ring[0]).T).argmax())
    kept, parts = {0, farthest}, [(0, farthest), (farthest, len(ring))]
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        first, along = closed[start], closed[end] - closed[start]
        between = closed[start + 1 : end] - first
        # The distance from the segment, not from the line through it: a ring can turn back.
        place = np.clip(between @ along / max(along @ along, 1e-12), 0, 1)
        distances = np.hypot(*(between - place[:, None] * along).T)
        worst = int(distances.argmax())
        if distances[worst] > max(tolerance, 1e-6):
            middle = start + 1 + worst
            kept.add(middle)
            parts += [(start, middle), (middle, end)]
    return sorted(kept)
