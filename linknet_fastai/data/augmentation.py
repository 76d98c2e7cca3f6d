"""What happens to a frame between the file and the network: resizing frame by frame, augmentation batch by batch."""

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.transforms import ItemTransform
from fastai.vision.core import PILImage, PILMask, TensorImage, TensorMask
from PIL import Image
from torch import Tensor

from linknet_fastai.core.images import VOID, resize_image, resize_labels

PADDING = (124, 116, 104)  # ImageNet's mean color: padding is 0 for the network, as its own padding is
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns colors to grey


class ResizeImage(ItemTransform):
    """Brings the image of a validation or test item to the network's size, bilinearly.

    Its label map keeps its own: one that scores is never resampled. A frame out of the cache passes by.

    Args:
        size: (width, height) that the network sees.
    """

    split_idx, order = 1, 1

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def encodes(self, item):  # typed, fastai would dispatch on it and silently pass by
        """Resize item[0]."""
        image, *labels = item
        if isinstance(image, Image.Image):
            image = PILImage(resize_image(image, self.size))
        return (image, *labels)


class ResizeFrame(ResizeImage):
    """The same for training items, and their label maps are brought to that size too, by the nearest pixel."""

    split_idx = 0

    def encodes(self, item):  # typed, fastai would dispatch on it and silently pass by
        """Resize item[0] and item[1]."""
        image, *labels = super().encodes(item)
        return (image, *map(self._resize_labels, labels))

    def _resize_labels(self, labels: PILMask | TensorMask) -> PILMask | TensorMask:
        if not isinstance(labels, Image.Image):
            return labels
        return PILMask(Image.fromarray(resize_labels(np.asarray(labels), self.size)))


class AugmentBatch(ItemTransform):
    """Flips, scales, crops and recolors a training batch on the device that it is on, images and labels together.

    Every draw of a frame comes from its own generator, which the loader lays ready in `generators`.

    Args:
        size: (width, height) of what comes out.
        scale: the smallest and the largest zoom. What lies outside of the frame is mean color in the image and
            void in the label map.
        color: brightness, contrast and saturation vary by up to this share each.
        relight: how often a frame takes over, by a random part, the mean and the spread of each color channel of
            another frame of its batch (Reinhard et al., 2001, in RGB): the light of another place and hour.
        flip: whether half of the frames are mirrored.
    """

    split_idx, order = 0, 5  # in front of IntToFloatTensor: bytes are quicker to move

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.75, 1.75),
        color: float = 0.3,
        flip: bool = True,
        relight: float = 0,
    ) -> None:
        super().__init__()
        self.size, self.scale, self.color, self.flip, self.relight = size, scale, color, flip, relight
        self.generators: Iterator[Sequence[random.Random]] | None = None

    def encodes(self, batch):  # typed, fastai would dispatch on it and silently pass by
        """Augment a batch.

        Args:
            batch: images, Bx3xHxW uint8, and labels, BxHxW uint8.

        Returns:
            Images, Bx3xH'xW' floats from 0 to 255, and labels, BxH'xW' uint8.
        """
        images, labels = (part.as_subclass(Tensor) for part in batch)
        generators = self._next_generators(len(images))
        width, height = self.size
        canvas = torch.tensor(PADDING, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
        canvas = canvas.repeat(len(images), 1, height, width)
        truth = labels.new_full((len(labels), height, width), VOID)
        for frame, generator in enumerate(generators):
            self._place(images[frame], labels[frame], canvas[frame], truth[frame], generator)
        return TensorImage(self._recolor(canvas.float(), generators)), TensorMask(truth)

    def _next_generators(self, count: int) -> Sequence[random.Random]:
        if self.generators is None:  # no loader of ours: somebody calls the transform by hand
            return [random.Random(frame) for frame in range(count)]
        generators = next(self.generators, ())
        if len(generators) != count:
            raise RuntimeError("a training loader is walked by one loop at a time; for another use `dls.train.new()`")
        return generators

    def _place(self, image: Tensor, labels: Tensor, canvas: Tensor, truth: Tensor, generator: random.Random) -> None:
        """Scale a frame, lay it on its canvas and perhaps mirror it; only what shows is resampled."""
        zoom = math.exp(generator.uniform(*map(math.log, self.scale)))
        rows, lines = _place_side(image.shape[1], canvas.shape[1], zoom, generator)
        columns, pillars = _place_side(image.shape[2], canvas.shape[2], zoom, generator)
        image, labels = image[:, rows, columns], labels[rows, columns]
        size = (lines.stop - lines.start, pillars.stop - pillars.start)
        pixels = image[None] if image.device.type == "cpu" else image[None].float()  # bytes on a CPU alone
        shown = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
        shown_labels = F.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]
        canvas[:, lines, pillars], truth[lines, pillars] = shown.round(), shown_labels
        if self.flip and generator.random() < 0.5:
            canvas.copy_(canvas.flip(-1))
            truth.copy_(truth.flip(-1))

    def _recolor(self, images: Tensor, generators: Sequence[random.Random]) -> Tensor:
        """Change light, brightness, contrast (about mid-grey), saturation: one 3x3 matrix and an offset a frame."""
        if not (self.color or self.relight):
            return images
        draws = [[1 + generator.uniform(-self.color, self.color) for _ in range(3)] for generator in generators]
        brightness, contrast, saturation = images.new_tensor(draws).T.view(3, -1, 1, 1)
        matrix = saturation * torch.eye(3, device=images.device) + (1 - saturation) * images.new_tensor(LUMA)
        matrix = brightness * contrast * matrix
        offset = 127.5 * brightness * (1 - contrast)
        pixels = images.flatten(2)
        if self.relight:
            gain, lift = self._light_of_others(pixels, generators)
            offset = offset + matrix @ lift
            matrix = matrix * gain.mT
        return torch.baddbmm(offset, matrix, pixels).clamp_(0, 255).view_as(images)

    def _light_of_others(self, pixels: Tensor, generators: Sequence[random.Random]) -> tuple[Tensor, Tensor]:
        """What makes the light of each frame that of another, in part: gain and lift of its channels, Bx3x1 each."""
        others, shares = [], []
        for generator in generators:
            others.append(generator.randrange(len(generators)))
            shares.append(generator.random() if generator.random() < self.relight else 0.0)
        share = pixels.new_tensor(shares).view(-1, 1, 1)
        spread, mean = torch.std_mean(pixels, 2, keepdim=True)
        spread = spread + 1  # a frame of one color has none
        gain = spread.lerp(spread[others], share) / spread
        return gain, mean.lerp(mean[others], share) - gain * mean

    def __getstate__(self) -> dict:
        return {**self.__dict__, "generators": None}  # a running epoch's generators cannot be pickled


def _place_side(source: int, canvas: int, zoom: float, generator: random.Random) -> tuple[slice, slice]:
    """Scale one side of a frame and lay it on one side of the canvas.

    Returns:
        Which pixels of the source show, and where on the canvas.
    """
    scaled = max(round(source * zoom), 1)
    # Left of the canvas where the scaled frame is larger, inside of it where it is smaller.
    corner = generator.randint(*sorted((0, canvas - scaled)))
    first, last = max(corner, 0), min(corner + scaled, canvas)
    begin = min(round((first - corner) / scaled * source), source - 1)
    end = max(round((last - corner) / scaled * source), begin + 1)
    return slice(begin, end), slice(first, last)
