"""Frames that lists in the data folder name, and frames that a recipe leaves out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from linknet_fastai.core.errors import UserError
from linknet_fastai.data.dataset import EmptySplitError
from linknet_fastai.data.open import open_dataset

OwnRecipe = Callable[..., Path]
IN_DATA = (
    ("train = { fraction = 0.45 }", 'train = { data_list = "lists/train.lst" }'),
    ("val = { fraction = 0.55 }", 'val = { data_list = "lists/val.lst" }'),
)


def stems(recipe: Path, folder: Path, selection: str) -> list[str]:
    return [frame.stem for frame in open_dataset(recipe, folder).frames(selection)]


def test_a_list_in_the_data_folder_names_the_frames_of_a_split(own_recipe: OwnRecipe, own_tree: Path) -> None:
    recipe = own_recipe(*IN_DATA)
    (own_tree / "lists").mkdir()
    (own_tree / "lists" / "train.lst").write_text(
        "frames/f3.png masks/f3.png\nframes/f1.png masks/f1.png\n", encoding="utf-8"
    )
    assert stems(recipe, own_tree, "train") == ["f3", "f1"]
    with pytest.raises(EmptySplitError, match=r"lists/val\.lst: this list of frames is missing"):
        stems(recipe, own_tree, "val")
    (own_tree / "lists" / "val.lst").write_text("f8\nf77\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 of the 2 frames of split 'val' are missing \(first frames/f77\.png\)"):
        stems(recipe, own_tree, "val")
    (own_tree / "lists" / "val.lst").write_text("f77\n", encoding="utf-8")
    with pytest.raises(EmptySplitError, match=r"names no frame that is here \(first frames/f77\.png\)"):
        stems(recipe, own_tree, "val")


def test_names_of_leave_out_that_are_of_no_frame_are_a_note(own_recipe: OwnRecipe, own_tree: Path) -> None:
    recipe = own_recipe(('name = "own"\n', 'name = "own"\nleave_out = ["f1", "3", "004"]\n'))
    assert "leave_out: 2 of its names are of no frame, first 3" in open_dataset(recipe, own_tree).notes("train")


def test_a_list_that_find_wrote_begins_with_its_folder(own_recipe: OwnRecipe, own_tree: Path) -> None:
    """As find . > train.txt does."""
    (file := own_tree / "train.txt").write_text(".\n./frames/f1.png\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no frame '\.' in .* \(1 such lines\)"):
        stems(own_recipe(), own_tree, str(file))


def test_a_fraction_takes_nothing_that_a_list_in_the_data_folder_names(own_recipe: OwnRecipe, own_tree: Path) -> None:
    recipe = own_recipe(IN_DATA[0], ("val = { fraction = 0.55 }", "val = { fraction = 1.0 }"))
    (own_tree / "lists").mkdir()
    (own_tree / "lists" / "train.lst").write_text("f3\nf1\n", encoding="utf-8")
    assert stems(recipe, own_tree, "val") == ["f0", "f2", *(f"f{number}" for number in range(4, 10))]


def test_frames_that_a_recipe_leaves_out_are_in_no_split_or_selection(own_recipe: OwnRecipe, own_tree: Path) -> None:
    whole = own_recipe(file="whole.toml")
    before = {split: stems(whole, own_tree, split) for split in ("train", "val")}
    out = (before["train"][0], before["val"][0])
    recipe = own_recipe(('name = "own"\n', f'name = "own"\nleave_out = ["{out[0]}", "frames/{out[1]}"]\n'))
    assert {split: stems(recipe, own_tree, split) for split in before} == {
        split: found[1:] for split, found in before.items()
    }
    (chosen := own_tree / "chosen.txt").write_text(f"{out[0]}\n{before['val'][1]}\n", encoding="utf-8")
    assert stems(recipe, own_tree, str(chosen)) == [before["val"][1]]
    every = ", ".join(f'"{stem}"' for stem in before["val"])
    none = own_recipe(('name = "own"\n', f'name = "own"\nleave_out = [{every}]\n'))
    with pytest.raises(EmptySplitError, match="val"):
        stems(none, own_tree, "val")
