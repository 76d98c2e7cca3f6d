"""A recipe with `parts`: several data sets are trained on as one, joined by the names of their classes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import survey
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.runs.folder import read_run
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.training.fit import fit

RIVER = """\
name = "river"
title = "Colors, a folder for each split, a group in each stem"
source = "painted by hand"
group = { stem = "^(.)" }
[[classes]]
id = 10
name = "Wall"
color = [1, 1, 1]
[[classes]]
id = 255
name = "water"
color = [2, 2, 2]
[[classes]]
id = 7
name = "boat"
color = [3, 3, 3]
[void]
id = 0
[[layouts]]
name = "rgb"
images = "{split}/{stem}.png"
labels = "{split}-labels/{stem}.png"
colors = { Wall = [9, 0, 0], water = [0, 9, 0], boat = [0, 0, 9], void = [0, 0, 0] }
[splits]
train = {}
val = {}
test = {}
"""
COLORS = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 0]], np.uint8)
OWN_IDS = {10: 0, 20: 1, 30: 2, 99: 255}  # ground, wall, air and void of `own_recipe`


@pytest.fixture
def both(own_recipe: Callable[..., Path], own_tree: Path, tmp_path: Path, save_array: Callable) -> Path:
    """A recipe beside those of its two parts; the data of one are named, those of the other are found."""
    own_recipe()
    (tmp_path / "recipes/river.toml").write_text(RIVER, encoding="utf-8")
    for split, stems in {"train": "aabb", "val": "cc"}.items():
        for number, group in enumerate(stems):
            raw = np.random.default_rng(number).integers(0, 4, (30, 50))
            save_array(np.full((30, 50, 3), 100, np.uint8), tmp_path / f"recipes/river/{split}/{group}{number}.png")
            save_array(COLORS[raw], tmp_path / f"recipes/river/{split}-labels/{group}{number}.png")
    file = tmp_path / "recipes/both.toml"
    file.write_text(
        'name = "both"\nparts = [{ recipe = "own.toml", data = "../own" }, "river.toml"]\n', encoding="utf-8"
    )
    return file


def test_classes_of_one_name_are_one_and_ids_stay_where_they_are_free(both: Path) -> None:
    recipe = load_recipe(both)
    assert {entry.name: entry.id for entry in recipe.classes} == {
        "ground": 10,
        "wall": 20,
        "air": 30,
        "water": 0,
        "boat": 7,
    }
    assert recipe.classes[1].color == (0, 200, 0)  # of the first part that has it
    assert (recipe.void.id, [*recipe.splits]) == (255, ["train", "val", "test"])


@pytest.mark.parametrize("cache", [True, False])
def test_each_part_keeps_its_layout_and_void(both: Path, tmp_path: Path, cache: bool) -> None:
    dataset = open_dataset(both)
    paths = [dataset.relative_path(frame) for frame in dataset.frames("train")]
    assert len(paths) == 10
    assert paths[-4:] == [f"river/train/{stem}.png" for stem in ("a0", "a1", "b2", "b3")]
    expected = []
    for frame in dataset.frames("train"):
        raw = np.asarray(Image.open(frame.label))
        if frame.part == 0:
            expected.append(np.vectorize(OWN_IDS.get)(raw))
        else:
            channels = np.full(raw.shape[:2], 255)
            for color, channel in zip(COLORS, (1, 3, 4), strict=False):
                channels[(raw == color).all(-1)] = channel
            expected.append(channels)
        assert np.array_equal(dataset.read_label.of_frame(frame), expected[-1])
    counts = np.bincount(np.concatenate(expected, axis=None), minlength=256)
    assert survey(dataset, dataset.frames("train"), folder=tmp_path).class_pixels == counts[:5].tolist()
    options = {"cache": cache, "cache_dir": tmp_path / "caches", "workers": 0, "size": "64x48", "bs": 2}
    dls = segmentation_dls(both, **options)
    assert dls.class_pixels.tolist() == counts[:5].tolist()
    labels = [truth for _, truth in dls.valid]
    for frame, truth in zip(dls.valid_ds.items, labels, strict=True):
        assert np.array_equal(truth[0], dataset.read_label.of_frame(frame))
    images, truth = next(iter(dls.train))
    assert images.shape[-2:] == (48, 64)
    assert set(truth.unique().tolist()) <= {0, 1, 2, 3, 4, 255}


def test_a_selection_may_be_of_one_part_and_groups_are_named_with_it(both: Path) -> None:
    dataset = open_dataset(both)
    assert [frame.stem for frame in dataset.frames("river:val")] == ["c0", "c1"]
    assert [frame.stem for frame in dataset.frames("group:river/b")] == ["b2", "b3"]
    assert {frame.group for frame in dataset.frames("own:val")} == {None}
    own, every = len(dataset.frames("own:val")), len(dataset.frames("val"))
    assert len(dataset.frames("own:val+train")) == own + len(dataset.frames("train"))  # of all parts
    assert len(dataset.frames("own:val+river:val")) == own + 2 == every
    (note,) = dataset.notes("train", "test")
    assert note.startswith("river: ")
    assert "split 'test' is empty" in note


def test_a_map_joins_classes_of_other_names_and_classes_that_are_not_listed_are_void(both: Path) -> None:
    text = both.read_text(encoding="utf-8")
    both.write_text(text + '[map]\nboat = "vehicle"\nwater = "ground"\n', encoding="utf-8")
    assert load_recipe(both).class_names == ["ground", "wall", "air", "vehicle"]
    classes = "".join(
        f'[[classes]]\nid = {i}\nname = "{name}"\ncolor = [{i}, 0, 0]\n' for i, name in enumerate(("WALL", "air"))
    )
    both.write_text(text + classes, encoding="utf-8")
    dataset = open_dataset(both)
    seen = [set(np.unique(dataset.read_label.of_frame(frame)).tolist()) for frame in dataset.frames("train")]
    assert set.union(*seen[:6]) == {0, 1, 255}
    assert set.union(*seen[6:]) == {0, 255}


def test_folders_are_relative_to_the_data_folder(both: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"parts: river: no folder .*river; give its data as in"):
        open_dataset(both, tmp_path / "own")  # which has ../own, but no river
    (tmp_path / "recipes/river").rename(tmp_path / "own/river")
    dataset = open_dataset(both, tmp_path / "own")
    assert (len(dataset.frames("river:train")), len(dataset.frames("own:train"))) == (4, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('parts = ["own.toml"]', "parts: a list of 2 to 32 recipes"),
        ('parts = ["own.toml", "own.toml"]', "parts: two are called 'own'"),
        ('parts = ["own.toml", "both.toml"]', "parts[1]: both.toml has parts itself"),
        ('parts = ["own.toml", { recipe = "river.toml", folder = "x" }]', "parts[1]: unknown key 'folder'"),
        ('parts = ["own.toml", "lake.toml"]', "lake.toml: no such recipe file"),
        ('parts = ["own.toml", "camvdi"]', "no recipe 'camvdi': did you mean"),
        ('parts = ["own.toml", "river.toml"]\nbase = "camvid"', "base: a recipe with parts"),
        ('parts = ["own.toml", "river.toml"]\n[splits]\ntrain = {}', "splits: each of the parts has its own"),
    ],
)
def test_what_does_not_join_is_one_line(both: Path, text: str, message: str) -> None:
    both.write_text(f'name = "both"\n{text}\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_recipe(both)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_without_a_class_of_the_whole_is_refused(both: Path) -> None:
    classes = "".join(
        f'[[classes]]\nid = {i}\nname = "{name}"\ncolor = [{i}, 0, 0]\n' for i, name in enumerate(("ground", "air"))
    )
    both.write_text(both.read_text(encoding="utf-8") + classes, encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"parts: no class of river \(Wall, water, boat\) is one of both \(ground, air\)"
    ):
        open_dataset(both)


def test_fit_evaluate_and_the_record_of_the_run(both: Path, tmp_path: Path, command: Callable[..., int]) -> None:
    torch.manual_seed(0)
    options = {
        "encoder": "test_resnet",
        "pretrained": False,
        "epochs": 1,
        "bs": 2,
        "size": "64x48",
        "device": "cpu",
        "precision": "fp32",
        "fit": "pad",
    }
    run = fit(both, None, {**options, "cache_dir": tmp_path / "caches"}, tmp_path / "run").folder
    saved = read_run(run)
    assert saved.run["recipe"] == str(both)
    assert saved.run["parts"] == {
        "own": f"layout flat in {tmp_path / 'own'}",
        "river": f"layout rgb in {tmp_path / 'recipes/river'}",
    }
    engine = open_engine(run, precision="fp32", device="cpu")
    assert engine.card.fit == saved.settings["fit"] == "pad"
    scored = evaluate(engine, open_dataset(both))
    assert scored.scores.miou == pytest.approx(saved.result["best_miou"], abs=1e-3)
    assert [*scored.frame_mious][-1] == "river/val/c1.png"
    assert command("evaluate", run) == 0  # recipe and folders from run.toml
    assert command("data", both, "--out", tmp_path / "batch.png") == 0
