"""What becomes of what is dropped on the page of `serve`: read within limits, predicted, counted. No Gradio here."""

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import open_image, resize_image, resize_labels
from linknet_fastai.core.parallel import Progress
from linknet_fastai.engines.engine import Engine
from linknet_fastai.predict.video import VideoResult, open_container, predict_video

SHOWN_SIDE = 1600  # the longer side, in pixels, of what a page shows and a session remembers
CLIP_FPS = 30  # of more frames a second the others are dropped


@dataclass(frozen=True)
class Limits:
    """What may be dropped: the size of a file, the pixels of a frame, the length of a clip."""

    mebibytes: int
    megapixels: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"An image or a clip of up to {self.megapixels:g} million pixels and {self.mebibytes} MiB, "
            f"a clip of up to {self.seconds:g} seconds"
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """What a session remembers of its last image: RGB, and channels (HxW uint8), at the size of the page."""

    image: Image.Image
    channels: np.ndarray


class Tally(Engine):
    """An engine that counts: frames, the pixels of each class, the seconds in the network.

    Args:
        engine: what predicts; its tallies together take no more frames at once than it does.
        ended: when set, no further frame is predicted.
        most_frames: more are an error.
    """

    def __init__(self, engine: Engine, ended: Event, most_frames: float = math.inf) -> None:
        super().__init__(engine.card, engine.precision, engine.size, engine.frames_at_once)
        self.name = engine.name
        self._engine, self._free, self._ended, self._lock = engine, engine._free, ended, Lock()
        self.most_frames, self.frames, self.seconds = most_frames, 0, 0.0
        self.pixels = np.zeros(len(engine.card.classes), np.int64)

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`.

        Raises:
            UserError: the page was closed, these are too many frames, or the network fails.
        """
        if self._ended.is_set():
            raise UserError("the page was closed")
        if self.frames >= self.most_frames:
            raise UserError(f"the clip has more than {self.most_frames} frames")
        begin = time.perf_counter()
        try:
            channels = self._engine.channels(pixels, size)
        except Exception:  # may name the model's file, which is nothing for a page
            raise UserError("the network fails on this frame: linknet-fastai predict says why") from None
        seconds = time.perf_counter() - begin
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
        """What a frame took in the network: from pixels to channels, without reading, resizing and drawing."""
        return 1000 * self.seconds / self.frames


def predict_image(engine: Engine, file: Path, limits: Limits) -> tuple[Seen, tuple[int, int]]:
    """Predict an image.

    Returns:
        What a session remembers, no larger than the page shows; the image's own (width, height).

    Raises:
        UserError: the file is no image, or too large.
    """
    image = open_image(file, limits.megapixels * 1e6)
    channels = engine.predict_channels(image)
    scale = min(SHOWN_SIDE / max(image.size), 1)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return Seen(resize_image(image, (width, height)), resize_labels(channels, (width, height))), image.size


def predict_clip(
    engine: Engine,
    file: Path,
    overlay: Path,
    limits: Limits,
    opacity: float,
    shown: Collection[int],
    progress: Progress | None = None,
) -> VideoResult:
    """Write the overlay video of a clip; see `predict_video`.

    Raises:
        UserError: the file is no clip, or too large or long.
    """
    with open_container(str(file), str(file)) as container:
        for video in container.streams.video[:1]:
            if video.width * video.height > limits.megapixels * 1e6:
                raise UserError(
                    f"{file}: {video.width}x{video.height} is more than {limits.megapixels:g} million pixels"
                )
        if (container.duration or 0) > limits.seconds * 1e6:
            raise UserError(f"{file}: {container.duration / 1e6:.1f} seconds are more than {limits.seconds:g}")
    return predict_video(engine, file, overlay, opacity, CLIP_FPS, progress, shown)
