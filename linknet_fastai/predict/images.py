"""From frames to masks and overlays, whichever engine runs the network. Imports no torch: not all of them do."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import NoReturn

import numpy as np
from PIL import Image

from linknet_fastai.config.recipe import IMAGE_SUFFIXES
from linknet_fastai.config.settings import format_size
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.images import open_image, resize_image, save_image, saved_here
from linknet_fastai.core.parallel import MOST_THREADS, overlapped, usable_cores
from linknet_fastai.data.dataset import Progress
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.overlay import id_mask, overlay

NATIVE = "native"
LEGEND = "legend.png"
WRITTEN = ("masks", "overlays")  # the folders that a prediction writes into
# What no other frame's mask could be written after either: a file where a folder should be, no right, no room.
HOPELESS = frozenset({errno.ENOTDIR, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


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
        self._free = BoundedSemaphore(frames_at_once)

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
            with self._free:
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
    return min(max(usable_cores(), engine.frames_at_once + 1), MOST_THREADS)


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
        UsageError: nothing to do, two inputs that would write one file, or one that is there and no prediction.
        UserError: an input is missing, or cannot be looked into.
    """
    jobs: dict[Path, Job] = {}
    for source in inputs:
        if os.path.isdir(source):
            images = images_in(source, out)
            found = [Job(path, path.relative_to(source).with_name(name_of(path))) for path in images]
        elif os.path.isfile(source):
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
    for file in (out / folder / target for target in jobs for folder in WRITTEN):
        if os.path.lexists(file) and not saved_here(file):
            raise UsageError(f"{file}: is there already and was not predicted; it would be lost: take another --out")
    return list(jobs.values())


def find_images(folder: Path, out: Path | None = None) -> list[Path]:
    """All images in a folder and its sub-folders, in the order of their names, but for those predicted into `out`.

    Raises:
        UserError: there is no such folder.
        UsageError: there are no images in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images")
    if images := images_in(folder, out):
        return images
    raise _no_images(folder)


def images_in(folder: Path, out: Path | None = None) -> list[Path]:
    """All files in a folder and its sub-folders that are named like an image, see `files_in`.

    What cannot be read is said when it is read.
    """
    return files_in(folder, IMAGE_SUFFIXES, out)


def files_in(folder: Path, suffixes: Collection[str], out: Path | None = None) -> list[Path]:
    """All files with such a suffix in a folder and its sub-folders, in the order of their names; links are followed.

    Args:
        folder: where to look.
        suffixes: in small letters, as in ".png".
        out: what an earlier prediction into this folder has written is left out.

    Raises:
        UserError: a folder cannot be looked into.
    """
    found = sorted(path for path in _walk(folder) if path.suffix.lower() in suffixes)
    return found if out is None else _not_written(found, out)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder. A link to a folder is followed once, and not where it leads back up."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename}: cannot be looked into ({reason(error)})") from None

    followed = {os.path.realpath(folder)}
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        yield from (Path(here, name) for name in files)
        for name in list(folders):
            if os.path.islink(link := os.path.join(here, name)):
                target = os.path.realpath(link)
                if target in followed or Path(target) in Path(os.path.realpath(here)).parents:
                    folders.remove(name)
                followed.add(target)


def _not_written(paths: Iterable[Path], out: Path) -> list[Path]:
    """Those files that lie where no prediction into `out` writes."""
    base = out.resolve()
    folders = {(base / name).resolve() for name in WRITTEN}
    homes = ((path, path.parent.resolve()) for path in paths)  # not the file itself: it may be a link to nowhere
    return [
        path
        for path, home in homes
        if not (folders & {home, *home.parents} or (path.name == LEGEND and home == base))
    ]


def _no_images(*inputs: Path) -> UsageError:
    return UsageError(f"{', '.join(map(str, inputs))}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")


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
        A line for each image that could not be read, predicted or written; the others are done.

    Raises:
        UserError: nothing can be written there: no such folder can be made, or the disk is full.
    """

    def predict(job: Job) -> None:
        frame, channels = predict_file(engine, job.image)
        ids = id_mask(channels, engine.card) if ids_of_channels is None else ids_of_channels[channels]
        save_image(Image.fromarray(ids), out / "masks" / job.target)
        if not masks_only:
            save_image(overlay(frame, channels, engine.card, opacity), out / "overlays" / job.target)

    def failure_of(job: Job) -> str | None:
        try:
            predict(job)
        except UserError as error:
            number = getattr(error.__cause__, "errno", None)
            # No right to write there is hopeless too; but Windows says so of one file that a viewer has open.
            if number in HOPELESS or (number in (errno.EACCES, errno.EPERM) and not os.access(out, os.W_OK)):
                raise
            return str(error)
        except Exception as error:  # of memory, say: one frame's failure is none of the others'
            return f"{job.image}: {type(error).__name__} ({reason(error)})"
        return None

    failures = []
    for done, failure in enumerate(overlapped(failure_of, jobs, frame_threads(engine)), 1):
        if failure:
            failures.append(failure)
        if progress:
            progress("predicting", done, len(jobs))
    return failures
