"""Label map files: their raw values or colors are mapped to the network's channels."""

from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from linknet_fastai.config.recipe import Layout, Recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID, opened_image

UNMAPPED = 254  # of a raw value that is neither a class nor void; recipes have fewer classes


class LabelReader:
    """Reads label maps, and maps their raw values or colors to the network's channels.

    Args:
        recipe: defines classes and void.
        layout: defines what raw values or colors mean; by default values are the ids of classes.

    Attributes:
        in_color: whether the label maps are in color.
        raw: the channel, 255 for void, of each raw value; a color is packed into 24 bits.

    Example:
        >>> from linknet_fastai.config.recipe import load_recipe
        >>> recipe = load_recipe("street")
        >>> LabelReader(recipe, recipe.layouts[0]).raw[3]
        3
    """

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        channels = {name: VOID if c is None else c for name, c in recipe.channel_of_label.items()}
        self.in_color = layout.colors is not None
        if layout.colors is not None:
            self.raw = {r << 16 | g << 8 | b: channels[name] for name, (r, g, b) in layout.colors.items()}
        elif layout.values is not None:
            self.raw = {value: channels[name] for value, name in layout.values.items()}
        else:
            self.raw = {entry.id: channel for channel, entry in enumerate(recipe.classes)} | {recipe.void.id: VOID}

    @cached_property
    def _channel_of_raw(self) -> np.ndarray:
        table = np.full(1 << 24 if self.in_color else 1 << 16, UNMAPPED, np.uint8)
        table[list(self.raw)] = list(self.raw.values())
        return table

    def __getstate__(self) -> dict:
        return {"in_color": self.in_color, "raw": self.raw}  # not the table: 16 MB, quickly built

    def __call__(self, path: Path) -> np.ndarray:
        """Read a label map.

        Args:
            path: an image file of one channel of at most 16 bits, or with a palette; in color, of any mode.

        Returns:
            HxW uint8: the network's channel of each pixel, 255 for void.

        Raises:
            UserError: the file cannot be read, has several channels where values are expected, or has a value or
                color that the recipe does not map.
        """
        with opened_image(path, "this label map") as image:
            raw = self._raw_values(image)
        labels = self._channel_of_raw[raw]
        if (labels == UNMAPPED).any():
            unknown = np.unique(raw[labels == UNMAPPED])
            shown = ", ".join(self._show(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            what = "colors" if self.in_color else "values"
            raise UserError(f"{path}: {what} outside the recipe's mapping: {shown}")
        return labels

    def _raw_values(self, image: Image.Image) -> np.ndarray:
        if self.in_color:
            rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
            return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
            raise ValueError(f"mode {image.mode}, but its recipe expects one channel of ids")
        values = np.asarray(image)  # of a palette image: its indices, not its colors
        if values.dtype.kind == "i" and values.size and not 0 <= values.min() <= values.max() < 1 << 16:
            raise ValueError("values outside 0..65535")
        return values.astype(np.uint16)

    def _show(self, value: int) -> str:
        return f"({value >> 16}, {value >> 8 & 255}, {value & 255})" if self.in_color else str(value)
