"""The matrices of frames in a run folder: written, read, and refused when they are damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UserError
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model
from linknet_fastai.runs.compare import summarize
from linknet_fastai.runs.folder import write_run
from linknet_fastai.runs.frame_counts import differences, read_frame_counts, write_frame_counts
from linknet_fastai.runs.metrics import write_metrics
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


@pytest.fixture
def runs(street_data: Path, tmp_path: Path) -> list[Path]:
    """The folders of two runs, each with an untrained network of its own."""
    settings = Settings.model_validate({"size": "64x48"})
    record = {"recipe": "street", "data": str(street_data), "started": "today"}
    row = {"epoch": 1, "train_loss": 1.0, "valid_loss": 1.0, "miou": 0.1, "lr": 0.1, "seconds": 1.0}
    for seed, name in enumerate("ab"):
        write_run(tmp_path / name, settings, dict.fromkeys(Settings.model_fields, "default"), record)
        write_metrics(tmp_path / name, [row])
        torch.manual_seed(seed)
        network = LinkNet(11, encoder="test_resnet", pretrained=False)
        card = ModelCard.of(load_recipe("street"), (64, 48), encoder="test_resnet")
        save_model(network, card, tmp_path / name / "model.safetensors")
    return [tmp_path / name for name in "ab"]


def test_networks_are_compared_on_the_frames_that_both_were_evaluated_on(
    command: Callable[..., int], runs: list[Path], street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def evaluate(run: Path) -> None:
        line = ("evaluate", run, "--split", "train", "--device", "cpu", "--json", run / "evaluation-train.json")
        assert command(*line) == 0

    for run in runs:
        evaluate(run)
    (found,), notes = differences([summarize(run) for run in runs])
    first, second = (json.loads((run / "evaluation-train.json").read_text())["miou"] for run in runs)
    assert (found.split, notes) == ("train", [])
    assert found.found.miou == pytest.approx(first - second)
    capsys.readouterr()
    assert command("compare", *runs) == 0
    out = capsys.readouterr().out
    assert "1 less 2" in out
    assert "train: paired bootstrap over 8 blocks of consecutive frames, within these drives only" in out
    # Pixels of classes that the recipe alone has are a column of their own, though the names may be the model's.
    mapped = ("evaluate", runs[0], "street", "--data", street_data, "--split", "val", "--map", "Sky=Sky")
    assert command(*mapped, "--device", "cpu", "--json", runs[0] / "evaluation-val.json") == 0
    assert not (runs[0] / "evaluation-val.npz").exists()
    assert command("compare", *runs) == 0
    capsys.readouterr()
    # The run of an earlier version, and one whose scores are of another evaluation than its matrices.
    older, other = (shutil.copytree(runs[1], tmp_path / name) for name in ("older", "other"))
    (older / "evaluation-train.npz").unlink()
    shutil.copy(runs[0] / "evaluation-train.npz", other)
    for folder in (older, other):
        assert command("compare", runs[0], folder) == 0
        out, err = capsys.readouterr()
        assert "less" not in out
        assert f"evaluate {folder} --split train --json {folder / 'evaluation-train.json'}" in err
        evaluate(folder)
        capsys.readouterr()
        assert command("compare", runs[0], folder) == 0
        assert "1 less 2" in capsys.readouterr().out
