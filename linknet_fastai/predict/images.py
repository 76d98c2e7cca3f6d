"""Writes masks and overlays of images, with any engine. Imports no torch: not every engine needs it."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.images import VOID, save_image
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.engines.engine import Engine, frame_threads, predict_file, predict_file_with_confidence
from linknet_fastai.predict.inputs import Job
from linknet_fastai.predict.overlay import id_palette, overlay

# Errors of the folder or disk, after which no other mask could be written either.
FATAL = frozenset({errno.ENOTDIR, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


def predict_images(
    engine: Engine,
    jobs: Sequence[Job],
    out: Path,
    masks_only: bool = False,
    progress: Progress | None = None,
    ids_of_channels: np.ndarray | None = None,
    opacity: float = 0.5,
    confidence: bool = False,
    below: float | None = None,
    palette: bool = False,
    uncertainties: dict[Path, float] | None = None,
) -> list[str]:
    """Write `out/masks/STEM.png` and `out/overlays/STEM.png` for each job, with `confidence` a third file.

    A mask has one channel and the size of its frame. Frames are read, predicted and written in parallel threads.

    Args:
        engine: the model.
        jobs: the images, see `collect_jobs`.
        out: the folder to write into.
        masks_only: whether to write no overlays.
        progress: called with what is done, the number of frames done and the number of all.
        ids_of_channels: the value in the masks for each channel of the network, C uint8; by default the recipe's
            class ids.
        opacity: opacity of the colors in overlays, 0 to 1.
        confidence: whether to write `out/confidence/STEM.png` as well: one channel, the probability of the class
            that was predicted, times 255.
        below: pixels with a lower confidence than this, 0 to 1, become void in masks and overlays; None keeps all.
        palette: whether masks get a palette of the classes' colors, for viewing; their values stay the class ids.
        uncertainties: see `predict_each`.

    Returns:
        A message for each image that could not be read, predicted or written; the others are done.

    Raises:
        UserError: nothing can be written into `out`: the folder cannot be made, or the disk is full.

    Example:
        ::

            engine = open_engine(Path("runs/camvid"))
            failures = predict_images(engine, collect_jobs([Path("drive")], Path("out")), Path("out"))
    """
    ids = np.full(256, engine.card.void.id, np.uint8)
    ids[: len(engine.class_ids)] = engine.class_ids if ids_of_channels is None else ids_of_channels

    def write(job: Job, frame: Image.Image, channels: np.ndarray, certain: np.ndarray | None) -> None:
        if certain is not None:
            if confidence:
                save_image(Image.fromarray(certain), out / "confidence" / job.target)
            channels = without_uncertain(channels, certain, below)
        mask = Image.fromarray(ids[channels])
        if palette:
            mask.putpalette(id_palette(engine.card))
        save_image(mask, out / "masks" / job.target)
        if not masks_only:
            save_image(overlay(frame, channels, engine.card, opacity), out / "overlays" / job.target)

    return predict_each(engine, jobs, out, write, confidence or below is not None, progress, uncertainties)


def predict_each(
    engine: Engine,
    jobs: Sequence[Job],
    out: Path,
    write: Callable[[Job, Image.Image, np.ndarray, np.ndarray | None], None],
    with_confidence: bool = False,
    progress: Progress | None = None,
    uncertainties: dict[Path, float] | None = None,
) -> list[str]:
    """Predict images in parallel threads, and give each prediction to a function that writes it.

    Args:
        engine: the model.
        jobs: the images.
        out: the folder that is written into.
        write: called in the threads with the job, its RGB frame, the network's channels (HxW uint8), and their
            confidence (HxW uint8), which is None without `with_confidence` and `uncertainties`.
        with_confidence: whether the engine has to give a confidence.
        progress: called with what is done, the number of frames done and the number of all.
        uncertainties: filled in with 1 minus the mean confidence of each image that was predicted, by its file.

    Returns:
        A message for each image that could not be read, predicted or written; the others are done.

    Raises:
        UserError: nothing can be written into `out`, or the engine gives no confidence.
    """
    with_confidence = with_confidence or uncertainties is not None
    if with_confidence:
        engine.require_confidence()

    def failure_of(job: Job) -> str | None:
        try:
            if with_confidence:
                frame, (channels, certain) = predict_file_with_confidence(engine, job.image)
                write(job, frame, channels, certain)
                if uncertainties is not None:
                    uncertainties[job.image] = 1 - float(certain.mean()) / 255
            else:
                write(job, *predict_file(engine, job.image), None)
        except UserError as error:
            number = getattr(error.__cause__, "errno", None)
            # A missing right is fatal only for the folder: Windows reports it also for a file that is open elsewhere.
            if number in FATAL or (number in (errno.EACCES, errno.EPERM) and not os.access(out, os.W_OK)):
                raise
            return str(error)
        except Exception as error:  # such as MemoryError: the other frames may succeed
            return f"{job.image}: {type(error).__name__} ({reason(error)})"
        return None

    failures = []
    for done, failure in enumerate(map_in_threads(failure_of, jobs, frame_threads(engine)), 1):
        if failure:
            failures.append(failure)
        if progress:
            progress("predicting", done, len(jobs))
    return failures


def without_uncertain(channels: np.ndarray, confidence: np.ndarray, below: float | None) -> np.ndarray:
    """Make pixels void whose confidence is too low.

    Args:
        channels: HxW uint8.
        confidence: HxW uint8, a probability times 255.
        below: the lowest probability that is kept, 0 to 1; None keeps all.

    Returns:
        HxW uint8, 255 for void.

    Example:
        >>> without_uncertain(np.uint8([[3, 4]]), np.uint8([[255, 127]]), 0.5).tolist()
        [[3, 255]]
    """
    return channels if below is None else np.where(confidence < 255 * below, VOID, channels).astype(np.uint8)
