"""Image files: images read, PNGs written, images put into a page."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import atomic_write, check_regular

VOID = 255  # the value of void in every label map and label tensor of this package
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
SOFTWARE = ("Software", "linknet-fastai")  # a text in every PNG written here
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
# Pillow tells a format by what is in a file, not by its name. These hold pixels and nothing else: it would run
# Ghostscript for an EPS of any name.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb


@contextmanager
def opened_image(path: Path, what: str, most_pixels: float | None = None) -> Iterator[Image.Image]:
    """Open an image file, and say in one line what goes wrong while it is read.

    Args:
        path: the file.
        what: what the message calls it, as in "this image".
        most_pixels: what has more is refused unread, by default what Pillow would take for a bomb.

    Raises:
        UserError: it is no regular file, no image, too large or damaged, or what is done with it fails.
    """
    try:
        check_regular(path)
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > (most := most_pixels or MOST_PIXELS):
                raise ValueError(f"{image.width}x{image.height} is more than {most / 1e6:g} million pixels")
            yield image
    except UnidentifiedImageError:
        raise UserError(f"{path}: cannot read {what} (none of {', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's readers raise a dozen kinds at damaged files
        raise UserError(f"{path}: cannot read {what} ({reason(error)})") from None


def open_image(path: Path, most_pixels: float | None = None) -> Image.Image:
    """Open an image as RGB, turned upright by its EXIF orientation; for training as for prediction.

    Of 16 bits the upper 8 are kept, an alpha channel is left out, and of an animation the first frame counts.

    Args:
        path: the file.
        most_pixels: a larger image is not decoded.

    Raises:
        UserError: the file cannot be read as an image, or is larger.
    """
    with opened_image(path, "this image", most_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB: of 16 bits the upper 8 are kept, an alpha channel is left out.

    Raises:
        ValueError: which of its values is white is not defined, as in floats.
    """
    return image if image.mode == "RGB" else _in_8_bits(image).convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits grey with the upper 8 of them; Pillow itself makes white of all that is above 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or not 0 <= pixels.min() <= pixels.max() < 1 << 16:  # a 16-bit PNG is "I" in older Pillows
        raise ValueError(f"mode {image.mode}: nobody knows which of its values is white; save it with 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resample an RGB image bilinearly, with antialiasing where it shrinks."""
    return image if image.size == tuple(size) else image.resize(size, BILINEAR)


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """An image as a URL that holds it, for a page.

    Args:
        image: the image.
        kind: "JPEG" or "PNG".
        options: Pillow's, for that format.
    """
    content = io.BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample HxW uint8 labels to (width, height) by the nearest pixel."""
    return labels if labels.shape[::-1] == tuple(size) else np.asarray(Image.fromarray(labels).resize(size, NEAREST))


def save_image(image: Image.Image, file: Path) -> None:
    """Write a PNG, whole or not at all; it says that it was written here, see `is_own_png`."""
    said = PngImagePlugin.PngInfo()
    said.add_text(*SOFTWARE)
    with atomic_write(file) as partial:
        image.save(partial, format="PNG", compress_level=1, pnginfo=said)


def is_own_png(file: Path) -> bool:
    """Whether `save_image` wrote a file, and nobody has written it anew since."""
    try:
        with opened_image(file, "this image") as image:
            return SOFTWARE in image.info.items()
    except UserError:
        return False
