"""Cityscapes from training to what the official script and server take."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import write_cityscapes
from conftest import result_alone
from official_cityscapes import assert_same, official_scores
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.scoring.evaluate import evaluate, official_label_ids
from linknet_fastai.training import fit as training

SMALL = {"encoder": "test_resnet", "size": "96x48", "bs": 2, "workers": 0, "epochs": 1, "device": "cpu", "seed": 1}
SMALL["pretrained"] = False


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), (192, 96), frames=2)


@pytest.fixture(scope="module", params=["cityscapes", "cityscapes34"])
def run(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on that tree; its folder has the recipe's name."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "finish_run", result_alone)
        training.fit(request.param, tree, SMALL, folder)
    return folder


def test_evaluate_and_the_official_script_agree_on_what_predict_writes(
    run: Path, tree: Path, command: Callable, tmp_path: Path
) -> None:
    assert command("predict", run, tree / "leftImg8bit" / "val", "--out", tmp_path, "--format", "cityscapes") == 0
    assert command("evaluate", run, run.name, "--data", tree, "--json", tmp_path / "scores.json") == 0
    ours = json.loads((tmp_path / "scores.json").read_text())
    truth = sorted(tree.glob("gtFine/val/*/*_gtFine_labelIds.png"))
    masks = [
        tmp_path / "masks" / file.parent.name / file.name.replace("_gtFine_labelIds", "_pred_labelIds")
        for file in truth
    ]
    assert sorted(tmp_path.rglob("*.png")) == sorted(masks)  # one file a frame: the script takes no second
    for mask in masks:
        image = Image.open(mask)
        assert (image.mode, image.size) == ("L", (192, 96))
        assert np.asarray(image).max() < 34
    theirs = official_scores(masks, truth, tmp_path / "official.json")
    assert_same({key: ours[key] for key in theirs}, theirs)
    assert len(ours["classes"]) == (19 if run.name == "cityscapes" else 34)
    if run.name == "cityscapes":  # there both score the same classes
        assert ours["miou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)


def test_evaluate_prints_class_and_category_scores(
    run: Path, tree: Path, command: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", run, run.name, "--data", tree) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("scores of the official Cityscapes script")
    assert lines[start + 1].split() == ["class", "IoU", "iIoU"]
    assert {"road", "bicycle", "construction", "vehicle", "mean"} <= {
        line.split()[0] for line in lines[start:] if line.strip()
    }
    assert any(line.split()[0] == "category" for line in lines[start:] if line.strip())


def test_instances_for_a_part_of_the_frames_cost_the_official_scores_alone(
    run: Path, command: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tree = write_cityscapes(tmp_path / "half", (192, 96), frames=2)
    (missing := sorted(tree.glob("gtFine/val/*/*_instanceIds.png"))[-1]).unlink()
    assert command("evaluate", run, run.name, "--data", tree, "--json", tmp_path / "scores.json") == 0
    out, err = capsys.readouterr()
    assert missing.name.replace("instanceIds", "labelIds") in err
    assert "official Cityscapes script" not in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "averageScoreClasses" not in scores
    assert "no official scores" in scores["note"]
    assert scores["frames"] == 4


def test_without_any_instances_there_is_no_iiou(run: Path, tmp_path: Path) -> None:
    tree = write_cityscapes(tmp_path / "none", (192, 96))
    for file in tree.glob("gtFine/val/*/*_instanceIds.png"):
        file.unlink()
    scores = evaluate(open_engine(run), open_dataset(run.name, tree)).as_json()
    assert scores["averageScoreInstClasses"] is None
    assert scores["averageScoreClasses"] is not None


def test_a_recipe_built_on_cityscapes_with_classes_of_its_own_has_no_official_scores(
    tree: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("cityscapes")
    own = recipe.model_copy(
        update={"classes": tuple(e.model_copy(update={"name": f"my {e.name}"}) for e in recipe.classes)}
    )
    dataset = open_dataset("cityscapes", tree)
    assert official_label_ids(dataset).tolist()[:2] == [7, 8]
    assert official_label_ids(replace(dataset, recipe=own)) is None
    trained_ids = dataset.layout.model_copy(
        update={"labels": dataset.layout.labels.replace("labelIds", "labelTrainIds")}
    )
    assert official_label_ids(replace(dataset, layout=trained_ids)) is None


def test_masks_of_another_data_set_are_no_cityscapes_masks(
    command: Callable, tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = tree / "leftImg8bit" / "val"
    assert command("predict", model, images, "--out", tmp_path / "out", "--format", "cityscapes") == 2
    assert "is not a Cityscapes label" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_counts_the_frames_of_each_city_and_says_what_is_not_published(
    tree: Path, command: Callable, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert command("data", "cityscapes", "--data", tree, "--out", tmp_path / "batch.png") == 0
    printed = capsys.readouterr()
    assert "train: aachen 2, bremen 2" in printed.out
    assert "val: bad honnef-süd 2, lindau 2" in printed.out
    assert "note: train: 4 frames here, the published split has 2975; scores cannot be compared" in printed.err


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda tree: (tree / "gtFine").rename(tree / "elsewhere"), "Only the images are there"),
        (lambda tree: (tree / "leftImg8bit").rename(tree / "elsewhere"), "Only the label maps are there"),
    ],
)
def test_half_of_the_data_is_said_in_one_line(
    spoil: Callable, expected: str, command: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spoil(tree := write_cityscapes(tmp_path / "tree"))
    assert command("data", "cityscapes", "--data", tree) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert "leftImg8bit/{split}/{city}" in error
    assert "https://www.cityscapes-dataset.com" in error
    assert error.count("\n") == 1


def test_packed_archives_are_said(command: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "gtFine_trainvaltest.zip").write_bytes(b"PK")
    assert command("data", "cityscapes", "--data", tmp_path) == 1
    assert "Still packed: gtFine_trainvaltest.zip" in capsys.readouterr().err
