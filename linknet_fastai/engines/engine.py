"""What all engines share: an image in, its mask out. Imports no torch."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypeVar

import numpy as np
from PIL import Image

from linknet_fastai.config.size import fitted_size, format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.images import open_image, resize_image, to_rgb
from linknet_fastai.core.parallel import MAX_THREADS, usable_cores
from linknet_fastai.model.card import ModelCard

NATIVE = "native"  # as a size: each frame's own
# The inputs of an exported graph, its output, and the node that resizes the logits to the size of the frame.
IMAGE, SIZE, MASK, RESAMPLED = "image", "size", "mask", "linknet/resampled"
# Its second output. The nodes that only it needs have names that begin with this and a slash: an engine removes them
# where no confidence is asked for.
CONFIDENCE = "confidence"

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray
Result = TypeVar("Result")
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
        has_confidence: whether it gives a confidence; a file that an earlier version exported does not.
    """

    name: str
    tta = False
    has_confidence = False

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
        return self._predict(image, self.channels)

    def predict_with_confidence(self, image: ImageInput) -> tuple[np.ndarray, np.ndarray]:
        """Predict an image as the network's channels, and how certain the network is; arguments as in `__call__`.

        Returns:
            HxW uint8 as from `predict_channels`, and HxW uint8: the probability of that channel times 255, from a
            softmax of the logits divided by the temperature of the card. 255 is certain.

        Raises:
            UserError: as in `__call__`; this engine gives no confidence.

        Example::

            channels, confidence = engine.predict_with_confidence("frame.png")
            channels[confidence < 0.6 * 255] = 255  # void
        """
        self.require_confidence()
        return self._predict(image, self.channels_and_confidence)

    def require_confidence(self) -> None:
        """Raise UserError unless this engine gives a confidence."""
        if not self.has_confidence:
            raise self._no_confidence()

    def _no_confidence(self) -> UserError:
        return UserError(
            f"this model gives {self.name} no confidence: an earlier version exported it; export it again with "
            "linknet-fastai export"
        )

    def _predict(self, image: ImageInput, run: Callable[[np.ndarray, tuple[int, int]], Result]) -> Result:
        frame = as_frame(image)
        try:
            pixels = self.seen(frame)
            with self.free_slots:
                return run(pixels, frame.size[::-1])
        except UserError:
            raise
        except Exception as error:  # engines raise errors of their own types, as does a lack of memory
            raise UserError(f"{self.name} fails at {format_size(frame.size)} ({reason(error)})") from error

    def seen(self, frame: Image.Image) -> np.ndarray:
        """What the network sees of an RGB frame, HxWx3 uint8: a card that pads frames keeps their aspect ratio.

        Nothing is padded here: the network takes any size.
        """
        if isinstance(self.size, str):
            return np.asarray(frame)
        return np.asarray(resize_image(frame, fitted_size(frame.size, self.size, self.card.fit)))

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

    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Run the network; arguments as in `channels`. A subclass with `has_confidence` overrides it.

        Returns:
            height x width uint8: the network's channel of each pixel, as from `channels`; the same shape and type:
            its probability times 255.

        Raises:
            UserError: this engine gives no confidence.
        """
        raise self._no_confidence()


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


def check_interface(inputs: Sequence[str], outputs: Sequence[str], file: Path) -> bool:
    """Whether a graph has the output `confidence`.

    Raises:
        UserError: its inputs are not `image` and `size`, or its outputs neither `mask` nor `mask` and `confidence`.
    """
    if sorted(inputs) != [IMAGE, SIZE] or list(outputs) not in ([MASK], [MASK, CONFIDENCE]):
        raise UserError(
            f"{file}: the inputs and outputs of its graph are not those of linknet-fastai export --interface frame; "
            "export it again"
        )
    return CONFIDENCE in outputs


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


def checked_confidence(confidence: np.ndarray, size: tuple[int, int], file: Path) -> np.ndarray:
    """Check the confidence that a graph returned for a frame, as `checked_mask` checks the mask.

    Args:
        confidence: 1xHxW uint8.
        size: the requested (height, width).
        file: for the message.

    Returns:
        HxW uint8.

    Raises:
        UserError: another shape or type.
    """
    if confidence.shape != (1, *size) or confidence.dtype != np.uint8:
        raise UserError(f"{file}: its graph returns {confidence.dtype} {confidence.shape}, not a confidence map")
    return confidence[0]


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
    return _predicted(engine.predict_channels, file)


def predict_file_with_confidence(engine: Engine, file: Path) -> tuple[Image.Image, tuple[np.ndarray, np.ndarray]]:
    """Read an image and predict it, as `predict_file`.

    Returns:
        The RGB frame, and what `Engine.predict_with_confidence` returns.

    Raises:
        UserError: it cannot be read or predicted; the message names the file.
    """
    return _predicted(engine.predict_with_confidence, file)


def _predicted(predict: Callable[[Image.Image], Result], file: Path) -> tuple[Image.Image, Result]:
    frame = open_image(file)
    try:
        return frame, predict(frame)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error.__cause__
