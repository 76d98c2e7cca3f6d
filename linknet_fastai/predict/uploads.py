"""Predicts what is uploaded to the page of `serve`, within limits, and counts pixels and time."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import open_image, resize_image, resize_labels
from linknet_fastai.engines.engine import Engine

SHOWN_SIDE = 1600  # the longer side, in pixels, of images on the page
CLIP_FPS = 30  # frames per second; more are dropped


@dataclass(frozen=True)
class Limits:
    """Limits of uploads: the size of a file, the pixels of a frame, the length of a clip.

    Example:
        >>> print(Limits(mebibytes=64, megapixels=25, seconds=30))
        An image or a clip of up to 25 million pixels and 64 MiB, a clip of up to 30 seconds
    """

    mebibytes: int
    megapixels: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"An image or a clip of up to {self.megapixels:g} million pixels and {self.mebibytes} MiB, "
            f"a clip of up to {self.seconds:g} seconds"
        )


class CountingEngine(Engine):
    """An engine that counts: frames, the pixels of each class, the seconds in the network.

    Args:
        engine: runs the network. All counting engines of it share its limit of frames at once.
        closed: when set, no further frame is predicted.
        max_frames: a further frame raises an error.

    Attributes:
        frames: how many frames were predicted.
        pixels: how many pixels each class has in them, C int64.
        seconds: the time in the network.
    """

    def __init__(self, engine: Engine, closed: Event, max_frames: float = math.inf) -> None:
        super().__init__(engine.card, engine.precision, engine.size, engine.frames_at_once)
        self.name = engine.name
        self._engine, self.free_slots, self._closed, self._lock = engine, engine.free_slots, closed, Lock()
        self.max_frames, self.frames, self.seconds = max_frames, 0, 0.0
        self.pixels = np.zeros(len(engine.card.classes), np.int64)

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`.

        Raises:
            UserError: the page was closed, there were too many frames, or the network fails.
        """
        if self._closed.is_set():
            raise UserError("the page was closed")
        if self.frames >= self.max_frames:
            raise UserError(f"the clip has more than {self.max_frames} frames")
        started = time.perf_counter()
        try:
            channels = self._engine.channels(pixels, size)
        except Exception:  # its message may name the file of the model, which the page must not show
            raise UserError("the network fails on this frame: linknet-fastai predict shows the reason") from None
        seconds = time.perf_counter() - started
        with self._lock:
            self.frames += 1
            self.seconds += seconds
            self.pixels += Image.fromarray(channels).histogram()[: len(self.pixels)]
        return channels

    @property
    def shares(self) -> np.ndarray:
        """The share of each class in all pixels of all frames, C floats."""
        return self.pixels / self.pixels.sum()

    @property
    def milliseconds(self) -> float:
        """The mean time of a frame in the network, without reading, resizing and drawing."""
        return 1000 * self.seconds / self.frames


def predict_image(engine: Engine, file: Path, limits: Limits) -> tuple[Image.Image, np.ndarray, tuple[int, int]]:
    """Predict an image.

    Args:
        engine: the model.
        file: the image.
        limits: limits of the file.

    Returns:
        The RGB image and its channels (HxW uint8), resized to at most `SHOWN_SIDE`; the original (width, height).

    Raises:
        UserError: the file is not an image, or too large.

    Example:
        ::

            image, channels, size = predict_image(engine, Path("frame.png"), Limits(64, 25, 30))
    """
    image = open_image(file, limits.megapixels * 1e6)
    channels = engine.predict_channels(image)
    scale = min(SHOWN_SIDE / max(image.size), 1)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return resize_image(image, (width, height)), resize_labels(channels, (width, height)), image.size


def check_clip(file: Path, limits: Limits) -> None:
    """Raise UserError unless a file is a video whose frames are not too large and that is not too long.

    Example:
        ::

            check_clip(Path("drive.mp4"), Limits(64, 25, 30))
            predict_video(engine, Path("drive.mp4"), Path("overlay.mp4"), fps=CLIP_FPS)
    """
    from linknet_fastai.predict.frames import open_container  # needs an extra

    with open_container(file) as container:
        for video in container.streams.video[:1]:
            size = f"{video.width}x{video.height}"
            if video.width * video.height > limits.megapixels * 1e6:
                raise UserError(f"{file}: {size} is more than {limits.megapixels:g} million pixels")
        if (container.duration or 0) > limits.seconds * 1e6:
            raise UserError(f"{file}: {container.duration / 1e6:.1f} seconds are more than {limits.seconds:g}")
