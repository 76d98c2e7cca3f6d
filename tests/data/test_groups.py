"""Frames that belong together: groups by a field or by the stem, in fractions, splits and selections."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.groups import place_of
from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.data.dataset import Dataset, EmptySplitError
from linknet_fastai.data.open import open_dataset

OwnRecipe = Callable[..., Path]
IMAGES, LABELS = (
    ('"frames/{stem}.png"', '"frames/{drive}/{stem}.png"'),
    ('"masks/{stem}.png"', '"masks/{drive}/{stem}.png"'),
)
BY_DRIVE = ('name = "own"\n', 'name = "own"\ngroup = "drive"\n')
TRAIN, VAL = "{ fraction = 0.45 }", "{ fraction = 0.55 }"


def add_frames(folder: Path, *names: str) -> Path:
    for name in names:
        for kind, mode in (("frames", "RGB"), ("masks", "L")):
            (file := folder / kind / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3)[: 2 + (mode == "RGB")], 10, np.uint8)).save(file)
    return folder


def names(dataset: Dataset, selection: str) -> list[str]:
    return [
        dataset.relative_path(frame).removeprefix("frames/").removesuffix(".png")
        for frame in dataset.frames(selection)
    ]


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Five drives of three frames, numbered alike."""
    return add_frames(tmp_path / "data", *(f"{drive}/{number}" for drive in "abcde" for number in range(3)))


def test_a_fraction_cuts_no_group_and_what_is_added_moves_no_other(own_recipe: OwnRecipe, drives: Path) -> None:
    dataset = open_dataset(own_recipe(IMAGES, LABELS, BY_DRIVE), drives)
    before = {split: names(dataset, split) for split in ("train", "val")}
    assert {split: {name[0] for name in found} for split, found in before.items()} == {
        "train": set("bcde"),  # by digest: a change would move everyone's frames
        "val": {"a"},
    }
    assert [len(found) for found in before.values()] == [12, 3]
    add_frames(drives, *(f"a/{number}" for number in range(3, 40)), *(f"{drive}/0" for drive in "fghijklmnop"))
    after = {split: names(dataset, split) for split in before}
    for split, found in before.items():
        assert set(found) <= set(after[split])
    groups = [{name[0] for name in found} for found in after.values()]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == set("abcdefghijklmnop")


def test_a_group_is_in_the_same_split_whatever_other_groups_there_are(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    recipe = own_recipe(IMAGES, LABELS, BY_DRIVE, (TRAIN, "{ fraction = 0.5 }"), (VAL, "{ fraction = 0.5 }"))
    every = [f"drive {number}" for number in range(24)]
    place: dict[str, set[str]] = {drive: set() for drive in every}
    for count in (9, 16, 24):
        for order, some in enumerate((every[:count], every[-count:], every[::2][:count])):
            data = add_frames(tmp_path / f"{count}-{order}", *(f"{drive}/0" for drive in some))
            dataset = open_dataset(recipe, data)
            for split in ("train", "val"):
                with suppress(EmptySplitError):
                    for frame in dataset.frames(split):
                        place[str(frame.group)].add(split)
    assert {len(splits) for splits in place.values()} == {1}


@pytest.mark.parametrize("number", [20, 100, 1000])
def test_a_fraction_is_as_near_to_what_was_asked_as_independent_draws_are(number: int) -> None:
    shares = np.array(
        [
            np.mean([place_of(f"{data}-drive-{drive:04}") < 0.2 for drive in range(number)])
            for data in range(20_000 // number)
        ]
    )
    deviation = (0.2 * 0.8 / number) ** 0.5  # .089 of 20 groups, .04 of 100, .013 of 1000
    assert abs(shares.mean() - 0.2) < 0.01
    assert np.mean(abs(shares - 0.2) <= 2 * deviation) >= 0.9
    assert shares.std() == pytest.approx(deviation, rel=0.35)


def test_a_fraction_that_no_group_falls_into_gets_the_closest(own_recipe: OwnRecipe, drives: Path) -> None:
    recipe = own_recipe(IMAGES, LABELS, BY_DRIVE, (TRAIN, "{ fraction = 0.95 }"), (VAL, "{ fraction = 0.05 }"))
    dataset = open_dataset(recipe, drives)
    chosen = max("abcde", key=place_of)
    assert place_of(chosen) < 0.95
    assert names(dataset, "val") == [f"{chosen}/{number}" for number in range(3)]
    assert {name[0] for name in names(dataset, "train")} == set("abcde") - {chosen}
    for drive in set("abcde") - {chosen}:
        shutil.rmtree(drives / "frames" / drive)
    with pytest.raises(UserError, match="split 'val' is empty: there are 1 groups for the fractions of 2 splits"):
        dataset.frames("val")


def test_a_split_names_groups_and_fractions_share_the_others(own_recipe: OwnRecipe, drives: Path) -> None:
    recipe = own_recipe(IMAGES, LABELS, BY_DRIVE, (VAL, '{ group = ["b", "d"] }'), (TRAIN, "{ fraction = 1.0 }"))
    dataset = open_dataset(recipe, drives)
    assert names(dataset, "val") == ["b/0", "b/1", "b/2", "d/0", "d/1", "d/2"]
    assert {name[0] for name in names(dataset, "train")} == set("ace")
    for file in (drives / "frames" / "b").iterdir():
        file.unlink()
    assert {name[0] for name in names(dataset, "val")} == {"d"}


def test_a_selection_names_groups(own_recipe: OwnRecipe, drives: Path) -> None:
    dataset = open_dataset(own_recipe(IMAGES, LABELS, BY_DRIVE), drives)
    assert names(dataset, "group:c") == ["c/0", "c/1", "c/2"]
    assert names(dataset, "group:c+group:a") == ["c/0", "c/1", "c/2", "a/0", "a/1", "a/2"]
    with pytest.raises(UsageError, match=r"group:x: no such group in .*; there are a, b, c, d, e"):
        dataset.frames("group:x")


def test_without_groups_in_the_recipe_a_selection_of_one_is_refused(own_recipe: OwnRecipe, own_tree: Path) -> None:
    with pytest.raises(UsageError, match=r"group:x: the recipe own does not say what a group is"):
        open_dataset(own_recipe(), own_tree).frames("group:x")


def test_a_group_is_part_of_the_stem_and_a_frame_that_has_none_is_on_its_own(
    own_recipe: OwnRecipe, tmp_path: Path
) -> None:
    data = add_frames(tmp_path / "data", "x_1", "x_2", "y_1", "7", "8")
    recipe = own_recipe(('name = "own"\n', 'name = "own"\ngroup = { stem = "^([^_]+)_" }\n'))
    dataset = open_dataset(recipe, data)
    found = {frame.stem: frame.group for split in ("train", "val") for frame in dataset.frames(split)}
    assert found == {"x_1": "x", "x_2": "x", "y_1": "y", "7": None, "8": None}
    recipe.write_text(recipe.read_text().replace(VAL, '{ group = ["z"] }'))
    with pytest.raises(UserError, match=r"split 'val' is empty: no such group in .*; there are x, y$"):
        open_dataset(recipe, data).frames("val")


def test_lists_name_frames_by_path_where_folders_number_alike(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    data = add_frames(tmp_path / "data", "train/1", "train/2", "train/3", "val/1", "val/2")
    by_part = [(old, new.replace("drive", "part")) for old, new in (IMAGES, LABELS)]
    recipe = own_recipe(*by_part, (TRAIN, '{ list = "a.txt" }'), (VAL, '{ list = "b.txt" }'))
    (recipe.parent / "a.txt").write_text("train/1\ntrain/3\n")
    (recipe.parent / "b.txt").write_text("/old/disk/val/1.png\nval/2\n")
    dataset = open_dataset(recipe, data)
    assert (names(dataset, "train"), names(dataset, "val")) == (["train/1", "train/3"], ["val/1", "val/2"])
    (file := tmp_path / "some.txt").write_text("val/3\n")  # train/3 is another frame, though the only 3
    with pytest.raises(UserError, match="no frame 'val/3'"):
        dataset.frames(str(file))


@pytest.mark.parametrize("layout", ["segnet", "fastai", "cambridge", "kaggle"])
def test_camvids_groups_are_its_drives(layout: str, request: pytest.FixtureRequest) -> None:
    dataset = open_dataset("camvid", request.getfixturevalue(f"{layout}_tree"))
    assert {frame.group for frame in dataset.frames("group:0001TP")} == {"0001TP"}
    assert all(frame.stem.startswith("0016E5_") for frame in dataset.frames("group:0016E5"))


def test_cityscapes_groups_are_its_cities_and_street_has_groups_of_a_hundred(
    cityscapes_tree: Path, street_data: Path
) -> None:
    cities = {frame.group for frame in open_dataset("cityscapes", cityscapes_tree).frames("train")}
    assert cities == {"aachen", "bremen"}
    assert {frame.group for frame in open_dataset("street", street_data).frames("trainval")} == {"train_00", "val_00"}


def test_a_split_of_groups_takes_frames_from_the_folders_of_all_splits(segnet_tree: Path, tmp_path: Path) -> None:
    (file := tmp_path / "drives.toml").write_text(
        'base = "camvid"\nname = "drives"\n[splits]\ntrain = { group = ["0001TP"] }\nval = { group = ["0016E5"] }\n'
        'test = { group = ["Seq05VD"] }\n'
    )
    dataset = open_dataset(file, segnet_tree)
    assert [frame.stem for frame in dataset.frames("train")] == ["0001TP_006690"]
    assert [frame.stem for frame in dataset.frames("val")] == ["0016E5_07959"]


def test_a_recipe_with_files_of_its_own_does_not_inherit_groups(tmp_path: Path) -> None:
    (file := tmp_path / "mine.toml").write_text(
        'base = "cityscapes"\nname = "mine"\n[[layouts]]\nname = "flat"\nimages = "{split}/{stem}.png"\n'
        'labels = "{split}/{stem}_id.png"\n'
    )
    assert load_recipe(file).group is None
    assert load_recipe("camvid-elab").group == load_recipe("camvid").group
