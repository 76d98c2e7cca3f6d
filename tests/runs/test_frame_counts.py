"""The matrices of frames in a run folder: written, read, and refused when they are damaged."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from linknet_fastai.core.errors import UserError
from linknet_fastai.runs.frame_counts import read_frame_counts, write_frame_counts
from linknet_fastai.scoring.intervals import FrameCounts

FRAMES = FrameCounts(["a/1.png", "a/2.png"], ["a", None], csr_array([[8, 2, 0, 9], [0, 0, 0, 1]]), "cities")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_frame_counts(FRAMES, tmp_path / "evaluation-val.npz")
    read = read_frame_counts(tmp_path / "evaluation-val.npz")
    assert (read.names, read.groups, read.word) == (FRAMES.names, FRAMES.groups, "cities")
    assert read.counts.toarray().tolist() == [[8, 2, 0, 9], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"n_classes": np.array(3000)},
        {"n_classes": np.array(1)},
        {"names": np.array(["a", "a"])},
        {"names": np.array(["a"])},
        {"data": np.array([1.5, 2, 3, 4])},
        {"data": np.array([-1, 2, 3, 4])},
        {"data": np.array([None], object)},
        {"indptr": np.array([0, 9, 9])},
    ],
)
def test_a_damaged_file_is_named(change: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_frame_counts(FRAMES, file := tmp_path / "evaluation-val.npz")
    with np.load(file) as arrays:
        content = {**arrays} | change
    np.savez(file, **content)
    with pytest.raises(UserError, match=r"evaluation-val\.npz: cannot be read"):
        read_frame_counts(file)


def test_a_file_that_is_cut_off_or_missing_is_named(tmp_path: Path) -> None:
    write_frame_counts(FRAMES, file := tmp_path / "evaluation-val.npz")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"evaluation-val\.npz: cannot be read"):
        read_frame_counts(file)
    with pytest.raises(UserError, match="no such file"):
        read_frame_counts(tmp_path / "other.npz")
