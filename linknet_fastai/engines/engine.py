"""What all engines have in common: one frame in, one class map out. Imports no torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
from PIL import Image

from linknet_fastai.config.settings import format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.images import open_image, resize_image
from linknet_fastai.core.parallel import MAX_THREADS, usable_cores
from linknet_fastai.model.card import ModelCard

NATIVE = "native"  # as a size: each frame's own
# The graph's inputs, its output, and the node that brings the logits to the frame's size.
IMAGE, SIZE, MASK, RESAMPLED = "image", "size", "mask", "linknet/resampled"


def check_interface(inputs: Iterable[str], outputs: int, file: Path) -> None:
    """Raise UserError unless a graph takes a frame and a size, and gives one thing."""
    if (sorted(inputs), outputs) != (sorted((IMAGE, SIZE)), 1):
        raise UserError(f"{file}: its graph takes no frame and size and gives no class map; was it exported here?")


def checked_mask(mask: np.ndarray, size: tuple[int, int], card: ModelCard, file: Path) -> np.ndarray:
    """Check what a graph gave for a frame: a file with our metadata may hold another's network.

    Args:
        mask: 1xHxW uint8.
        size: the (height, width) asked for.
        card: the file's card.
        file: for the message.

    Returns:
        HxW uint8, each the channel of a class.

    Raises:
        UserError: another shape or type, or classes that the card does not name.
    """
    if mask.shape != (1, *size) or mask.dtype != np.uint8:
        raise UserError(f"{file}: its graph gives {mask.dtype} {mask.shape}, no class map of the frame's size")
    if mask.max(initial=0) >= len(card.classes):
        raise UserError(f"{file}: its graph gives classes beyond the {len(card.classes)} of its metadata")
    return mask[0]


class Engine(ABC):
    """A network and what runs it; predicts one frame a call, from as many threads as `frames_at_once` says.

    Attributes:
        name: what `--engine` calls it.
        card: the model's card.
        precision: what it computes in: fp32, bf16, fp16 or int8.
        size: (width, height) that the network sees, or "native" for each frame's own.
        frames_at_once: how many frames it takes at a time; more calls wait.
        tta: whether it averages over flips and scales.
    """

    name: str
    tta = False

    def __init__(
        self, card: ModelCard, precision: str, size: tuple[int, int] | str | None = None, frames_at_once: int = 1
    ) -> None:
        self.card, self.precision, self.frames_at_once = card, precision, frames_at_once
        self.size = card.size if size is None else size
        self.free_slots = BoundedSemaphore(frames_at_once)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Predict a frame.

        Args:
            image: an RGB frame.

        Returns:
            HxW uint8 at the frame's own size: the network's channel of each pixel.

        Raises:
            UserError: the engine cannot: the frame is too large for this machine's memory, say.
        """
        try:
            seen = image if self.size == NATIVE else resize_image(image, self.size)
            pixels = np.asarray(seen)
            with self.free_slots:
                return self.channels(pixels, image.size[::-1])
        except UserError:
            raise
        except Exception as error:  # each engine, and the memory, has kinds of its own
            raise UserError(f"{self.name} fails at {format_size(image.size)} ({reason(error)})") from error

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"

    @abstractmethod
    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network.

        Args:
            pixels: HxWx3 uint8, RGB, at the size that the network sees.
            size: (height, width) of the class map.

        Returns:
            height x width, uint8: the network's channel of each pixel.
        """


def frame_threads(engine: Engine) -> int:
    """How many threads keep an engine busy while others of them read and write."""
    return min(max(usable_cores(), engine.frames_at_once + 1), MAX_THREADS)


def predict_file(engine: Engine, file: Path) -> tuple[Image.Image, np.ndarray]:
    """Read an image and predict it.

    Returns:
        The RGB frame, and HxW uint8: the network's channel of each pixel.

    Raises:
        UserError: it cannot be read or predicted; the message names it.
    """
    frame = open_image(file)
    try:
        return frame, engine(frame)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error.__cause__
