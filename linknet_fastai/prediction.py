"""From frames to masks and overlays, whichever engine runs the network. Imports no torch: not all of them do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from linknet_fastai.dataset import Progress
from linknet_fastai.errors import UsageError, UserError
from linknet_fastai.files import written_whole
from linknet_fastai.image_files import open_image, resize_image
from linknet_fastai.model_card import ModelCard
from linknet_fastai.threads import MOST_THREADS, overlapped, usable_cores

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
NATIVE = "native"


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

    name: ClassVar[str]
    tta = False

    def __init__(
        self, card: ModelCard, precision: str, size: tuple[int, int] | str | None = None, frames_at_once: int = 1
    ) -> None:
        self.card, self.precision, self.frames_at_once = card, precision, frames_at_once
        self.size = card.size if size is None else size
        self._free = BoundedSemaphore(frames_at_once)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Predict a frame.

        Args:
            image: an RGB frame.

        Returns:
            HxW uint8 at the frame's own size: the network's channel of each pixel.
        """
        seen = image if self.size == NATIVE else resize_image(image, self.size)
        pixels = np.asarray(seen)
        with self._free:
            return self.channels(pixels, image.size[::-1])

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
    return min(max(usable_cores(), engine.frames_at_once + 1), MOST_THREADS)


def id_mask(channels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Turn channels (HxW uint8, 255 for void) into the recipe's class ids (HxW uint8)."""
    ids = np.full(256, card.void.id, np.uint8)
    ids[: len(card.classes)] = [entry.id for entry in card.classes]
    return ids[channels]


def colour_mask(channels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Turn channels (HxW uint8, 255 for void) into the recipe's colours (HxWx3 uint8)."""
    colours = np.full((256, 3), card.void.color, np.uint8)
    colours[: len(card.classes)] = [entry.color for entry in card.classes]
    return colours[channels]


def overlay(
    image: Image.Image,
    channels: np.ndarray,
    card: ModelCard,
    opacity: float = 0.5,
    shown: Collection[int] | None = None,
) -> Image.Image:
    """Lay the classes' colours over a frame.

    Where two classes meet the colour is twice as strong: poles and signs, which are little but border, stand out.

    Args:
        image: RGB, of the class map's size.
        channels: HxW uint8, 255 for void, which stays clear.
        card: the model's card, for the colours.
        opacity: of the colours, 0 to 1.
        shown: the channels that are coloured; None is all.
    """
    strength = np.zeros(256, np.uint8)
    strength[list(range(len(card.classes)) if shown is None else shown)] = round(255 * opacity)
    border = np.zeros(channels.shape, bool)
    for here, beyond in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = channels[here] != channels[beyond]
        border[here] |= differs
        border[beyond] |= differs
    alpha = strength[channels]
    alpha[border] = np.minimum(2 * alpha[border].astype(np.uint16), 255)
    return Image.composite(Image.fromarray(colour_mask(channels, card)), image, Image.fromarray(alpha))


def legend(card: ModelCard) -> Image.Image:
    """Draw the classes' colours and names, a row each, void last: what overlays are read with."""
    entries = [*((entry.color, entry.name) for entry in card.classes), (card.void.color, "void, left clear")]
    font, row = ImageFont.load_default(16), 26
    width = 60 + max(round(font.getlength(name)) for _, name in entries)
    drawn = Image.new("RGB", (width, row * len(entries) + 10), "white")
    pen = ImageDraw.Draw(drawn)
    for place, (color, name) in enumerate(entries):
        top = 8 + row * place
        pen.rectangle((10, top, 34, top + 18), tuple(color), outline="black")
        pen.text((46, top + 9), name, "black", font, anchor="lm")
    return drawn


@dataclass(frozen=True)
class Job:
    """An image to predict, and where its mask and overlay go, relative to `masks/` and `overlays/`."""

    image: Path
    target: Path


def mask_name(image: Path) -> str:
    """The name of the mask of an image: its own, as a PNG."""
    return f"{image.stem}.png"


def collect_jobs(inputs: Sequence[Path], out: Path, name_of: Callable[[Path], str] = mask_name) -> list[Job]:
    """Find the images behind files and folders; the sub-folders of a folder are mirrored.

    Args:
        inputs: images and folders of images.
        out: the folder to predict into.
        name_of: gives the name of an image's mask.

    What an earlier prediction left in `out` is no input, also where `out` lies inside a folder of images.

    Raises:
        UsageError: nothing to do, or two inputs that would write one file.
        UserError: an input is missing.
    """
    jobs: dict[Path, Job] = {}
    written = {(out / name).resolve() for name in ("masks", "overlays")}
    for source in inputs:
        if source.is_dir():
            images = [path for path in images_in(source) if not written & {*path.resolve().parents}]
            found = [Job(path, path.relative_to(source).with_name(name_of(path))) for path in images]
        elif source.is_file():
            found = [Job(source, Path(name_of(source)))]
        else:
            raise UserError(f"{source}: no such file or folder")
        for job in found:
            if job.target in jobs:
                raise UsageError(
                    f"{jobs[job.target].image} and {job.image} would both write {job.target}; predict them apart"
                )
            jobs[job.target] = job
    if not jobs:
        raise _no_images(*inputs)
    return list(jobs.values())


def find_images(folder: Path) -> list[Path]:
    """All images in a folder and its sub-folders, in the order of their names.

    Raises:
        UserError: there is no such folder.
        UsageError: there are no images in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    if images := images_in(folder):
        return images
    raise _no_images(folder)


def images_in(folder: Path) -> list[Path]:
    """All images in a folder and its sub-folders, in the order of their names; none is no error."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _no_images(*inputs: Path) -> UsageError:
    return UsageError(f"{', '.join(map(str, inputs))}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")


def predict_images(
    engine: Engine,
    jobs: Sequence[Job],
    out: Path,
    masks_only: bool = False,
    progress: Progress | None = None,
    ids_of_channels: np.ndarray | None = None,
    opacity: float = 0.5,
) -> list[str]:
    """Write `out/masks/STEM.png` and `out/overlays/STEM.png` for each job.

    A mask has one channel at the frame's own size. Each frame is read, predicted and written in one thread while
    other threads are at other frames.

    Args:
        engine: the model.
        jobs: what to predict, see `collect_jobs`.
        out: the folder to write into.
        masks_only: whether to leave out the overlays.
        progress: told how far it is.
        ids_of_channels: what masks hold for each channel of the network, C uint8; by default the recipe's class ids.
        opacity: of the overlays' colours, 0 to 1.

    Returns:
        A line for each image that could not be read; the others are done.
    """

    def predict(job: Job) -> str | None:
        try:
            frame = open_image(job.image)
        except UserError as error:
            return str(error)
        channels = engine(frame)
        ids = id_mask(channels, engine.card) if ids_of_channels is None else ids_of_channels[channels]
        save_image(Image.fromarray(ids), out / "masks" / job.target)
        if not masks_only:
            save_image(overlay(frame, channels, engine.card, opacity), out / "overlays" / job.target)
        return None

    failures = []
    for done, failure in enumerate(overlapped(predict, jobs, frame_threads(engine)), 1):
        if failure:
            failures.append(failure)
        if progress:
            progress("predicting", done, len(jobs))
    return failures


def save_image(image: Image.Image, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    with written_whole(file) as partial:
        image.save(partial, format="PNG", compress_level=1)
