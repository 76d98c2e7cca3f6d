"""What all engines share: an image in, its mask out. Imports no torch."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
from PIL import Image

from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.images import open_image, resize_image, to_rgb
from linknet_fastai.core.parallel import MAX_THREADS, usable_cores
from linknet_fastai.model.card import ModelCard

NATIVE = "native"  # as a size: each frame's own
# The inputs of an exported graph, its output, and the node that resizes the logits to the size of the frame.
IMAGE, SIZE, MASK, RESAMPLED = "image", "size", "mask", "linknet/resampled"

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray
InputSize = (
    tuple[int, int] | str | None
)  # what the network sees: (width, height), NATIVE, or None for the card's size


class Engine(ABC):
    """A network and what runs it. Calling an engine predicts one image; several threads may call it.

    `engine(image)` returns the recipe's class ids, as `predict` writes them. Scores and overlays work on the channels
    of the network instead: those are `engine.predict_channels(image)`.

    Attributes:
        name: its name for `--engine`.
        card: the model's card.
        precision: what it computes in: fp32, bf16, fp16 or int8.
        size: (width, height) of what the network sees, or "native" for each frame's own size.
        frames_at_once: how many frames are computed at the same time; more calls wait.
        class_ids: the recipe's class id of each channel, C uint8.
        tta: whether it averages over flips and scales.
    """

    name: str
    tta = False

    def __init__(self, card: ModelCard, precision: str, size: InputSize = None, frames_at_once: int = 1) -> None:
        self.card, self.precision, self.frames_at_once = card, precision, frames_at_once
        self.size = card.size if size is None else size
        self.class_ids = np.array([entry.id for entry in card.classes], np.uint8)
        self.free_slots = BoundedSemaphore(frames_at_once)

    def __call__(self, image: ImageInput) -> np.ndarray:
        """Predict an image.

        Args:
            image: the path of an image file, a PIL image of any mode, or an array of uint8: HxWx3 (RGB) or HxW
                (gray). A file is turned upright by its EXIF orientation.

        Returns:
            HxW uint8 at the image's own size: the recipe's class id of each pixel.

        Raises:
            UserError: the image is none of these or cannot be read, or the network fails, for example because the
                image is too large for the memory.
        """
        return self.class_ids[self.predict_channels(image)]

    def predict_channels(self, image: ImageInput) -> np.ndarray:
        """Predict an image as the network's channels; arguments and errors as in `__call__`.

        Returns:
            HxW uint8 at the image's own size: the network's channel of each pixel, an index into `card.classes`.
        """
        frame = as_frame(image)
        try:
            seen = frame if isinstance(self.size, str) else resize_image(frame, self.size)
            pixels = np.asarray(seen)
            with self.free_slots:
                return self.channels(pixels, frame.size[::-1])
        except UserError:
            raise
        except Exception as error:  # engines raise errors of their own types, as does a lack of memory
            raise UserError(f"{self.name} fails at {format_size(frame.size)} ({reason(error)})") from error

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"

    @abstractmethod
    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network: what a subclass implements, without checks and resizing.

        Args:
            pixels: HxWx3 uint8, RGB, at the size that the network sees.
            size: (height, width) of the result.

        Returns:
            height x width uint8: the network's channel of each pixel.
        """


def as_frame(image: ImageInput) -> Image.Image:
    """An image as RGB, from any of what an engine takes; see `Engine.__call__`.

    Raises:
        UserError: it is something else, or cannot be read.

    Example:
        >>> as_frame(np.zeros((48, 64), np.uint8)).size
        (64, 48)
    """
    if isinstance(image, str | os.PathLike):
        return open_image(Path(image))
    if isinstance(image, Image.Image):
        # Of an image that was read from a file, Pillow knows the depth.
        if image.mode == "I" and not image.format and np.asarray(image).max(initial=0) < 256:
            raise UserError(
                "an image of mode I and values below 256: is its white 255 or 65535? Convert it to L or I;16"
            )
        try:
            return to_rgb(image)
        except Exception as error:  # Pillow reads a file only now, and raises a dozen types at damaged ones
            raise UserError(f"this image cannot be converted to RGB ({reason(error)})") from None
    given = type(image).__name__
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.size and (image.ndim == 2 or image.shape[2:] == (3,)):
            return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
        given = f"an array of {image.dtype} of shape {image.shape}"
    raise UserError(
        "an engine takes the path of an image, a PIL image, or a uint8 array of shape HxWx3 (RGB) or HxW (gray), "
        f"not {given}"
    )


def check_interface(inputs: Iterable[str], outputs: int, file: Path) -> None:
    """Raise UserError unless a graph has the inputs `image` and `size` and one output."""
    if (sorted(inputs), outputs) != (sorted((IMAGE, SIZE)), 1):
        raise UserError(
            f"{file}: the inputs and outputs of its graph are not those of linknet-fastai export; export it again"
        )


def checked_mask(mask: np.ndarray, size: tuple[int, int], card: ModelCard, file: Path) -> np.ndarray:
    """Check what a graph returned for a frame: a file with our metadata may contain a different network.

    Args:
        mask: 1xHxW uint8.
        size: the requested (height, width).
        card: the file's card.
        file: for the message.

    Returns:
        HxW uint8: the network's channel of each pixel.

    Raises:
        UserError: another shape or type, or channels without a class in the card.
    """
    if mask.shape != (1, *size) or mask.dtype != np.uint8:
        raise UserError(f"{file}: its graph returns {mask.dtype} {mask.shape}, not a class map of the frame's size")
    if mask.max(initial=0) >= len(card.classes):
        raise UserError(f"{file}: its graph returns classes beyond the {len(card.classes)} of its metadata")
    return mask[0]


def frame_threads(engine: Engine) -> int:
    """How many threads keep an engine busy while some of them read and write."""
    return min(max(usable_cores(), engine.frames_at_once + 1), MAX_THREADS)


def predict_file(engine: Engine, file: Path) -> tuple[Image.Image, np.ndarray]:
    """Read an image and predict it.

    Returns:
        The RGB frame, and HxW uint8: the network's channel of each pixel.

    Raises:
        UserError: it cannot be read or predicted; the message names the file.
    """
    frame = open_image(file)
    try:
        return frame, engine.predict_channels(frame)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error.__cause__
