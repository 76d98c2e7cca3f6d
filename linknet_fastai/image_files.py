"""Reading images, and label maps through a recipe's mapping of raw values or colours; images inside a page."""

import base64
import io
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from linknet_fastai.errors import UserError
from linknet_fastai.recipe import VOID, Layout, Recipe

UNMAPPED = 254
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def open_image(path: Path, most_pixels: float | None = None) -> Image.Image:
    """Open an image as RGB, turned upright by its EXIF orientation; for training as for prediction.

    Args:
        path: the file.
        most_pixels: a larger image is not decoded.

    Raises:
        UserError: the file cannot be read as an image, or is larger.
    """
    try:
        with Image.open(path) as image:
            if most_pixels and image.width * image.height > most_pixels:
                raise UserError(
                    f"{path}: {image.width}x{image.height} is more than {most_pixels / 1e6:g} million pixels"
                )
            ImageOps.exif_transpose(image, in_place=True)
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot read this image ({error})") from None


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
        try:
            with Image.open(path) as image:
                image.load()
                raw = self._raw_values(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: cannot read this label map ({error})") from None
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
