"""Label map files: their raw values or colors are mapped to the network's channels."""

from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from linknet_fastai.config.classes import Color
from linknet_fastai.config.layouts import Layout
from linknet_fastai.config.recipe import Recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import TURNS, VOID, opened_image, upright, upright_size
from linknet_fastai.core.samples import check_lossless, palette_colors, read_channel, read_samples
from linknet_fastai.data.match import Frame

CHANNELS = ("red", "green", "blue")
UNMAPPED = 254  # of a raw value that is neither a class nor void; recipes have fewer classes


class LabelReader:
    """Reads label maps, and maps their raw values or colors to the network's channels.

    Args:
        recipe: defines classes and void.
        layout: defines what raw values or colors mean; by default values are the ids of classes.

    Attributes:
        in_color: whether colors are what the recipe maps.
        channel: which channel of the label maps has the values, 0 for red; None if they have one alone.
        raw: the channel, 255 for void, of each raw value; a color is packed into 24 bits.
        colors: the channels that the recipe gives a color to, as a class or as a raw label.

    Example:
        >>> from linknet_fastai.config.recipe import load_recipe
        >>> recipe = load_recipe("street")
        >>> LabelReader(recipe, recipe.layouts[0]).raw[3]
        3
    """

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        channels = {name: VOID if c is None else c for name, c in recipe.channel_of_label.items()}
        self.in_color = layout.colors is not None
        self.channel = None if layout.channel is None else CHANNELS.index(layout.channel)
        if layout.colors is not None:
            self.raw = {r << 16 | g << 8 | b: channels[name] for name, (r, g, b) in layout.colors.items()}
        elif layout.values is not None:
            self.raw = {value: channels[name] for value, name in layout.values.items()}
        else:
            self.raw = {entry.id: channel for channel, entry in enumerate(recipe.classes)} | {recipe.void.id: VOID}
        self.colors = defaultdict[Color, set[int]](set)
        if "color" in recipe.void.model_fields_set:
            self.colors[recipe.void.color].add(VOID)
        for channel, entry in enumerate(recipe.classes):
            self.colors[entry.color].add(channel)
        for other in recipe.layouts:
            for name, color in (other.colors or {}).items():
                self.colors[color].add(channels[name])

    @cached_property
    def _channel_of_raw(self) -> np.ndarray:
        table = np.full(1 << 24 if self.in_color else 1 << 16, UNMAPPED, np.uint8)
        table[list(self.raw)] = list(self.raw.values())
        return table

    @property
    def mapping(self) -> list[Any]:
        """What label maps are decoded by, as values of JSON: caches of decoded frames depend on it."""
        return [self.in_color, self.channel, sorted(self.raw.items())]

    def __getstate__(self) -> dict:
        kept = ("in_color", "channel", "raw", "colors")  # not the table: 16 MB, quickly built
        return {key: vars(self)[key] for key in kept}

    def __call__(self, path: Path) -> np.ndarray:
        """Read a label map.

        Args:
            path: an image file of one channel of at most 16 bits, or with a palette; in color, of any mode.

        Returns:
            HxW uint8: the network's channel of each pixel, 255 for void; turned upright by its EXIF orientation.

        Raises:
            UserError: the file cannot be read, is lossy, has different channels where values are expected, or has a
                value or color that the recipe does not map.
        """
        with opened_image(path, "this label map") as image:
            raw = self._packed_colors(path, image) if self.in_color else self._values(path, image)
        labels = self._channel_of_raw.take(raw)  # a third of the time of indexing
        if (labels == UNMAPPED).any():
            unknown = np.unique(raw[labels == UNMAPPED])
            shown = ", ".join(self._show(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            what = "colors" if self.in_color else "values"
            raise UserError(f"{path}: {what} outside the recipe's mapping: {shown}")
        return labels

    def of_frame(self, frame: Frame, size: tuple[int, int] | None = None) -> np.ndarray:
        """Read the label map of a frame, turned upright as its image is.

        A label map without an orientation of its own may have been drawn over the pixels as they are in the image
        file. That is so if it has their width and height, and not those of the upright image: then the image's
        orientation is the label map's too.

        Args:
            frame: the frame.
            size: (width, height) of the upright image, if it is known.

        Returns:
            As `__call__`.

        Raises:
            UserError: see `__call__`.
        """
        labels = self(frame.label)
        if labels.shape[::-1] != size:
            size, tag = upright_size(frame.image)
            if tag > 4 and labels.shape == size != size[::-1] and upright_size(frame.label)[1] == 1:
                labels = np.asarray(Image.fromarray(labels).transpose(TURNS[tag]))
        return labels

    def _values(self, path: Path, image: Image.Image) -> np.ndarray:
        if self.channel is not None:
            return read_channel(path, image, self.channel)
        values = read_samples(path, image, [raw for raw, channel in self.raw.items() if channel != VOID])
        if image.mode == "P":
            self._check_palette(palette_colors(image), image.histogram())
        return values

    def _check_palette(self, palette: list[Color], pixels: list[int]) -> None:
        """Raise ValueError if a palette has the recipe's colors in another order than the recipe's values.

        Args:
            palette: the color of each index.
            pixels: how many pixels have each index.
        """
        known = {(0, 0, 0), *self.colors}  # unused colors are often black
        if all(red == green == blue for red, green, blue in palette) or any(
            color not in known and not count for color, count in zip(palette, pixels, strict=False)
        ):
            return  # read by its gray levels, or of another program: optimizers remove colors without a pixel
        for index, (color, count) in enumerate(zip(palette, pixels, strict=False)):
            # A label that is void may have the color of a class, as groups of cars do in Mapillary Vistas.
            if count and self.raw.get(index) not in {VOID, *self.colors.get(color, [self.raw.get(index)])}:
                raise ValueError(
                    f"value {index} has the color {color} of another class, as if an optimizer sorted the palette; "
                    "if the colors are right, [layouts.colors] reads them"
                )

    @staticmethod
    def _packed_colors(path: Path, image: Image.Image) -> np.ndarray:
        check_lossless(path, image)
        rgb = np.asarray(upright(image).convert("RGB")).astype(np.uint32)
        return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]

    def _show(self, value: int) -> str:
        return f"({value >> 16}, {value >> 8 & 255}, {value & 255})" if self.in_color else str(value)
