"""Sizes of frames: always (width, height) in pixels, written as in 480x360."""

import re
import reprlib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

SMALLEST_SIDE = 33
LARGEST_SIDE = 16384
MOST_PIXELS = 1 << 25
Fit = Literal["squish", "pad"]  # how a frame of another shape fits a size, see `fitted_size`


def parse_size(text: Any) -> tuple[int, int]:
    """Turn "480x360", or a pair of integers, into a size in pixels: (width, height).

    Raises:
        ValueError: it is not a size, or out of range.

    Example:
        >>> parse_size("480x360")
        (480, 360)
    """
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(side, int) for side in text):
        width, height = text
    elif isinstance(text, str) and (match := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)):
        width, height = int(match[1]), int(match[2])
    else:
        side = int(text) if re.fullmatch(r"\d{2,4}", str(text)) else 480  # a side alone, as other programs take it
        raise ValueError(f"{reprlib.repr(text)} is not a size: write WIDTHxHEIGHT, as in {side}x{side * 3 // 4}")
    if not (min(width, height) >= SMALLEST_SIDE and max(width, height) <= LARGEST_SIDE):
        raise ValueError(f"{reprlib.repr(text)}: a side must be between {SMALLEST_SIDE} and {LARGEST_SIDE} pixels")
    if width * height > MOST_PIXELS:
        raise ValueError(f"{text!r}: more than {MOST_PIXELS >> 20} Mi pixels (a frame of 8K video)")
    return width, height


def format_size(size: tuple[int, int]) -> str:
    """Turn (480, 360) into "480x360"; the inverse of `parse_size`."""
    return f"{size[0]}x{size[1]}"


def fitted_size(size: tuple[int, int], box: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """The size that an image is resized to for a network; sizes are (width, height).

    Args:
        size: of the image.
        box: of the network.
        fit: "squish" is the size of the box; "pad" the largest that has the aspect ratio of the image and fits into
            the box, but no side below `SMALLEST_SIDE`. Where the network needs the whole box, the rest is padding.

    Example:
        >>> fitted_size((1920, 1080), (480, 360), "pad"), fitted_size((1920, 1080), (480, 360), "squish")
        ((480, 270), (480, 360))
    """
    if fit == "squish":
        return box
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(round(size[0] * scale), SMALLEST_SIDE), max(round(size[1] * scale), SMALLEST_SIDE)


Size = Annotated[tuple[int, int], BeforeValidator(parse_size), PlainSerializer(format_size)]
