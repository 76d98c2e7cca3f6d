"""evaluation-SPLIT.npz: the confusion matrix of each frame, from which `compare` says whether networks differ."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from linknet_fastai.config.classes import MAX_CLASSES
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import atomic_write
from linknet_fastai.runs.compare import RunSummary, comparable_evaluation
from linknet_fastai.scoring.intervals import Difference, FrameCounts, compared

LARGEST = 1 << 30  # bytes, unpacked


def write_frame_counts(frames: FrameCounts, file: Path) -> None:
    """Write the confusion matrix of each frame: `names`, `groups`, `word`, and the parts of SciPy's `csr_array`.

    Raises:
        UserError: the file cannot be written.
    """
    counts = frames.counts
    with atomic_write(file) as partial, partial.open("wb") as opened:
        np.savez_compressed(
            opened,
            names=np.array(frames.names, str),
            groups=np.array([group or "" for group in frames.groups], str),
            word=np.array(frames.word),
            data=counts.data,
            indices=counts.indices,
            indptr=counts.indptr,
            n_classes=np.array(frames.n_classes),
        )


def read_frame_counts(file: Path) -> FrameCounts:
    """Read what `write_frame_counts` wrote.

    Raises:
        UserError: the file is missing or damaged.

    Example:
        ::

            frames = read_frame_counts(Path("runs/camvid/evaluation-val.npz"))
            frames.counts[[0]].toarray().reshape(frames.n_classes, frames.n_classes)  # of frames.names[0]
    """
    try:
        with zipfile.ZipFile(file) as packed:
            if sum(part.file_size for part in packed.infolist()) > LARGEST:
                raise ValueError(f"more than {LARGEST >> 20} MiB")
        with np.load(file) as arrays:
            names, groups = arrays["names"].tolist(), arrays["groups"].tolist()
            n_classes = int(arrays["n_classes"])
            if not (0 < n_classes <= MAX_CLASSES and len(names) == len(groups) == len({*names})):
                raise ValueError("its parts do not fit together")
            parts = tuple(arrays[name] for name in ("data", "indices", "indptr"))
            counts = csr_array(parts, shape=(len(names), n_classes**2))
            counts.check_format(full_check=True)
            if counts.dtype.kind != "i" or (counts.nnz and counts.min() < 0):
                raise ValueError("its counts are no counts")
            return FrameCounts(names, [group or None for group in groups], counts, str(arrays["word"]))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None


@dataclass(frozen=True)
class RunDifference:
    """How far two runs differ on a split that both were evaluated on.

    Attributes:
        split: the split.
        first: which of the runs, from 0.
        second: the other.
        found: the difference of their mIoU.
    """

    split: str
    first: int
    second: int
    found: Difference


def differences(runs: Sequence[RunSummary]) -> tuple[list[RunDifference], list[str]]:
    """Compare the best weights of each two runs on the frames that both were evaluated on.

    Returns:
        The differences, and a line for each evaluation of an earlier version, which has no matrices of frames.

    Raises:
        UserError: an `evaluation-SPLIT.npz` is damaged.

    Example:
        ::

            found, notes = differences([summarize(Path("runs/a")), summarize(Path("runs/b"))])
            print(found[0].found.interval, found[0].found.told_apart)
    """
    found, notes = [], []
    for split in dict.fromkeys(scores["split"] for run in runs for scores in run.evaluations):
        evaluated = [
            (place, scores) for place, run in enumerate(runs) if (scores := comparable_evaluation(run, split))
        ]
        if len(evaluated) < 2:
            continue
        counts: dict[int, tuple[Any, FrameCounts]] = {}
        for place, scores in evaluated:
            if frames := _frames_of(scores):
                counts[place] = (runs[place].recipe, [row["name"] for row in scores["classes"]]), frames
            else:
                file = scores["file"]
                notes.append(
                    f"{file.with_suffix('.npz')}: missing, or of another evaluation; evaluate again to compare: "
                    f"linknet-fastai evaluate {file.parent} --split {split} --json {file}"
                )
        for (first, (data, frames)), (second, (other_data, others)) in combinations(counts.items(), 2):
            if data == other_data and (difference := compared(frames, others)):
                found.append(RunDifference(split, first, second, difference))
    return found, list(dict.fromkeys(notes))


def _frames_of(scores: dict[str, Any]) -> FrameCounts | None:
    """The matrices next to an evaluation's JSON; None if there are none, or they are not those of its frames."""
    file = scores["file"].with_suffix(".npz")
    if not file.is_file():
        return None
    frames = read_frame_counts(file)
    return frames if frames.scores().counts.tolist() == scores["confusion"] else None
