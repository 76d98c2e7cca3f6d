"""Recipes of published data sets: trees in their exact layouts, and each label as the publisher's table has it.

The tables in `published_labels/` name their sources and were written from them, not from the recipes.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.images import VOID
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.open import open_dataset
from linknet_fastai.training.data_check import inspect_data

WIDTH, HEIGHT = 8, 6
TABLES = Path(__file__).parent / "published_labels"
# An image, its label map and its group; a split without a name is one of the recipe's fractions.
Frames = list[tuple[str, str, str | None]]


@dataclass(frozen=True)
class Published:
    """A data set as its publisher has it: its table of labels, its frames by split, and what else is there."""

    recipe: str
    table: str
    splits: dict[str, Frames]
    mode: str = "L"  # of the label maps: grey values, colors (RGB), or a palette (P)
    others: tuple[str, ...] = ()
    lists: dict[str, str] | None = None
    layout: str = ""
    classes: int = 19


def acdc(split: str, condition: str, stem: str) -> tuple[str, str, str]:
    drive = stem.split("_")[0]
    return (
        f"rgb_anon/{condition}/{split}/{drive}/{stem}_rgb_anon.png",
        f"gt/{condition}/{split}/{drive}/{stem}_gt_labelIds.png",
        condition,
    )


def vistas(split: str, key: str, version: str = "") -> tuple[str, str, None]:
    return f"{split}/images/{key}.jpg", f"{split}/{version}labels/{key}.png", None


def a2d2(drive: str, camera: str, number: int) -> tuple[str, str, str]:
    time, view = drive.replace("_", ""), camera.replace("_", "")
    return (
        f"{drive}/camera/cam_{camera}/{time}_camera_{view}_{number:09}.png",
        f"{drive}/label/cam_{camera}/{time}_label_{view}_{number:09}.png",
        drive,
    )


def rellis(sequence: str, stem: str) -> tuple[str, str, str]:
    folder = f"{sequence}/pylon_camera_node"
    return f"{folder}/{stem}.jpg", f"{folder}_label_id/{stem}.png", sequence


def rugd(video: str, number: int) -> tuple[str, str, str]:
    name = f"{video}/{video}_{number:05}.png"
    return f"RUGD_frames-with-annotations/{name}", f"RUGD_annotations/{name}", video


def goose(split: str, scenario: str, number: int) -> tuple[str, str, str]:
    name = f"{split}/{scenario}/{scenario}__{number:04}_1658494234334310308"
    return f"images/{name}_windshield_vis.png", f"labels/{name}_labelids.png", scenario


def bdd(split: str, stem: str) -> tuple[str, str, None]:
    return f"images/10k/{split}/{stem}.jpg", f"labels/sem_seg/masks/{split}/{stem}.png", None


def idd(split: str, drive: str, number: str, ending: str = "png") -> tuple[str, str, str]:
    return (
        f"leftImg8bit/{split}/{drive}/{number}_leftImg8bit.{ending}",
        f"gtFine/{split}/{drive}/{number}_gtFine_labellevel3Ids.png",
        drive,
    )


def rellis_list(*frames: tuple[str, str, str]) -> str:
    return "".join(f"{image} {label}\n" for image, label, _ in frames)


def kitti(number: int) -> tuple[str, str, None]:
    return f"training/image_2/{number:06}_10.png", f"training/semantic/{number:06}_10.png", None


RELLIS = {
    "train": [rellis("00000", "frame000308-1581624683_550"), rellis("00001", "frame000308-1581624683_550")],
    "val": [rellis("00000", "frame001707-1581624823_450"), rellis("00004", "frame001709-1581624823_650")],
    "test": [rellis("00000", "frame000000-1581624652_750"), rellis("00002", "frame000002-1581624652_949")],
}
GTA5 = {
    "train": [(f"images/{n:05}.png", f"labels/{n:05}.png", None) for n in (1, 2)],
    "val": [(f"images/{n:05}.png", f"labels/{n:05}.png", None) for n in (22, 23)],
    "test": [(f"images/{n:05}.png", f"labels/{n:05}.png", None) for n in (11, 24966)],
}
VISTAS = {"train": "training", "val": "validation"}
KEYS = {"train": ["--NSVcUgfVhFd6uzkqHOOg", "--SWG8TJo7vrbZ_x5YLj6A"], "val": ["--BJs76vloEaiH-wppzWNA"]}
TRAILS = [f"trail-{number}" for number in (3, 4, 6, 9, 10, 11, 12, 14, 15)]
RUGD_VIDEOS = {
    "train": ["park-2", "trail", *TRAILS, "village"],
    "val": ["park-8", "trail-5"],
    "test": ["creek", "park-1", "trail-7", "trail-13"],
}

PUBLISHED = [
    Published(
        "kitti",
        "cityscapes-ids",
        {"train": [kitti(n) for n in (*range(72), *range(112, 200))], "val": [kitti(n) for n in range(72, 112)]},
        others=(
            "training/semantic_rgb/000000_10.png",
            "training/instance/000000_10.png",
            "testing/image_2/000000_10.png",
        ),
    ),
    Published(
        "bdd100k",
        "bdd100k",
        {
            "train": [bdd("train", "0000f77c-6257be58"), bdd("train", "0004a4c0-d4dff0ad")],
            "val": [bdd("val", "7d128593-0ccfea4c"), bdd("val", "7d15b18b-1e0d6e3f")],
        },
        others=("labels/sem_seg/colormaps/train/0000f77c-6257be58.png", "images/10k/test/cb7a5c4c-2b8a6b1d.jpg"),
    ),
    Published(
        "bdd100k",
        "bdd100k",
        {
            split: [(f"seg/images/{split}/{stem}.jpg", f"seg/labels/{split}/{stem}_train_id.png", None)]
            for split, stem in (("train", "0004a4c0-d4dff0ad"), ("val", "7d128593-0ccfea4c"))
        },
        layout="bdd100k-2018",
    ),
    Published(
        "acdc",
        "cityscapes-ids",
        {
            "train": [acdc("train", "fog", "GOPR0475_frame_000041"), acdc("train", "night", "GOPR0351_frame_000159")],
            "val": [acdc("val", "fog", "GOPR0476_frame_000854"), acdc("val", "snow", "GOPR0606_frame_000039")],
        },
        others=(
            "gt/fog/train/GOPR0475/GOPR0475_frame_000041_gt_labelTrainIds.png",
            "gt/fog/train/GOPR0475/GOPR0475_frame_000041_gt_labelColor.png",
            "gt/fog/train/GOPR0475/GOPR0475_frame_000041_gt_invIds.png",
            "rgb_anon/fog/train_ref/GOPR0475/GOPR0475_frame_000041_rgb_ref_anon.png",
            "rgb_anon/rain/test/GOPR0572/GOPR0572_frame_000145_rgb_anon.png",
        ),
    ),
    Published(
        "dark-zurich",
        "cityscapes-train-ids",
        {
            "val": [
                (
                    f"rgb_anon/val/night/GOPR0356/GOPR0356_frame_{n:06}_rgb_anon.png",
                    f"gt/val/night/GOPR0356/GOPR0356_frame_{n:06}_gt_labelTrainIds.png",
                    "GOPR0356",
                )
                for n in (321, 324)
            ]
        },
        others=(
            "rgb_anon/val_ref/day/GOPR0356_ref/GOPR0356_ref_frame_000321_rgb_anon.png",
            "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelColor.png",
        ),
    ),
    Published(
        "nighttime-driving",
        "cityscapes-train-ids",
        {
            "test": [
                (
                    f"leftImg8bit/test/night/01_frame_{n:04}_leftImg8bit.png",
                    f"gtCoarse_daytime_trainvaltest/test/night/01_frame_{n:04}_gtCoarse_labelTrainIds.png",
                    None,
                )
                for n in (555, 592)
            ]
        },
    ),
    Published(
        "idd",
        "idd",
        {
            "train": [idd("train", "0", "005506"), idd("train", "23", "528304", "jpg")],
            "val": [idd("val", "119", "035471"), idd("val", "119", "038937")],
        },
        others=("gtFine/train/0/005506_gtFine_labelcsTrainIds.png", "leftImg8bit/test/1/002118_leftImg8bit.png"),
        classes=26,
    ),
    Published(
        "mapillary-1.2",
        "mapillary-1.2",
        {split: [vistas(folder, key, "v1.2/") for key in KEYS[split]] for split, folder in VISTAS.items()},
        mode="P",
        others=("training/v2.0/labels/--NSVcUgfVhFd6uzkqHOOg.png", "testing/images/--Bq44dxqTBUxzVVi4l3Yw.jpg"),
        layout="vistas-2.0",
        classes=65,
    ),
    Published(
        "mapillary-1.2",
        "mapillary-1.2",
        {split: [vistas(folder, key) for key in KEYS[split]] for split, folder in VISTAS.items()},
        mode="P",
        others=("training/instances/--NSVcUgfVhFd6uzkqHOOg.png",),
        layout="vistas-1.2",
        classes=65,
    ),
    Published(
        "mapillary-2.0",
        "mapillary-2.0",
        {split: [vistas(folder, key, "v2.0/") for key in KEYS[split]] for split, folder in VISTAS.items()},
        mode="P",
        others=("training/v1.2/labels/--NSVcUgfVhFd6uzkqHOOg.png",),
        layout="vistas-2.0",
        classes=116,
    ),
    Published(
        "wilddash",
        "wilddash",
        {"": [(f"images/au{n:04}_100000.jpg", f"labels/au{n:04}_100000_labelIds.png", None) for n in range(5)]},
        others=("panoptic/au0000_100000.png",),
        classes=26,
    ),
    Published("gta5", "gta5", GTA5, mode="RGB", lists={f"{s}.txt": rellis_list(*f) for s, f in GTA5.items()}),
    Published(
        "a2d2",
        "a2d2",
        {
            "": [
                a2d2(f"2018{month:02}07_145028", camera, number)
                for month in range(4, 11)
                for camera, number in (("front_center", 1617), ("rear_center", 1617))
            ]
        },
        mode="RGB",
        others=("20180407_145028/camera/cam_front_center/20180407145028_camera_frontcenter_000001617.json",),
        classes=38,
    ),
    Published(
        "rellis3d",
        "rellis3d",
        RELLIS,
        others=(
            "00000/pylon_camera_node_label_color/frame000308-1581624683_550.png",
            "00003/pylon_camera_node/frame000000-1581624652_750.jpg",
        ),
        lists={f"{split}.lst": rellis_list(*frames) for split, frames in RELLIS.items()},
        classes=18,
    ),
    Published(
        "rugd",
        "rugd",
        {
            split: [rugd(video, number) for video in videos for number in (1, 6)]
            for split, videos in RUGD_VIDEOS.items()
        },
        mode="RGB",
        classes=24,
    ),
    Published(
        "goose",
        "goose",
        {
            "train": [
                goose("train", "2022-07-22_flight", 71),
                goose("train", "2022-08-30_siegertsbrunn_feldwege", 71),
            ],
            "val": [goose("val", "2023-03-02_garching_2", 4), goose("val", "2023-03-02_garching_2", 5)],
        },
        others=(
            "labels/train/2022-07-22_flight/2022-07-22_flight__0071_1658494234334310308_color.png",
            "labels/train/2022-07-22_flight/2022-07-22_flight__0071_1658494234334310308_instanceids.png",
        ),
        classes=64,
    ),
]


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table: raw value or color, label, class (empty where it is ignored), color."""
    lines = (TABLES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def save(pixels: np.ndarray, file: Path, palette: list[int] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = image.copy()
        image.putpalette(palette)
    image.save(file)


def labels(rows: list[dict[str, str]]) -> Iterator[np.ndarray]:
    """Endless label maps, in which one row follows the other: height x width places in the table."""
    places = cycle(range(len(rows)))
    while True:
        yield np.array(list(islice(places, HEIGHT * WIDTH))).reshape(HEIGHT, WIDTH)


def write_tree(folder: Path, case: Published, rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Write all files; returns the places in the table for each image."""
    raw = np.array([[int(part) for part in row["raw"].split()] for row in rows], np.uint8)
    palette = [int(part) for row in rows for part in row["color"].split()] if case.mode == "P" else None
    written = {}
    for (image, label, _), places in zip(chain(*case.splits.values()), labels(rows), strict=False):
        save(np.full((HEIGHT, WIDTH, 3), 99, np.uint8), folder / image)
        save(raw[places] if case.mode == "RGB" else raw[places][..., 0], folder / label, palette)
        written[image] = places
    for other in case.others:
        if other.endswith(".json"):
            (folder / other).write_text("{}", encoding="utf-8")
        else:
            save(np.full((HEIGHT, WIDTH, 3), 99, np.uint8), folder / other)
    for name, text in (case.lists or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    assert set(np.concatenate([places.ravel() for places in written.values()])) == set(range(len(rows)))
    return written


def groups(dataset: Dataset, split: str) -> dict[str, str | None]:
    return {dataset.relative_path(frame): frame.group for frame in dataset.frames(split)}


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: f"{case.recipe}-{case.layout or 'only'}")
def test_a_published_tree_is_read_as_its_table_says(case: Published, tmp_path: Path) -> None:
    rows = table(case.table)
    written = write_tree(tmp_path / "data", case, rows)
    dataset = open_dataset(case.recipe, tmp_path)  # the folder above, as archives are unpacked
    assert dataset.layout.name == (case.layout or case.recipe)
    classes = dataset.recipe.class_names
    assert len(classes) == case.classes
    # Splits and groups
    expected = {image: group for frames in case.splits.values() for image, _, group in frames}
    if "" in case.splits:
        found = [groups(dataset, split) for split in dataset.recipe.splits]
        assert sum(map(len, found)) == len(expected)
        assert {image: group for split in found for image, group in split.items()} == expected
        cut = [{group or image for image, group in split.items()} for split in found]
        assert all(cut)
        assert sum(map(len, cut)) == len(set.union(*cut))  # no group is in two of them
    else:
        assert set(dataset.recipe.splits) == set(case.splits)
        for split, frames in case.splits.items():
            assert groups(dataset, split) == {image: group for image, _, group in frames}
    # Labels
    channels = np.array([classes.index(row["class"]) if row["class"] else VOID for row in rows])
    read_label = dataset.read_label
    for split in dataset.recipe.splits:
        for frame in dataset.frames(split):
            assert (read_label.of_frame(frame) == channels[written[dataset.relative_path(frame)]]).all(), frame
    assert set(channels) - {VOID} == set(range(len(classes)))


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: f"{case.recipe}-{case.layout or 'only'}")
def test_a_class_has_a_color_that_its_publisher_gives_it(case: Published) -> None:
    colors: dict[str, set[tuple[int, ...]]] = {}
    for row in table(case.table):
        if row["class"] and row["color"]:
            colors.setdefault(row["class"], set()).add(tuple(map(int, row["color"].split())))
    for entry in load_recipe(case.recipe).classes:
        assert entry.color in colors[entry.name], entry.name


def test_every_published_recipe_says_where_its_data_and_its_license_are() -> None:
    for name in {case.recipe for case in PUBLISHED}:
        recipe = load_recipe(name)
        assert "http" in recipe.source
        assert "license" in recipe.source
        assert recipe.official_scores is None, name  # only Cityscapes' own files have them
        assert "size" in recipe.training


def test_data_of_a_recipe_for_scores_alone_are_in_order(command: Callable[..., int], tmp_path: Path, capsys) -> None:
    case = next(case for case in PUBLISHED if case.recipe == "nighttime-driving")
    write_tree(tmp_path / "data", case, table(case.table))
    assert command("data", "nighttime-driving", "--data", tmp_path / "data") == 0
    assert "nighttime-driving has no split 'train': it is for scores alone" in capsys.readouterr().err


def test_a_copy_of_a_shipped_recipe_may_train_on_what_it_joins(street_data: Path, tmp_path: Path) -> None:
    (file := tmp_path / "mine.toml").write_text(
        'base = "street"\nname = "street"\n[training]\ntrain_on = "trainval"\n'
    )
    found = inspect_data(open_dataset(file, street_data), tmp_path / "batch.png")
    assert len(found.weights) == 11
    assert (found.problems, found.absent) == ([], {})


def test_frames_of_gta5_without_a_picture_are_left_out(tmp_path: Path) -> None:
    case = next(case for case in PUBLISHED if case.recipe == "gta5")
    write_tree(tmp_path, case, table("gta5"))
    for number in ("15188", "17705"):
        for kind in ("images", "labels"):
            save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / kind / f"{number}.png")
    (tmp_path / "train.txt").write_text("00001\n00002\n15188\n17705\n", encoding="utf-8")
    assert [frame.stem for frame in open_dataset("gta5", tmp_path).frames("train")] == ["00001", "00002"]
