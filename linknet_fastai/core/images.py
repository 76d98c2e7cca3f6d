"""Image files: images and label maps read, PNGs written, images put into a page."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from linknet_fastai.config.recipe import VOID, Layout, Recipe
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import written_whole
from linknet_fastai.core.untrusted import check_regular

UNMAPPED = 254
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
        return _in_8_bits(image).convert("RGB")


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


class LabelReader:
    """Reads label maps through a layout's mapping of raw values or colours."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        channels = {name: VOID if c is None else c for name, c in recipe.channel_of_label.items()}
        self.in_color = layout.colors is not None
        if layout.colors is not None:
            raw = {_pack(color): channels[name] for name, color in layout.colors.items()}
        elif layout.values is not None:
            raw = {value: channels[name] for value, name in layout.values.items()}
        else:
            raw = {entry.id: channel for channel, entry in enumerate(recipe.classes)} | {recipe.void.id: VOID}
        self.raw = raw

    @cached_property
    def _channel_of_raw(self) -> np.ndarray:
        table = np.full(1 << 24 if self.in_color else 1 << 16, UNMAPPED, np.uint8)
        for value, channel in self.raw.items():
            table[value] = channel
        return table

    def __getstate__(self) -> dict:
        return {"in_color": self.in_color, "raw": self.raw}  # the table is 16 MB and quickly made

    def __call__(self, path: Path) -> np.ndarray:
        """Read a label map.

        Returns:
            HxW uint8: the network's channel of each pixel, 255 for void.

        Raises:
            UserError: the file cannot be read, has no single channel (or no colours), or holds a raw value
                outside the mapping.
        """
        with opened_image(path, "this label map") as image:
            raw = self._raw_values(image)
        labels = self._channel_of_raw[raw]
        if (labels == UNMAPPED).any():
            unknown = np.unique(raw[labels == UNMAPPED])
            shown = ", ".join(self._show(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            what = "colours" if self.in_color else "values"
            raise UserError(f"{path}: {what} outside the recipe's mapping: {shown}")
        return labels

    def _raw_values(self, image: Image.Image) -> np.ndarray:
        if self.in_color:
            rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
            return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
            raise ValueError(f"mode {image.mode}, but its recipe expects one channel of ids")
        values = np.asarray(image)  # a palette image gives its indices here, not its colours
        if values.dtype.kind == "i" and values.size and not 0 <= values.min() <= values.max() < 1 << 16:
            raise ValueError("values outside 0..65535")
        return values.astype(np.uint16)

    def _show(self, value: int) -> str:
        return f"({value >> 16}, {value >> 8 & 255}, {value & 255})" if self.in_color else str(value)


def _pack(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def save_image(image: Image.Image, file: Path) -> None:
    """Write a PNG, whole or not at all; it says that it was written here, see `saved_here`."""
    said = PngImagePlugin.PngInfo()
    said.add_text(*SOFTWARE)
    with written_whole(file) as partial:
        image.save(partial, format="PNG", compress_level=1, pnginfo=said)


def saved_here(file: Path) -> bool:
    """Whether `save_image` wrote a file, and nobody has written it anew since."""
    try:
        with opened_image(file, "this image") as image:
            return SOFTWARE in image.info.items()
    except UserError:
        return False
