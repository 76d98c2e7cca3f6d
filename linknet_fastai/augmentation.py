"""What happens to a frame between the file and the batch: one transform for training, one for all else."""

import random

import numpy as np
from fastai.data.transforms import ItemTransform
from fastai.vision.core import PILImage, PILMask
from PIL import Image, ImageEnhance

from linknet_fastai.image_files import BILINEAR, resize_image
from linknet_fastai.recipe import VOID

NEAREST = Image.Resampling.NEAREST
PADDING = (124, 116, 104)  # ImageNet's mean colour: padding is 0 for the network, as its own padding is


class ResizeFrame(ItemTransform):
    """Brings the image to the network's size, bilinearly; the label map keeps its own size.

    Runs for validation and test items, where a score is taken at the label map's size.
    """

    split_idx, order = 1, 1

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def encodes(self, item):  # typed, fastai would dispatch on it and silently pass by
        """Resize item[0]."""
        return (PILImage(resize_image(item[0], self.size)), *item[1:])


class AugmentFrame(ItemTransform):
    """Flips, scales, crops and recolours a training frame, image and label map together.

    Every draw comes from `rng`, which the loader sets anew for each item.

    Args:
        size: (width, height) of what comes out.
        scale: the smallest and the largest zoom relative to the frame fitted to `size`. What lies outside
            of the frame is mean colour in the image and void in the label map.
        colour: brightness, contrast and saturation vary by up to this share each.
    """

    split_idx, order = 0, 1

    def __init__(self, size: tuple[int, int], scale: tuple[float, float] = (0.75, 1.75), colour: float = 0.3) -> None:
        self.size, self.scale, self.colour = size, scale, colour
        self.rng = random.Random(0)

    def encodes(self, item):  # typed, fastai would dispatch on it and silently pass by
        """Augment item[0], an image, and item[1], its label map."""
        image, *masks = item
        width, height = self.size
        zoom = np.exp(self.rng.uniform(*np.log(self.scale)))
        scaled = (max(round(width * zoom), 1), max(round(height * zoom), 1))
        # Where the scaled frame's corner comes to lie: left of the crop when larger, inside it when smaller.
        corner = tuple(self._between(0, crop - full) for crop, full in zip(self.size, scaled, strict=True))
        flip = self.rng.random() < 0.5
        placed = PILImage(place(image, self.size, scaled, corner, flip, BILINEAR, PADDING))
        labels = [PILMask(place(mask, self.size, scaled, corner, flip, NEAREST, VOID)) for mask in masks]
        return (PILImage(self._recolour(placed)), *labels)

    def _between(self, first: int, second: int) -> int:
        return self.rng.randint(min(first, second), max(first, second))

    def _recolour(self, image: Image.Image) -> Image.Image:
        if not self.colour:
            return image
        brightness, contrast, saturation = (1 + self.rng.uniform(-self.colour, self.colour) for _ in range(3))
        # Brightness and contrast are one table look-up; the contrast turns about mid-grey.
        table = ((np.arange(256) - 127.5) * contrast + 127.5) * brightness
        image = image.point(np.clip(table, 0, 255).astype(np.uint8).tolist() * 3)
        return ImageEnhance.Color(image).enhance(saturation)


def place(
    image: Image.Image,
    size: tuple[int, int],
    scaled: tuple[int, int],
    corner: tuple[int, int],
    flip: bool,
    resample: Image.Resampling,
    padding: int | tuple[int, int, int],
) -> Image.Image:
    """Scale an image, lay it on a canvas, and mirror the canvas.

    Only the part that shows is resampled, straight from the source.

    Args:
        image: the source.
        size: the canvas, (width, height).
        scaled: what size the whole source would have on it.
        corner: where the source's left upper corner lies on it.
        flip: whether to mirror left and right.
        resample: Pillow's filter.
        padding: the value where the canvas shows nothing of the source.
    """
    left, top = max(corner[0], 0), max(corner[1], 0)
    right, bottom = min(corner[0] + scaled[0], size[0]), min(corner[1] + scaled[1], size[1])
    across, down = image.size[0] / scaled[0], image.size[1] / scaled[1]
    box = (
        (left - corner[0]) * across,
        (top - corner[1]) * down,
        min((right - corner[0]) * across, image.size[0]),
        min((bottom - corner[1]) * down, image.size[1]),
    )
    shown = image.resize((right - left, bottom - top), resample, box=box)
    if shown.size != tuple(size):
        canvas = Image.new(image.mode, size, padding)
        canvas.paste(shown, (left, top))
        shown = canvas
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else shown
