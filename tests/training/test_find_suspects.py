"""`data --suspects`: who judges which frames, the table, the page and the JSON."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model
from linknet_fastai.runs.suspects_page import is_own_page
from linknet_fastai.training.suspects import MOST_SHOWN, Judge, find_judges


@pytest.fixture
def folds(tmp_path: Path, street_data: Path) -> Path:
    """What `fit --folds 2` leaves behind, with one untrained model in both folds, which gives many classes."""
    torch.manual_seed(0)
    model = tmp_path / "model.safetensors"
    save_model(LinkNet(11, pretrained=False), ModelCard.of(load_recipe("street"), (64, 48)), model)
    (folder := tmp_path / "folds" / "lists").mkdir(parents=True)
    folds = []
    for name, left_out, others in (("fold-1", range(5), range(5, 8)), ("fold-2", range(5, 8), range(5))):
        for kind, numbers in (("validate", left_out), ("train", others)):
            lines = "".join(f"train/images/train_{number:04}.png\n" for number in numbers)
            (folder / f"{name}-{kind}.txt").write_text(lines)
        (folder.parent / name).mkdir()
        shutil.copy(model, folder.parent / name)
        folds.append(
            {"name": name, "groups": [], "train_frames": len(others), "frames": len(left_out), "last_miou": 0.1}
        )
    content = {"recipe": "street", "data": str(street_data), "options": {}, "folds": folds}
    (folder.parent / "folds.json").write_text(json.dumps(content))
    return folder.parent


def test_each_frame_is_judged_by_the_fold_that_left_it_out(folds: Path, street_data: Path) -> None:
    dataset = open_dataset("street", street_data)
    frames = dataset.frames("train")
    judges, (note,) = find_judges(dataset, folds)
    assert judges == [Judge(folds / "fold-1", frames[:5]), Judge(folds / "fold-2", frames[5:])]
    assert note.startswith("5 frames are in no fold and are not judged")  # those of val and test
    (folds / "folds.json").write_text((folds / "folds.json").read_text().replace("0.1", "null"))
    with pytest.raises(UserError, match="fold fold-1 is not trained to its end; fit --resume"):
        find_judges(dataset, folds)


def test_a_run_judges_all_frames_and_a_note_counts_those_it_was_trained_on(folds: Path, street_data: Path) -> None:
    dataset = open_dataset("street", street_data)
    run = folds / "fold-1"
    every = [frame for split in ("train", "val", "test") for frame in dataset.frames(split)]
    assert find_judges(dataset, run) == ([Judge(run, every)], [])
    train_on = folds / "lists/fold-1-train.txt"
    (run / "run.toml").write_text(
        f'[settings]\ntrain_on = "{train_on.as_posix()}"\n[origins]\n[versions]\n'
        f'[run]\nrecipe = "street"\ndata = "{street_data.as_posix()}"\nstarted = "now"\n'
    )
    judges, (note,) = find_judges(dataset, run)
    assert judges == [Judge(run, every)]
    assert "was trained on 3 of the 13 frames" in note


def test_the_command_shows_and_writes_the_suspects(
    command: Callable[..., int], folds: Path, street_data: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(street_data.rglob("*"))
    assert command("data", "street", "--suspects", folds, "--json", "found.json") == 0  # the data of the folds
    printed = capsys.readouterr().out
    assert "street: suspect labels in 8 frames, judged by" in printed
    assert "street-suspects.html" in printed
    found = json.loads(Path("found.json").read_text())
    assert (found["recipe"], found["model"], found["frames"]) == ("street", str(folds), 8)
    first = found["suspects"][0]
    assert f"{first['frame']}" in printed
    assert first["score"] == max(suspect["score"] for suspect in found["suspects"])
    assert Path(first["label_map"]).is_file()
    page = (here / "street-suspects.html").read_text()
    assert page.count("<section>") == min(MOST_SHOWN, len(found["suspects"]))
    assert page.count("data:image/jpeg;base64,") == 4 * page.count("<section>")
    assert f"1. {first['frame']}: {first['label']}, the model says {first['predicted']}" in page
    assert is_own_page(here / "street-suspects.html")
    assert sorted(path.name for path in here.iterdir()) == ["found.json", "street-suspects.html"]
    assert sorted(street_data.rglob("*")) == before

    (here / "street-suspects.html").write_text("mine")
    assert command("data", "street", "--suspects", folds) == 2
    assert "street-suspects.html: already exists and was not written by linknet-fastai" in capsys.readouterr().err
    assert command("data", "street", "--suspects", "none") == 1
    assert "--suspects: none: no such run, model file or folder of folds" in capsys.readouterr().err
    assert command("data", "street", "--suspects", folds, "--clear-cache") == 2
    assert "--clear-cache: --suspects uses no decoded frames; leave out one of them" in capsys.readouterr().err


def test_a_model_of_other_classes_is_refused(
    command: Callable[..., int], model: Path, own_recipe: Callable[..., Path], own_tree: Path, capsys
) -> None:
    assert command("data", own_recipe(), "--data", own_tree, "--suspects", model) == 2
    assert "has other classes than own; give a model that was trained on this recipe" in capsys.readouterr().err
