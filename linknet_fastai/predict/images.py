"""From images to masks and overlays, whichever engine runs the network. Imports no torch: not all of them do."""

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

# What no other frame's mask could be written after either: a file where a folder should be, no right, no room.
HOPELESS = frozenset({errno.ENOTDIR, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


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
        opacity: of the overlays' colors, 0 to 1.

    Returns:
        A line for each image that could not be read, predicted or written; the others are done.

    Raises:
        UserError: nothing can be written there: no such folder can be made, or the disk is full.
    """

    def predict(job: Job) -> None:
        frame, channels = predict_file(engine, job.image)
        ids = (engine.class_ids if ids_of_channels is None else ids_of_channels)[channels]
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
    for done, failure in enumerate(map_in_threads(failure_of, jobs, frame_threads(engine)), 1):
        if failure:
            failures.append(failure)
        if progress:
            progress("predicting", done, len(jobs))
    return failures
