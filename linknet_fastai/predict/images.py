"""Writes masks and overlays of images, with any engine. Imports no torch: not every engine needs it."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.images import save_image
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.engines.engine import Engine, frame_threads, predict_file
from linknet_fastai.predict.inputs import Job
from linknet_fastai.predict.overlay import overlay

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
) -> list[str]:
    """Write `out/masks/STEM.png` and `out/overlays/STEM.png` for each job.

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

    Returns:
        A message for each image that could not be read, predicted or written; the others are done.

    Raises:
        UserError: nothing can be written into `out`: the folder cannot be made, or the disk is full.

    Example:
        ::

            engine = open_engine(Path("runs/camvid"))
            failures = predict_images(engine, collect_jobs([Path("drive")], Path("out")), Path("out"))
    """
    ids = engine.class_ids if ids_of_channels is None else ids_of_channels

    def failure_of(job: Job) -> str | None:
        try:
            frame, channels = predict_file(engine, job.image)
            save_image(Image.fromarray(ids[channels]), out / "masks" / job.target)
            if not masks_only:
                save_image(overlay(frame, channels, engine.card, opacity), out / "overlays" / job.target)
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
