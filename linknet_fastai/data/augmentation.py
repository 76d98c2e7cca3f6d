"""Transforms between the file and the network: frames are resized one by one and augmented batch by batch."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.transforms import ItemTransform, Transform
from fastai.vision.core import PILImage, PILMask, TensorImage, TensorMask
from PIL import Image
from torch import Tensor

from linknet_fastai.config.settings import Settings
from linknet_fastai.config.size import Fit, fitted_size
from linknet_fastai.core.images import VOID, resize_image, resize_labels

PADDING = (124, 116, 104)  # ImageNet's mean color: 0 after normalization, as the network's own padding is
OUTSIDE = 254  # in label maps, where a frame is padded to the size of a larger one: no channel and not void
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts colors to gray
Place: TypeAlias = tuple[slice, slice]  # the rows and columns of a canvas that a frame covers
FIRST = -100  # the `order` of these transforms: those that a user adds, with 0 by default, follow


class ResizeImage(ItemTransform):
    """Resizes the image of a validation or test item to the network's size, bilinearly.

    With the fit "pad" it keeps its aspect ratio, and nothing is padded, as the network takes any size. The label map
    keeps its own size, as a score is computed on label maps that were never resampled. A cached frame has the right
    size already and is not changed.

    Args:
        size: (width, height) that the network sees.
        fit: how images of another shape fit this size, see `fitted_size`.
    """

    split_idx, order = 1, FIRST
    fit: Fit = "squish"  # of the learners that earlier versions exported

    def __init__(self, size: tuple[int, int], fit: Fit = "squish") -> None:
        super().__init__()
        self.size, self.fit = size, fit

    def encodes(self, item):  # noqa: ANN001, ANN201 - fastai would dispatch on an annotation and skip every item
        """Resize item[0], a PILImage."""
        image, *labels = item
        if isinstance(image, Image.Image):
            image = PILImage(resize_image(image, fitted_size(image.size, self.size, self.fit)))
        return (image, *labels)


class ResizeFrame(ResizeImage):
    """Resizes the image of a training item bilinearly, and its label map to the nearest pixel."""

    split_idx = 0

    def encodes(self, item):  # noqa: ANN001, ANN201 - see ResizeImage
        """Resize item[0], a PILImage, and item[1], a PILMask."""
        image, labels = super().encodes(item)
        if isinstance(labels, Image.Image):
            size = fitted_size(labels.size, self.size, self.fit)
            labels = PILMask(Image.fromarray(resize_labels(np.asarray(labels), size)))
        return image, labels


class PadToLargest(Transform):
    """Pads training frames of several shapes so that they make a batch, before it is collated.

    The padding is at the right and at the bottom, up to the largest width and height. Its label is `OUTSIDE`, by
    which `AugmentBatch` knows it and leaves it out again.
    """

    split_idx = 0

    def encodes(self, samples):  # noqa: ANN001, ANN201 - see ResizeImage
        """Pad a list of pairs: image, 3xHxW uint8, and label map, HxW uint8."""
        sizes = [labels.shape for _, labels in samples]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        beyond = [(0, width - columns, 0, height - rows) for rows, columns in sizes]
        return [
            (F.pad(image, pad), F.pad(labels, pad, value=OUTSIDE))
            for (image, labels), pad in zip(samples, beyond, strict=True)
        ]


class AugmentBatch(ItemTransform):
    """Flips, scales, crops and recolors a training batch on its device, images and labels together.

    All random numbers of a frame come from the frame's own generator, which `ReproducibleDL` puts into `generators`.
    Of the settings it follows

    - `flip`: whether half of the frames are mirrored,
    - `scale`: the smallest and the largest zoom. Outside of the frame, the image is padded with the mean color
      that the network's images are normalized with, by default ImageNet's, and the label map with void.
    - `color`: brightness, contrast and saturation are changed by up to this fraction each.
    - `relight`: the probability that a frame takes, by a random fraction, the mean and the spread of each color
      channel of another frame of its batch (Reinhard et al., 2001, in RGB): the light of another place and time.

    Padding keeps its color, and has no part in the light of a frame.

    Of a frame that `PadToLargest` has padded, it sees the frame alone.

    Args:
        size: (width, height) of the augmented batch.
        settings: by default `Settings()`.

    Example:
        >>> images, labels = torch.zeros(2, 3, 90, 120, dtype=torch.uint8), torch.zeros(2, 90, 120, dtype=torch.uint8)
        >>> images, labels = AugmentBatch((64, 48), Settings(flip=False))((images, labels), split_idx=0)
        >>> images.shape, labels.shape
        (torch.Size([2, 3, 48, 64]), torch.Size([2, 48, 64]))
    """

    mixed = False  # in the learners that earlier versions exported
    split_idx, order = 0, FIRST  # before IntToFloatTensor: bytes are quicker to move

    def __init__(self, size: tuple[int, int], settings: Settings | None = None) -> None:
        super().__init__()
        settings = settings or Settings()
        self.mixed = settings.fit == "pad"
        # Not `settings` itself, which may hold paths of this machine: this object is in every exported learner.
        self.size, self.flip, self.scale = size, settings.flip, settings.scale
        self.color, self.relight = settings.color, settings.relight
        self.padding: Sequence[int] = PADDING
        self.generators: Iterator[Sequence[random.Random]] | None = None

    def encodes(self, batch):  # noqa: ANN001, ANN201 - see ResizeImage
        """Augment a batch.

        Args:
            batch: images, Bx3xHxW uint8, and labels, BxHxW uint8.

        Returns:
            Images, Bx3xH'xW' float32 from 0 to 255, and labels, BxH'xW' uint8.

        Raises:
            RuntimeError: two loops read from one training loader at the same time.
        """
        images, labels = (part.as_subclass(Tensor) for part in batch)
        generators = self._next_generators(len(images))
        width, height = self.size
        canvas = on_device_of(images, self.padding).view(1, 3, 1, 1).repeat(len(images), 1, height, width)
        truth = labels.new_full((len(labels), height, width), VOID)
        if self.mixed:
            images, labels = _without_padding(images, labels)
        places = [self._place(*frame) for frame in zip(images, labels, canvas, truth, generators, strict=True)]
        return TensorImage(self._recolor(canvas.float(), generators, places)), TensorMask(truth)

    def _next_generators(self, count: int) -> Sequence[random.Random]:
        if self.generators is None:  # called without a ReproducibleDL
            return [random.Random(frame) for frame in range(count)]
        generators = next(self.generators, ())
        if len(generators) != count:
            raise RuntimeError("a training loader serves one loop at a time; for another use `dls.train.new()`")
        return generators

    def _place(self, image: Tensor, labels: Tensor, canvas: Tensor, truth: Tensor, generator: random.Random) -> Place:
        """Scale a frame, paste it on its canvas and flip it at random; only the visible part is resampled."""
        zoom = math.exp(generator.uniform(*map(math.log, self.scale)))
        source_rows, rows = _place_side(image.shape[1], canvas.shape[1], zoom, generator)
        source_columns, columns = _place_side(image.shape[2], canvas.shape[2], zoom, generator)
        image, labels = image[:, source_rows, source_columns], labels[source_rows, source_columns]
        size = (rows.stop - rows.start, columns.stop - columns.start)
        # Only on a CPU does torch interpolate bytes.
        pixels = image[None] if image.device.type == "cpu" else image[None].float()
        shown = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
        shown_labels = F.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]
        canvas[:, rows, columns], truth[rows, columns] = shown.round(), shown_labels
        if self.flip and generator.random() < 0.5:
            canvas.copy_(canvas.flip(-1))
            truth.copy_(truth.flip(-1))
            columns = slice(canvas.shape[2] - columns.stop, canvas.shape[2] - columns.start)
        return rows, columns

    def _recolor(self, images: Tensor, generators: Sequence[random.Random], places: Sequence[Place]) -> Tensor:
        """Change light, brightness, contrast (about mid-gray) and saturation by one 3x3 matrix and offset a frame."""
        if not (self.color or self.relight):
            return images
        draws = [[1 + generator.uniform(-self.color, self.color) for _ in range(3)] for generator in generators]
        brightness, contrast, saturation = on_device_of(images, draws).T.view(3, -1, 1, 1)
        matrix = saturation * torch.eye(3, device=images.device) + (1 - saturation) * on_device_of(images, LUMA)
        matrix = brightness * contrast * matrix
        offset = 127.5 * brightness * (1 - contrast)
        if self.relight:
            gain, shift = self._light_of_others(images, generators, places)
            offset = offset + matrix @ shift
            matrix = matrix * gain.mT
        recolored = torch.baddbmm(offset, matrix, images.flatten(2)).clamp_(0, 255).view_as(images)
        padding = on_device_of(images, self.padding).view(3, 1, 1)
        for image, (rows, columns) in zip(recolored, places, strict=True):
            image[:, : rows.start], image[:, rows.stop :] = padding, padding
            image[:, rows, : columns.start], image[:, rows, columns.stop :] = padding, padding
        return recolored

    def _light_of_others(
        self, images: Tensor, generators: Sequence[random.Random], places: Sequence[Place]
    ) -> tuple[Tensor, Tensor]:
        """Gain and offset of each channel, Bx3x1 each, that move the light of a frame toward that of another."""
        others, shares = [], []
        for generator in generators:
            others.append(generator.randrange(len(generators)))
            shares.append(generator.random() if generator.random() < self.relight else 0.0)
        share = on_device_of(images, shares).view(-1, 1, 1)
        # Of the frames that give or take light, without their padding: it would pull the light toward its own.
        relit = [frame for frame, share in enumerate(shares) if share]
        spread, mean = images.new_zeros(2, len(images), 3, 1)
        for frame in {*relit, *(others[frame] for frame in relit)}:
            pixels = images[frame][:, *places[frame]].flatten(1)
            spread[frame], mean[frame] = torch.std_mean(pixels, 1, keepdim=True)
        spread = spread + 1  # a frame of one color has 0
        other = on_device_of(images, others, torch.int64)
        gain = spread.lerp(spread[other], share) / spread
        return gain, mean.lerp(mean[other], share) - gain * mean

    def __getstate__(self) -> dict:
        return {**self.__dict__, "generators": None}  # a generator expression cannot be pickled


def _without_padding(images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The frames of a batch, 3xHxW and HxW, without what `PadToLargest` has added."""
    inside = labels != OUTSIDE
    sides = torch.stack([inside[:, :, 0].sum(1), inside[:, 0].sum(1)], 1).tolist()
    shown = [image[:, :rows, :columns] for image, (rows, columns) in zip(images, sides, strict=True)]
    return shown, [truth[:rows, :columns] for truth, (rows, columns) in zip(labels, sides, strict=True)]


def on_device_of(images: Tensor, values: Sequence, dtype: torch.dtype | None = None) -> Tensor:
    """As `images.new_tensor(values, dtype)`, for which the host would wait until a GPU has done all its work."""
    return torch.tensor(values, dtype=dtype or images.dtype).to(images.device, non_blocking=images.is_cuda)


def _place_side(source: int, canvas: int, zoom: float, generator: random.Random) -> tuple[slice, slice]:
    """Place one side of a scaled frame at random along one side of the canvas.

    Returns:
        The visible pixels of the source, and where on the canvas they are.
    """
    scaled = max(round(source * zoom), 1)
    # At or before the canvas's edge if the scaled frame is larger, on the canvas if it is smaller.
    corner = generator.randint(*sorted((0, canvas - scaled)))
    first, last = max(corner, 0), min(corner + scaled, canvas)
    begin = min(round((first - corner) / scaled * source), source - 1)
    end = max(round((last - corner) / scaled * source), begin + 1)
    return slice(begin, end), slice(first, last)
