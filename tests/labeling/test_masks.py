"""`recipes --from` on folders of images and label maps: other habits of naming, values and colors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import photo, save
from PIL import Image

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.labeling.look import propose, write_proposal
from linknet_fastai.labeling.proposal import Proposal

IDS = np.kron(np.arange(12).reshape(3, 4) % 4, np.ones((16, 16), int)).astype(np.uint8)  # 64x48, four values


def tree(folder: Path, *names: tuple[str, str], values: dict[int, int] | None = None, frames: int = 6) -> Path:
    """Write images and label maps; `{n}` in their names is a number."""
    mapped = IDS if values is None else np.vectorize(values.get)(IDS).astype(np.uint8)
    for image, label in names:
        for n in range(frames):
            save(photo(n), folder / image.format(n=f"{n:03}"))
            save(np.roll(mapped, n, 1), folder / label.format(n=f"{n:03}"))
    return folder


def classes(proposal: Proposal) -> list[tuple[int, str]]:
    return [(row.id, row.name) for row in proposal.classes]


def read_back(proposal: Proposal, file: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The classes of the written recipe, and what it reads for each frame."""
    write_proposal(proposal, file)
    dataset = open_dataset(file, proposal.folder)
    frames = [frame for split in dataset.recipe.splits for frame in dataset.frames(split)]
    return dataset.recipe.class_names, {frame.image.stem: dataset.read_label(frame.label) for frame in frames}


NAMES = {
    "suffix _mask beside": ("{n}.jpg", "{n}_mask.png"),
    "same name beside": ("{n}.jpg", "{n}.png"),
    "folders": ("images/{n}.jpg", "masks/{n}.png"),
    "suffix _L": ("701_StillsRaw_full/a_{n}.png", "LabeledApproved_full/a_{n}_L.png"),
    "suffix -labels": ("frames/a{n}.png", "truth/a{n}-labels.png"),
    "suffix _gt, other ending": ("rgb/a{n}.jpg", "gt/a{n}_gt.tif"),
    "words before the number": ("img/img_{n}.jpg", "mask/mask_{n}.png"),
    "sat and mask": ("train/{n}_sat.jpg", "train/{n}_mask.png"),
    "names of no meaning": ("stuff/a{n}.png", "things/a{n}.png"),
    "Cityscapes": ("leftImg8bit/a_{n}_leftImg8bit.png", "gtFine/a_{n}_gtFine_labelIds.png"),
    "annotations in capitals": ("Images/{n}.JPG", "Annotations/{n}.PNG"),
}


@pytest.mark.parametrize("habit", NAMES)
def test_label_maps_are_found_by_their_names(habit: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", NAMES[habit])
    proposal = propose(folder, "own")
    assert classes(proposal) == [(0, "class_0"), (1, "class_1"), (2, "class_2"), (3, "class_3")]
    _, labels = read_back(proposal, tmp_path / "own.toml")
    assert len(labels) == 6
    first = min(labels)
    np.testing.assert_array_equal(labels[first], IDS)


SPLIT_FOLDERS = {
    "train/images": ("{split}/images/{n}.jpg", "{split}/masks/{n}.png"),
    "images/train": ("images/{split}/{n}.jpg", "labels/{split}/{n}.png"),
    "trainannot": ("{split}/{n}.png", "{split}annot/{n}.png"),
    "train_labels": ("x/{split}/{n}.png", "x/{split}_labels/{n}_L.png"),
    "images_train": ("images_{split}/{n}.png", "labels_{split}/{n}.png"),
}


@pytest.mark.parametrize("habit", SPLIT_FOLDERS)
def test_folders_of_splits_are_the_splits(habit: str, tmp_path: Path) -> None:
    image, label = SPLIT_FOLDERS[habit]
    for split, count in (("train", 4), ("valid", 2), ("test", 1)):
        names = [text.replace("{split}", split) for text in (image, label)]
        tree(tmp_path / "data", (names[0], names[1]), frames=count)
    proposal = propose(tmp_path / "data", "own")
    write_proposal(proposal, file := tmp_path / "own.toml")
    dataset = open_dataset(file, tmp_path / "data")
    assert {name: len(dataset.frames(name)) for name in dataset.recipe.splits} == {"train": 4, "val": 2, "test": 1}
    assert ("split", "train 4, val 2, test 1: the folders") in proposal.decisions


LEGENDS: dict[str, tuple[str, str, list[str]]] = {
    "a line a value": ("classes.txt", "sky\nroad\ntree\ncar\n", ["sky", "road", "tree", "car"]),
    "numbered": ("codes.txt", "0 sky\n1: road\n2,tree\n3 = car", ["sky", "road", "tree", "car"]),
    "without the background": ("labels.txt", "road\ntree\ncar", ["background", "road", "tree", "car"]),
    "labelme's": ("labels.txt", "__ignore__\n_background_\nroad\ntree\ncar", ["_background_", "road", "tree", "car"]),
}


@pytest.mark.parametrize("kind", LEGENDS)
def test_a_list_beside_names_the_values(kind: str, tmp_path: Path) -> None:
    name, text, expected = LEGENDS[kind]
    folder = tree(tmp_path / "data", ("images/{n}.jpg", "masks/{n}.png"))
    (folder / name).write_text(text)
    assert classes(propose(folder, "own")) == list(enumerate(expected))


def test_a_guess_about_names_is_a_note(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", ("images/{n}.jpg", "masks/{n}.png"))
    (folder / "classes.txt").write_text("road\ntree\ncar")
    assert "one value more than names: 0 is taken as background, and 1 as road" in propose(folder, "own").notes


def test_a_list_of_colors_names_values_by_place_also_where_two_have_one_color(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", ("images/{n}.jpg", "masks/{n}.png"))
    (folder / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,9,9,9\nlane,9,9,9\ncar,0,0,9\n")
    assert classes(propose(folder, "own")) == list(enumerate(["sky", "road", "lane", "car"]))


def test_white_is_one_class_in_masks_of_one_bit_and_of_eight(tmp_path: Path) -> None:
    values = {0: 0, 1: 0, 2: 255, 3: 255}
    folder = tree(tmp_path / "data", ("{n}.jpg", "{n}_mask.png"), values=values)
    for file in sorted(folder.glob("*_mask.png"))[:3]:
        Image.open(file).convert("1").save(file)
    proposal = propose(folder, "own")
    assert [(row.id, row.name, row.pixels) for row in proposal.classes] == [
        (0, "background", 6 * IDS.size // 2),
        (255, "class_1", 6 * IDS.size // 2),
    ]
    _, labels = read_back(proposal, tmp_path / "own.toml")
    for number in (0, 5):
        np.testing.assert_array_equal(labels[f"00{number}"], np.roll(IDS // 2, number, 1))


def test_pairs_in_other_folders_that_no_pattern_matches_are_counted(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", ("images/{n}.jpg", "masks/{n}.png"))
    tree(folder / "extra/drive2", ("images/b{n}.jpg", "masks/b{n}.png"), frames=4)
    (note,) = [note for note in propose(folder, "own").notes if "left out: 4" in note]
    assert note.startswith("pairs named otherwise, left out: 4, first ")


@pytest.mark.parametrize("name", ["wide\u3000space", "a{{1}}"])
def test_a_folder_whose_name_no_recipe_can_have_is_one_line(name: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", (f"{name}/images/{{n}}.jpg", f"{name}/masks/{{n}}.png"), values=None)
    with pytest.raises(UserError, match=r"cannot be written into a recipe .*; rename the folders") as caught:
        propose(folder, "own")
    assert "\n" not in str(caught.value)


def test_two_values_are_background_and_a_class(tmp_path: Path) -> None:
    values = {0: 0, 1: 0, 2: 255, 3: 255}
    proposal = propose(tree(tmp_path / "data", ("{n}.jpg", "{n}_mask.png"), values=values), "own")
    assert [(row.id, row.name, row.pixels) for row in proposal.classes] == [
        (0, "background", 6 * IDS.size // 2),
        (255, "class_1", 6 * IDS.size // 2),
    ]
    _, labels = read_back(proposal, tmp_path / "own.toml")
    np.testing.assert_array_equal(labels["000"], IDS // 2)


def test_255_among_more_values_is_void(tmp_path: Path) -> None:
    values = {0: 0, 1: 1, 2: 2, 3: 255}
    proposal = propose(tree(tmp_path / "data", ("{n}.jpg", "{n}_mask.png"), values=values), "own")
    assert proposal.table["void"] == {"id": 255}
    _, labels = read_back(proposal, tmp_path / "own.toml")
    np.testing.assert_array_equal(labels["000"], np.where(IDS == 3, 255, IDS))


def test_255_among_grays_for_viewing_is_a_class(tmp_path: Path) -> None:
    values = {0: 0, 1: 85, 2: 170, 3: 255}
    proposal = propose(tree(tmp_path / "data", ("{n}.jpg", "{n}_mask.png"), values=values), "own")
    assert classes(proposal) == [(0, "class_0"), (85, "class_85"), (170, "class_170"), (255, "class_255")]
    _, labels = read_back(proposal, tmp_path / "own.toml")
    np.testing.assert_array_equal(labels["000"], IDS)


def test_values_above_255_are_mapped(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", ("images/{n}.png", "other/{n}.png"))
    for file in (folder / "other").iterdir():
        values = np.asarray(Image.open(file)).astype(np.uint16) * 1000
        Image.fromarray(values).save(file)
    proposal = propose(folder, "own")
    assert classes(proposal) == [(0, "class_0"), (1, "class_1000"), (2, "class_2000"), (3, "class_3000")]
    _, labels = read_back(proposal, tmp_path / "own.toml")
    np.testing.assert_array_equal(labels["000"], IDS)


def with_palette(ids: np.ndarray) -> Image.Image:
    label = Image.fromarray(ids)
    label.putpalette([0, 0, 0, 128, 64, 128, 70, 70, 70, 220, 20, 60])
    return label


KINDS: dict[str, tuple[str, Callable[[np.ndarray], Image.Image], np.ndarray]] = {
    "one bit": ("png", lambda ids: Image.fromarray(ids > 1), IDS // 2),
    "three equal channels": ("png", lambda ids: Image.fromarray(ids[..., None].repeat(3, 2)), IDS),
    "a palette": ("bmp", with_palette, IDS),
    "16 bit TIFF": ("tif", lambda ids: Image.fromarray(ids.astype(np.uint16)), IDS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_read_from_other_kinds_of_files(kind: str, tmp_path: Path) -> None:
    ending, make, expected = KINDS[kind]
    for n in range(4):
        save(photo(n), tmp_path / f"data/d {n}.jpg")
        make(np.roll(IDS, n, 1)).save(tmp_path / f"data/d {n} mask.{ending}")
    proposal = propose(tmp_path / "data", "own")
    assert [row.id for row in proposal.classes] == list(range(expected.max() + 1))
    _, labels = read_back(proposal, tmp_path / "own.toml")
    np.testing.assert_array_equal(labels["d 0"], expected)


COLORS = np.array([(0, 0, 0), (128, 64, 128), (70, 70, 70), (220, 20, 60)], np.uint8)
COLOR_LEGENDS = {
    "class_dict.csv": "name,r,g,b\nvoid,0,0,0\nroad,128,64,128\nwall,70,70,70\nperson,220,20,60\n",
    "label_colors.txt": "0 0 0\tVoid\n128 64 128\troad\n70 70 70\twall\n220 20 60\tperson\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nvoid:0,0,0::\nroad:128,64,128::\nwall:70,70,70::\n"
    "person:220,20,60::\n",
}


def color_tree(folder: Path, frames: int = 6) -> Path:
    for n in range(frames):
        save(photo(n), folder / f"images/{n:03}.jpg")
        save(COLORS[np.roll(IDS, n, 1)], folder / f"masks/{n:03}.png")
    return folder


@pytest.mark.parametrize("name", COLOR_LEGENDS)
def test_a_list_of_colors_names_them(name: str, tmp_path: Path) -> None:
    folder = color_tree(tmp_path / "data")
    (folder / name).write_text(COLOR_LEGENDS[name])
    proposal = propose(folder, "own")
    assert {row.name for row in proposal.classes} == {"road", "wall", "person"}
    names, labels = read_back(proposal, tmp_path / "own.toml")
    expected = np.array([255, names.index("road"), names.index("wall"), names.index("person")], np.uint8)[IDS]
    np.testing.assert_array_equal(labels["000"], expected)


def test_colors_without_a_list_are_counted(tmp_path: Path) -> None:
    proposal = propose(color_tree(tmp_path / "data"), "own")
    assert sorted(row.name for row in proposal.classes) == ["background", "class_1", "class_2", "class_3"]
    assert {tuple(entry["color"]) for entry in proposal.table["classes"]} >= {(128, 64, 128), (70, 70, 70)}


def split_read_back(proposal: Proposal, folder: Path) -> dict[str, list[str]]:
    """The stems of each split by the recipe, which must be those that the proposal counted."""
    write_proposal(proposal, file := folder.parent / f"{folder.name}.toml")
    dataset = open_dataset(file, folder)
    stems = {name: [frame.stem for frame in dataset.frames(name)] for name in ("train", "val")}
    counts = f"train {len(stems['train'])}, val {len(stems['val'])}: "
    assert dict(proposal.decisions)["split"].startswith(counts)
    return stems


@pytest.mark.parametrize(
    ("drives", "splits"),
    [
        ("abcdef", {"train": {"fraction": 1.0}, "val": {"group": ["d_"]}}),  # two of six are far from a fifth
        ("abcdefhjkl", {"train": {"fraction": 0.8}, "val": {"fraction": 0.2}}),
    ],
)
def test_frames_of_a_video_are_a_group_of_the_recipe(drives: str, splits: dict, tmp_path: Path) -> None:
    for drive in drives:
        tree(tmp_path / "data", (f"images/{drive}_{{n}}.jpg", f"masks/{drive}_{{n}}.png"), frames=2)
    proposal = propose(tmp_path / "data", "own")
    assert proposal.lists == {}
    assert proposal.table["splits"] == splits
    stems = split_read_back(proposal, tmp_path / "data")
    groups = [{stem[0] for stem in of_split} for of_split in stems.values()]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == set(drives)


def test_groups_that_stems_do_not_name_need_lists(tmp_path: Path) -> None:
    for drive in "abcdef":
        tree(tmp_path / "data", (f"images/{drive}/{{n}}.jpg", f"masks/{drive}/{{n}}.png"), frames=2)
    proposal = propose(tmp_path / "data", "own")
    assert set(proposal.lists) == {"own-train.txt", "own-val.txt"}
    assert "group" not in proposal.table
    split_read_back(proposal, tmp_path / "data")


def test_frames_without_groups_are_a_fraction_of_the_recipe(tmp_path: Path) -> None:
    for name in ("oak", "elm", "ash", "yew", "fir", "fig", "box", "bay", "may", "rue"):
        tree(tmp_path / "data", (f"images/{name}.jpg", f"masks/{name}.png"), frames=1)
    proposal = propose(tmp_path / "data", "own")
    assert (proposal.lists, "group" in proposal.table) == ({}, False)
    assert proposal.table["splits"] == {"train": {"fraction": 0.8}, "val": {"fraction": 0.2}}
    assert len(split_read_back(proposal, tmp_path / "data")["val"]) == 2


def test_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        tree(tmp_path / "data", (f"{split}/{{n}}_jpg.rf.0a1b.jpg", f"{split}/{{n}}_jpg.rf.0a1b_mask.png"), frames=3)
        (tmp_path / "data" / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, road\n2, wall\n3, car\n"
        )
    with pytest.raises(UsageError, match=r"--unlabelled is needed: 25\.0% of the pixels have no label"):
        propose(tmp_path / "data", "own")
    proposal = propose(tmp_path / "data", "own", "void")
    assert classes(proposal) == [(1, "road"), (2, "wall"), (3, "car")]
    assert proposal.table["void"] == {"id": 0}
    assert proposal.table["splits"] == {"train": {"folder": "train"}, "val": {"folder": "valid"}}
    proposal = propose(tmp_path / "data", "own", "background")
    assert classes(proposal) == [(0, "background"), (1, "road"), (2, "wall"), (3, "car")]


def test_cvat_masks(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for n in range(4):
        save(photo(n), folder / f"JPEGImages/f{n}.jpg")
        save(COLORS[np.roll(IDS, n, 1)], folder / f"SegmentationClass/f{n}.png")
        save(COLORS[np.roll(IDS, n, 1)], folder / f"SegmentationObject/f{n}.png")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/default.txt").write_text("f0\nf1\nf2\nf3\n")
    (folder / "labelmap.txt").write_text(COLOR_LEGENDS["labelmap.txt"].replace("void", "background"))
    proposal = propose(folder, "own", "void")
    names, labels = read_back(proposal, tmp_path / "own.toml")
    assert proposal.tool == "CVAT masks"
    assert set(names) == {"road", "wall", "person"}
    expected = np.array([255, names.index("road"), names.index("wall"), names.index("person")], np.uint8)[IDS]
    np.testing.assert_array_equal(labels["f0"], expected)


def test_pascal_voc(tmp_path: Path) -> None:
    folder = tmp_path / "VOC2012"
    for n in range(4):
        save(photo(n), folder / f"JPEGImages/f{n}.jpg")
        label = Image.fromarray(np.where(IDS == 3, 255, IDS * 7).astype(np.uint8))
        label.putpalette(list(range(256)) * 3)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        label.save(folder / f"SegmentationClass/f{n}.png")
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("f0\nf1\n")
    (lists / "val.txt").write_text("f2\nf3\n")
    proposal = propose(folder, "own")
    assert classes(proposal) == [(0, "background"), (7, "car"), (14, "motorbike")]
    assert proposal.lists == {
        "own-train.txt": ["JPEGImages/f0.jpg", "JPEGImages/f1.jpg"],
        "own-val.txt": ["JPEGImages/f2.jpg", "JPEGImages/f3.jpg"],
    }


def test_names_beside_a_folder_in_vocs_form_come_before_vocs_own(tmp_path: Path) -> None:
    """As labelme2voc.py writes it."""
    folder = tree(tmp_path / "data", ("JPEGImages/{n}.jpg", "SegmentationClass/{n}.png"))
    (folder / "class_names.txt").write_text("_background_\nroad\ntree\npedestrian")
    assert classes(propose(folder, "own")) == list(enumerate(["_background_", "road", "tree", "pedestrian"]))


def test_names_without_a_background_begin_at_1_in_vocs_form(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", ("JPEGImages/{n}.jpg", "SegmentationClass/{n}.png"))
    (folder / "classes.txt").write_text("road\ntree\npedestrian\nbus")
    assert classes(propose(folder, "own")) == list(enumerate(["background", "road", "tree", "pedestrian"]))


def test_a_shipped_recipe_that_fits_is_taken(segnet_tree: Path, tmp_path: Path) -> None:
    proposal = propose(segnet_tree, "own")
    assert proposal.table == {"base": "camvid", "name": "own"}
    write_proposal(proposal, file := tmp_path / "own.toml")
    assert len(open_dataset(file, segnet_tree).frames("val")) == 2


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no label maps": (
        lambda folder: [save(photo(n), folder / f"{n}.png") for n in range(3)],
        "no label maps among 3",
    ),
    "no images": (lambda folder: save(IDS, folder / "masks/1.png"), "no images"),
    "other names": (
        lambda folder: (save(photo(), folder / "images/a.png"), save(IDS, folder / "masks/b.png")),
        r"no image has a label map of its name: as in images/a\.png and masks/b\.png",
    ),
    "lossy": (
        lambda folder: (save(photo(), folder / "images/a.png"), save(IDS, folder / "masks/a.jpg")),
        "label maps must be lossless",
    ),
    "smoothed colors": (
        lambda folder: (save(photo(), folder / "images/a.png"), save(photo(1), folder / "masks/a.png")),
        "as if its edges were smoothed",
    ),
    "a value without a name": (
        lambda folder: (
            tree(folder, ("images/{n}.png", "masks/{n}.png")),
            (folder / "classes.txt").write_text("a\nb"),
        ),
        r"classes\.txt: no name for 2, 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    make(folder := tmp_path / "data")
    with pytest.raises(UserError, match=message) as caught:
        propose(folder, "own")
    assert "\n" not in str(caught.value)


def test_partners_that_are_missing_are_counted(tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", ("images/{n}.jpg", "masks/{n}.png"))
    (folder / "masks/001.png").unlink()
    (folder / "images/002.jpg").unlink()
    proposal = propose(folder, "own")
    assert ("files", "4 images with labels, 1 without, 1 labels without an image") in proposal.decisions
    assert f"images without labels, left out: 1, first {folder / 'images/001.jpg'}" in proposal.notes


def test_the_command_writes_once_and_shows_what_it_did(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, here: Path
) -> None:
    folder = tree(tmp_path / "data", ("images/{n}.jpg", "masks/{n}.png"))
    before = sorted(folder.rglob("*"))
    assert command("recipes", "--from", folder, "own.toml", "--dry-run") == 0
    assert list(here.iterdir()) == []
    assert "images/{stem}.jpg with masks/{stem}.png" in capsys.readouterr().out
    assert command("recipes", "--from", folder, "own.toml") == 0
    assert sorted(path.name for path in here.iterdir()) == [
        "own-check.png",
        "own-train.txt",
        "own-val.txt",
        "own.toml",
    ]
    assert Image.open("own-check.png").height > 100
    state = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    assert command("recipes", "--from", folder, "own.toml") == 2
    assert "own.toml exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == state
    assert sorted(folder.rglob("*")) == before
    assert command("data", "own.toml", "--data", folder) == 0
    assert command("recipes", "--unlabelled", "void") == 2
    assert json.dumps(capsys.readouterr().err).count("belongs to --from") == 1
