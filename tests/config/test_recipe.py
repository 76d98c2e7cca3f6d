"""Recipes: the shipped ones match what was published, and an invalid one raises an error that names file and key."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from linknet_fastai.config.recipe import Recipe, load_recipe, read_stems, recipe_folder, recipe_names
from linknet_fastai.config.toml_files import find_shipped
from linknet_fastai.core.errors import UsageError

CAMVID_CLASSES = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian"]
CAMVID_CLASSES += ["Bicyclist"]  # SegNet's order; void is 11

# As LinkNet's authors group the raw labels.
ELAB_GROUPS = {
    "Building": {"Archway", "Bridge", "Building", "Tunnel"},
    "Road": {"Road", "LaneMkgsDriv", "LaneMkgsNonDriv", "RoadShoulder"},
    "Pavement": {"Sidewalk", "ParkingBlock"},
    "Tree": {"Tree", "VegetationMisc"},
    "SignSymbol": {"SignSymbol", "Misc_Text", "TrafficLight"},
    "Fence": {"Fence", "Wall"},
    "Car": {"Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"},
    "Pedestrian": {"Pedestrian", "Child", "CartLuggagePram"},
    "Bicyclist": {"Bicyclist", "MotorcycleScooter"},
    "Pole": {"Column_Pole", "TrafficCone"},
    "Sky": {"Sky"},
    "void": {"Void", "Animal"},
}

# The official table of Cityscapes labels: id, name, train id (255 where the benchmark ignores the label).
CITYSCAPES = """\
0 unlabeled 255
1 ego vehicle 255
2 rectification border 255
3 out of roi 255
4 static 255
5 dynamic 255
6 ground 255
7 road 0
8 sidewalk 1
9 parking 255
10 rail track 255
11 building 2
12 wall 3
13 fence 4
14 guard rail 255
15 bridge 255
16 tunnel 255
17 pole 5
18 polegroup 255
19 traffic light 6
20 traffic sign 7
21 vegetation 8
22 terrain 9
23 sky 10
24 person 11
25 rider 12
26 car 13
27 truck 14
28 bus 15
29 caravan 255
30 trailer 255
31 train 16
32 motorcycle 17
33 bicycle 18"""


def cityscapes_table() -> list[tuple[int, str, int]]:
    rows = [line.split() for line in CITYSCAPES.splitlines()]
    return [(int(row[0]), " ".join(row[1:-1]), int(row[-1])) for row in rows]


def refusal(file: Path | str) -> str:
    """The one line with which a recipe is refused."""
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The shipped recipes


# In tests/data/test_published_recipes.py
PUBLISHED = ["a2d2", "acdc", "bdd100k", "dark-zurich", "goose", "gta5", "idd", "kitti", "mapillary-1.2"]
PUBLISHED += ["mapillary-2.0", "nighttime-driving", "rellis3d", "rugd", "wilddash"]


def test_the_shipped_recipes() -> None:
    ours = ["camvid", "camvid-elab", "camvid32", "cityscapes", "cityscapes34", "street", "streets"]
    assert recipe_names() == sorted(ours + PUBLISHED)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("camvid", 11), ("camvid-elab", 11), ("camvid32", 31), ("cityscapes", 19), ("cityscapes34", 34), ("street", 11)],
)
def test_a_shipped_recipe_is_complete(name: str, classes: int) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert len(recipe.classes) == len(set(recipe.class_names)) == classes
    assert set(recipe.splits) == {"train", "val", "test"}
    assert {"size", "epochs"} <= set(recipe.training)
    for layout in recipe.layouts:  # every raw value or color leads to a class or to void
        assert set((layout.values or {}).values()) | set(layout.colors or ()) <= set(recipe.channel_of_label)


@pytest.mark.parametrize(
    ("name", "ids", "void"),
    [
        ("camvid", list(range(11)), 11),
        ("camvid-elab", list(range(11)), 11),
        ("camvid32", [*range(30), 31], 30),
        ("cityscapes", list(range(19)), 255),
        ("cityscapes34", list(range(34)), 255),
        ("street", list(range(11)), 11),
    ],
)
def test_a_shipped_recipe_has_the_published_ids(name: str, ids: list[int], void: int) -> None:
    recipe = load_recipe(name)
    assert [entry.id for entry in recipe.classes] == ids
    assert recipe.void.id == void


@pytest.mark.parametrize("name", ["camvid", "camvid-elab", "camvid32"])
def test_camvid_has_the_published_split(name: str) -> None:
    splits = load_recipe(name).splits
    assert {split: len(entry.stems) for split, entry in splits.items()} == {"train": 367, "val": 101, "test": 233}
    stems = [stem for entry in splits.values() for stem in entry.stems]
    assert len(set(stems)) == 701
    sequences = {split: {stem.split("_")[0] for stem in entry.stems} for split, entry in splits.items()}
    assert sequences == {"train": {"0001TP", "0006R0", "0016E5"}, "val": {"0016E5"}, "test": {"0001TP", "Seq05VD"}}


@pytest.mark.parametrize("name", ["camvid", "camvid-elab", "street", "streets"])
def test_camvid_classes_stand_in_segnets_order(name: str) -> None:
    assert load_recipe(name).class_names == CAMVID_CLASSES


def test_camvid_groups_raw_labels_as_segnets_published_maps_do(camvid_codes: dict) -> None:
    """The file counts the pixels of 58 frames, in 128x96, by raw label (fastai's form) and class (SegNet's form)."""
    with (Path(__file__).parent / "camvid_forms.csv").open(encoding="utf-8") as file:
        pixels = {row.pop("raw"): np.array([*row.values()], int) for row in csv.DictReader(file)}
    assert pixels.keys() == camvid_codes.keys()
    channels = {label: 11 if c is None else c for label, c in load_recipe("camvid").channel_of_label.items()}
    for label, counts in pixels.items():
        if counts.any():
            assert channels[label] == counts.argmax(), label
    # A network that is perfect on one form is nearly perfect on the other: 1 but for the borders, which are blurred.
    counts = np.zeros((12, 12), int)
    for label, row in pixels.items():
        counts[channels[label]] += row
    ious = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert ious[:11].min() > 0.78  # Pole, a pixel wide
    assert np.delete(ious[:11], 2).min() > 0.91
    assert (channels["Train"], channels["Tunnel"]) == (8, 1)  # without a pixel there


def test_camvid_elab_groups_raw_labels_as_linknets_authors_do(camvid_codes: dict) -> None:
    recipe = load_recipe("camvid-elab")
    channels = recipe.channel_of_label
    for group, labels in ELAB_GROUPS.items():
        expected = None if group == "void" else recipe.class_names.index(group)
        assert {channels[label] for label in labels} == {expected}, group
    assert set().union(*ELAB_GROUPS.values()) == set(camvid_codes)
    assert [layout.name for layout in recipe.layouts] == ["fastai", "cambridge", "kaggle"]


@pytest.mark.parametrize("name", ["camvid", "camvid-elab", "camvid32"])
def test_camvid_layouts_use_the_published_values_and_colors(name: str, camvid_codes: dict) -> None:
    layouts = {layout.name: layout for layout in load_recipe(name).layouts}
    assert layouts["fastai"].values == dict(enumerate(camvid_codes))
    for layout in ("cambridge", "kaggle"):
        assert layouts[layout].colors == {label: color for label, (color, _) in camvid_codes.items()}


def test_camvid32_has_every_label_but_void_as_a_class_with_its_color(camvid_codes: dict) -> None:
    recipe = load_recipe("camvid32")
    assert {entry.name: (entry.id, entry.color) for entry in recipe.classes} == {
        label: (value, color) for value, (label, (color, _)) in enumerate(camvid_codes.items()) if label != "Void"
    }


def test_cityscapes_classes_are_the_official_train_ids() -> None:
    recipe = load_recipe("cityscapes")
    train_ids = {name: train_id for _, name, train_id in cityscapes_table() if train_id != 255}
    assert {entry.name: entry.id for entry in recipe.classes} == train_ids
    assert recipe.class_names == sorted(train_ids, key=train_ids.__getitem__)


def test_cityscapes_maps_label_ids_as_the_official_table_does() -> None:
    recipe = load_recipe("cityscapes")
    assert recipe.layouts[0].values is not None
    channels = {value: recipe.channel_of_label[name] for value, name in recipe.layouts[0].values.items()}
    official = {label_id: None if train_id == 255 else train_id for label_id, _, train_id in cityscapes_table()}
    assert channels == official | {255: None}


def test_cityscapes34_has_every_label_id_as_a_class() -> None:
    recipe = load_recipe("cityscapes34")
    assert [(entry.id, entry.name) for entry in recipe.classes] == [(i, name) for i, name, _ in cityscapes_table()]
    assert recipe.channel_of_label["license plate"] is None


# Finding a recipe


def test_a_recipe_is_found_by_name_and_by_path(own_recipe: Callable[..., Path]) -> None:
    assert find_shipped("camvid", recipe_folder(), "recipe") == recipe_folder() / "camvid.toml"
    assert load_recipe(own_recipe()).class_names == ["ground", "wall", "air"]
    assert load_recipe(str(own_recipe())).void.id == 99


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    assert "'camvdi'" in refusal("camvdi")
    assert "did you mean 'camvid'" in refusal("camvdi")
    assert f"shipped are {', '.join(recipe_names())};" in refusal("zzz")


def test_a_recipe_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "gone.toml") in refusal(tmp_path / "gone.toml")


def test_a_shipped_recipe_copied_elsewhere_with_its_lists_is_the_same(tmp_path: Path) -> None:
    shutil.copy(recipe_folder() / "camvid.toml", tmp_path / "mine.toml")
    shutil.copytree(recipe_folder() / "camvid", tmp_path / "camvid")
    (tmp_path / "camvid" / "val.txt").write_text("0016E5_07959\n", encoding="utf-8")
    copied, shipped = load_recipe(tmp_path / "mine.toml"), load_recipe("camvid")
    assert copied.splits["val"].stems == ("0016E5_07959",)  # its own list, not the shipped one
    assert copied.splits["train"] == shipped.splits["train"]
    assert copied.classes == shipped.classes


def test_a_list_may_hold_stems_or_file_names_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a\r\nb.png\n\nsub/c.JPG\n d.e \n", encoding="utf-8")
    assert read_stems(file) == ["a", "b", "sub/c", "d.e"]


# A base


def test_a_recipe_takes_over_what_its_base_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "camvid"\nname = "mine"\nlayouts = ["segnet"]\n[training]\nbs = 4\n', encoding="utf-8")
    file = file.rename(tmp_path / "camvid.toml")  # the base's own name
    recipe, base = load_recipe(file), load_recipe("camvid")
    assert (recipe.name, recipe.title) == ("mine", base.title)
    assert (recipe.classes, recipe.void, recipe.splits) == (base.classes, base.void, base.splits)
    assert recipe.layouts == base.layouts[:1]
    assert recipe.training == base.training | {"bs": 4}


@pytest.mark.parametrize("base", ["nosuch", "mine.toml", ""])
def test_an_unknown_base_is_refused(tmp_path: Path, base: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{base}"\nname = "mine"\n', encoding="utf-8")
    message = refusal(file)
    assert str(file) in message
    assert f"base: {base!r}" in message


def test_a_layout_that_the_base_does_not_have_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "camvid"\nname = "mine"\nlayouts = ["segnet", "kitti"]\n', encoding="utf-8")
    message = refusal(file)
    assert str(file) in message
    assert "layouts[1]" in message
    assert "'kitti'" in message


OTHER_FILES = """
base = "camvid"
name = "mine"
[[layouts]]
name = "mine"
images = "{split}/{stem}.png"
labels = "{split}_labels/{stem}.png"
"""


def test_a_recipe_with_files_of_its_own_inherits_nothing_that_belongs_to_those_of_its_base(tmp_path: Path) -> None:
    for base in ("camvid", "cityscapes"):
        (file := tmp_path / "mine.toml").write_text(OTHER_FILES.replace("camvid", base), encoding="utf-8")
        recipe = load_recipe(file)
        assert (recipe.fetch, recipe.group, recipe.official_scores) == (None, None, None)
        assert recipe.classes == load_recipe(base).classes
    assert load_recipe("cityscapes34").official_scores == "cityscapes"  # it names no layouts
    (tmp_path / "gta5.toml").write_text('base = "gta5"\nname = "mine"\n', encoding="utf-8")
    assert load_recipe(tmp_path / "gta5.toml").leave_out == ("15188", "17705")


@pytest.mark.parametrize(("key", "layout"), [("values", "fastai"), ("colors", "cambridge")])
def test_a_layout_takes_over_the_values_or_colors_of_another(tmp_path: Path, key: str, layout: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'{OTHER_FILES}{key} = "{layout}"\n', encoding="utf-8")
    expected = {entry.name: entry for entry in load_recipe("camvid").layouts}[layout]
    assert getattr(load_recipe(file).layouts[0], key) == getattr(expected, key)
    again = f'[[layouts]]\nname = "again"\nimages = "a/{{stem}}.png"\nlabels = "b/{{stem}}.png"\n{key} = "mine"\n'
    file.write_text(f'{OTHER_FILES}{key} = "{layout}"\n{again}', encoding="utf-8")
    assert getattr(load_recipe(file).layouts[1], key) == getattr(expected, key)


@pytest.mark.parametrize(
    ("key", "layout"), [("values", "nosuch"), ("values", "cambridge"), ("colors", "segnet"), ("values", "mine")]
)
def test_values_of_a_layout_that_has_none_are_refused(tmp_path: Path, key: str, layout: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'{OTHER_FILES}{key} = "{layout}"\n', encoding="utf-8")
    assert refusal(file) == f"{file}: layouts[0].{key}: no layout {layout!r} that has {key}"


def test_frames_to_leave_out_stand_in_the_recipe_or_in_a_list(own_recipe: Callable[..., Path]) -> None:
    inline = own_recipe(('name = "own"\n', 'name = "own"\nleave_out = ["f1", "f4"]\n'))
    assert load_recipe(inline).leave_out == ("f1", "f4")
    in_list = own_recipe(('name = "own"\n', 'name = "own"\nleave_out = "bad.txt"\n'))
    (in_list.parent / "bad.txt").write_text("f4.png\nf1\n", encoding="utf-8")
    assert load_recipe(in_list).leave_out == ("f4", "f1")


# What does not fit

WALL = 'id = 20\nname = "wall"\ncolor = [0, 200, 0]'
LABELS = 'labels = "masks/{stem}.png"'
IMAGES = 'images = "frames/{stem}.png"'
FRACTIONS = "train = { fraction = 0.45 }"


MISFITS = [  # what is replaced in the recipe, by what, and a part of the message
    ('name = "own"\n', 'name = "own"\ncolor = 1\n', "unknown key 'color'"),
    (WALL, WALL + "\nweight = 2", "unknown key 'classes[1].weight'"),
    ("[void]\n", "[void]\nlabel = 3\n", "unknown key 'void.label'"),
    (FRACTIONS, "train = { fractoin = 0.6 }", "unknown key 'splits.train.fractoin'"),
    (WALL, WALL.replace("= 20", "= 10"), "id 10 is used twice"),
    (WALL, WALL.replace("= 20", "= 99"), "id 99 is used twice"),
    (WALL, WALL.replace("wall", "ground"), "name 'ground' is used twice"),
    (WALL, WALL + '\nlabels = ["brick", "brick"]', "'brick' is used twice"),
    (WALL, WALL.replace("\ncolor = [0, 200, 0]", ""), "classes[1].color: Field required"),
    (WALL, WALL.replace("200", "256"), "classes[1].color[1]"),
    (WALL, WALL.replace("20\n", "-1\n"), "classes[1].id"),
    (LABELS, LABELS + '\nvalues = { 0 = "wall", 1 = "roof" }', "layouts[0]: 'roof'"),
    (LABELS, LABELS + "\ncolors = { roof = [1, 2, 3] }", "layouts[0]: 'roof'"),
    (LABELS, LABELS + "\ncolors = { wall = [1, 2, 3], air = [1, 2, 3] }", "two raw labels share a color"),
    (LABELS, LABELS + "\nvalues = { 1 = 'wall' }\ncolors = { air = [1, 2, 3] }", "exclude each other"),
    (LABELS, LABELS + "\nchannel = 'red'\ncolors = { air = [1, 2, 3] }", "channel and colors exclude each other"),
    (LABELS, LABELS + "\nchannel = 'alpha'", "layouts[0].channel"),
    (LABELS, LABELS + '\nvalues = { 70000 = "wall" }', "layouts[0].values"),
    (IMAGES, 'images = "../frames/{stem}.png"', "must be inside the data folder"),
    (IMAGES, 'images = "/frames/{stem}.png"', "must be inside the data folder"),
    (LABELS, 'labels = "masks/../../{stem}.png"', "must be inside the data folder"),
    (IMAGES, 'images = "frames/*.png"', "has no {stem}"),
    (LABELS, 'labels = "masks/{city}/{stem}.png"', "{city} is not a field of images"),
    (LABELS, 'labels = "*/{stem}.png"', "without '*'"),
    (LABELS, LABELS + '\nsize = "wide"', "layouts[0].size"),
    ("bs = 2", "bs = 0", "training: bs"),
    ("bs = 2", 'train_on = "train+vall"', "training: train_on: 'vall' is not a split"),
    ("bs = 2", "bs = 'many'", "training: bs"),
    ("bs = 2", "batch_size = 2", "training: unknown key 'batch_size'"),
    ('size = "64x48"', 'size = "64"', "training: size"),
    (FRACTIONS, "train = { fraction = 0.7 }", "add up to more than 1"),
    (FRACTIONS, "train = { fraction = 1.5 }", "splits.train.fraction"),
    (FRACTIONS, "train = {}", "splits.train: layout 'flat' needs a list, a fraction or a group"),
    (FRACTIONS, 'train = { data_list = "../train.txt" }', "must be inside the data folder"),
    ('name = "own"\n', 'name = "own"\nleave_out = "../bad.txt"\n', "must be inside the recipe's folder"),
    (FRACTIONS, 'train = { group = ["a"] }', "splits.train.group: the recipe does not say what a group is"),
    (FRACTIONS, 'train = { group = ["a"], fraction = 0.1 }', "leave out folder, list and fraction"),
    ('name = "own"\n', 'name = "own"\ngroup = "drive"\n', "group: {drive} is not a field of layouts[0].images"),
    ('name = "own"\n', 'name = "own"\ngroup = { stem = "(a" }\n', "'(a' is not a regular expression"),
    ('name = "own"\n', 'name = "own"\ngroup = { stem = "(a+)+$" }\n', "too complex"),
    ('name = "own"\n', 'name = "own"\ngroup = { stem = "a*b*c*d*e*f" }\n', "too complex"),
    ("bs = 2", 'train_on = "group:a"', "training: train_on: 'group:a' is not a split"),
    ('name = "own"\n', "", "name: Field required"),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISFITS, ids=[expected for *_, expected in MISFITS])
def test_a_recipe_that_does_not_fit_is_refused_by_file_and_key(
    own_recipe: Callable[..., Path], old: str, new: str, expected: str
) -> None:
    file = own_recipe((old, new))
    message = refusal(file)
    assert message.startswith(f"{file}: ")
    assert expected in message


@pytest.mark.parametrize(
    "text",
    [
        "classes = 'all'",
        "base = 'camvid'\nlayouts = 3",
        "base = 'camvid'\ntraining = 3",
        "base = 'camvid'\nsplits = 3",
        "base = 'camvid'\nsplits = ['train']",
        "base = ['camvid']",
    ],
)
def test_a_key_of_the_wrong_kind_is_refused_by_file_and_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'name = "mine"\ntitle = ""\nsource = ""\n{text}\n', encoding="utf-8")
    message = refusal(file)
    assert message.startswith(f"{file}: ")
    assert text.splitlines()[-1].split()[0] in message


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc"])
def test_a_splits_folder_outside_of_the_data_folder_is_refused(own_recipe: Callable[..., Path], folder: str) -> None:
    message = refusal(
        own_recipe(
            (IMAGES, 'images = "{split}/{stem}.png"'),
            (LABELS, 'labels = "{split}-masks/{stem}.png"'),
            (FRACTIONS, f"train = {{ folder = '{folder}' }}"),
        )
    )
    assert "splits.train" in message


def test_a_missing_list_is_refused_by_name(own_recipe: Callable[..., Path]) -> None:
    file = own_recipe((FRACTIONS, 'train = { list = "lists/train.txt" }'))
    assert str(file.parent / "lists" / "train.txt") in refusal(file)
    file = own_recipe(('name = "own"\n', 'name = "own"\nleave_out = "bad.txt"\n'))
    assert str(file.parent / "bad.txt") in refusal(file)


def test_a_split_with_two_lists_is_refused(own_recipe: Callable[..., Path]) -> None:
    file = own_recipe((FRACTIONS, 'train = { list = "a.txt", data_list = "a.txt" }'))
    (file.parent / "a.txt").write_text("f1\n", encoding="utf-8")
    assert "splits.train: list and data_list exclude each other" in refusal(file)


def test_a_file_that_is_no_toml_is_refused_with_its_line(own_recipe: Callable[..., Path]) -> None:
    file = own_recipe(("id = 10", "id = = 10"))
    message = refusal(file)
    assert str(file) in message
    assert "line 6" in message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_bytes(b"name = \xff\xfe")
    assert str(file) in refusal(file)


def test_a_recipe_is_frozen() -> None:
    recipe: Recipe = load_recipe("camvid")
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_a_name_that_would_mean_two_things_is_refused(own_recipe: Callable[..., Path]) -> None:
    borrowed = own_recipe(("color = [0, 200, 0]", 'color = [0, 200, 0]\nlabels = ["ground"]'))
    assert "'ground' is the name of a class and a raw label of another" in refusal(borrowed)
    assert "'void' cannot be the name of a class" in refusal(own_recipe(('name = "wall"', 'name = "void"')))


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_recipe_on_a_page_is_complete(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    (tmp_path / "yard.toml").write_text(text.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    recipe = load_recipe(tmp_path / "yard.toml")
    assert recipe.class_names == ["ground", "obstacle"]
    assert set(recipe.splits) == {"train", "val"}
