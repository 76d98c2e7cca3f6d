"""The look for leaks: shared files and pixels, copies in another form, groups in two splits, neighbors in time."""

import json
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.data import street
from linknet_fastai.data.leaks import FILE, GROUP, NEAR, PIXELS, TIME, Leak, Selected, find_leaks, leak_notes
from linknet_fastai.data.looks import LENGTH, NEARLY_EQUAL, equal_looks, look_of, nearest_looks
from linknet_fastai.data.match import Frame
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import survey

SIZE = (160, 120)


def scene(seed: int) -> Image.Image:
    return street.draw_scene(seed, SIZE)[0]


def reencoded(image: Image.Image, file: Path, scale: float, quality: int) -> Path:
    size = round(image.width * scale), round(image.height * scale)
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file


def numbered(folder: Path, *stems: str) -> list[Frame]:
    return [Frame(folder / "frames" / "f0.png", Path(), stem, stem.rpartition("_")[0] or None) for stem in stems]


def of_groups(first: list[Frame], second: list[Frame], own_tree: Path, own_recipe: Callable) -> dict[str, Leak]:
    leaks = find_leaks(open_dataset(own_recipe(), own_tree), Selected("train", first), Selected("val", second))
    return {leak.kind: leak for leak in leaks}


def test_a_copy_of_another_size_and_encoding_is_found_and_other_scenes_are_not(tmp_path: Path) -> None:
    scenes = [scene(seed) for seed in range(6)]
    copies = [
        Image.open(reencoded(scenes[at], tmp_path / f"{at}.jpg", scale, quality)).convert("RGB")
        for at, (scale, quality) in enumerate(((0.5, 75), (1.6, 90), (0.4, 60)))
    ]
    looks = [look_of(image) for image in scenes]
    nearest, distances = nearest_looks(looks, [look_of(image) for image in copies])
    assert nearest.tolist() == [0, 1, 2]
    assert distances.max() < NEARLY_EQUAL
    assert nearest_looks(looks[:3], looks[3:])[1].min() > 2 * NEARLY_EQUAL
    assert equal_looks(looks, [look_of(scenes[4].copy()), *map(look_of, copies)]) == {0: 4}


def test_images_without_contrast_look_like_none() -> None:
    flat = [look_of(Image.new("RGB", SIZE, color)) for color in ("black", "gray")]
    assert np.isinf(nearest_looks(flat, [*flat, ""])[1]).all()
    assert equal_looks(flat, [flat[1], ""]) == {0: 1}


def test_comparing_20_000_images_takes_less_than_a_minute() -> None:
    data = np.random.default_rng(0).bytes(5000 * 264)
    looks = [b64encode(data[begin : begin + 264]).decode() for begin in range(0, len(data), 264)]
    assert {len(look) for look in looks} == {LENGTH}
    begin = time.process_time()
    nearest, distances = nearest_looks(looks, looks[::-1])
    assert time.process_time() - begin < 60 / 16  # a sixteenth of the pairs
    assert nearest.tolist() == list(range(5000))[::-1]
    assert abs(distances).max() < 1e-5


def test_a_planted_copy_a_link_and_equal_pixels_are_each_counted_once(
    own_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for split, seeds in (("train", range(4)), ("val", range(10, 12))):
        for kind in ("frames", "masks"):
            (data / split / kind).mkdir(parents=True)
        for seed in seeds:
            scene(seed).save(data / split / "frames" / f"{seed}.png")
            Image.fromarray(np.full(SIZE[::-1], 10, np.uint8)).save(data / split / "masks" / f"{seed}.png")
    reencoded(scene(1), data / "val/frames/20.jpg", 0.5, 75)
    Image.fromarray(np.full((60, 80), 10, np.uint8)).save(data / "val/masks/20.png")
    scene(2).save(data / "val/frames/21.bmp")
    (data / "val/frames/22.png").hardlink_to(data / "train/frames/3.png")
    for stem in (21, 22):
        Image.fromarray(np.full(SIZE[::-1], 10, np.uint8)).save(data / f"val/masks/{stem}.png")
    recipe = own_recipe(
        ('"frames/{stem}.png"', '"{split}/frames/{stem}.*"'),
        ('"masks/{stem}.png"', '"{split}/masks/{stem}.png"'),
        ("{ fraction = 0.45 }", "{}"),
        ("{ fraction = 0.55 }", "{}"),
    )
    dataset = open_dataset(recipe, data)
    selected = [Selected(n, f := dataset.frames(n), survey(dataset, f).looks) for n in ("train", "val")]
    leaks = find_leaks(dataset, *selected)
    assert [(leak.kind, leak.frames, leak.of, leak.example) for leak in leaks] == [
        (FILE, 1, 5, "train/frames/3.png and val/frames/22.png"),
        (PIXELS, 1, 5, "train/frames/2.png and val/frames/21.bmp"),
        (NEAR, 1, 5, "train/frames/1.png and val/frames/20.jpg"),
    ]
    assert [note[:37] for note in leak_notes(leaks)] == [
        "val: 1 of 5 frames have the same pixe",
        "val: 1 of 5 frames look the same as f",
    ]


def test_groups_in_two_splits_and_their_neighbors_in_time_are_found(
    own_recipe: Callable[..., Path], own_tree: Path
) -> None:
    train = numbered(own_tree, "a_0030", "a_0060", "a_0090", "b_0001")
    found = of_groups(train, numbered(own_tree, "a_0062", "a_0225", "a_5000", "c_0060"), own_tree, own_recipe)
    assert found.keys() == {FILE, GROUP, TIME}  # every frame here is this file
    assert (found[GROUP].frames, found[GROUP].of, found[GROUP].detail) == (3, 4, "a")
    assert (found[TIME].frames, found[TIME].example) == (2, "a_0060 and a_0062")
    assert found[TIME].detail == "none is more than 135 numbers from one"
    assert leak_notes([found[GROUP], found[TIME]]) == [
        "val: 3 of 4 frames are of groups that train has as well (a), 2 of them close in time, none is "
        "more than 135 numbers from one; scores are higher than where everything is new"
    ]


def test_frames_without_a_group_and_of_other_groups_share_nothing(
    own_recipe: Callable[..., Path], own_tree: Path
) -> None:
    found = of_groups(numbered(own_tree, "7", "a_0001"), numbered(own_tree, "8", "b_0001"), own_tree, own_recipe)
    assert found.keys() == {FILE}


def test_street_and_a_tree_split_by_city_are_clean(street_data: Path, cityscapes_tree: Path) -> None:
    dataset = open_dataset("street", street_data)
    selected = [Selected(n, f := dataset.frames(n), survey(dataset, f).looks) for n in ("train", "val")]
    assert find_leaks(dataset, *selected) == []
    dataset = open_dataset("cityscapes", cityscapes_tree)
    assert find_leaks(dataset, *(Selected(name, dataset.frames(name)) for name in ("train", "val"))) == []


def test_camvids_published_val_is_neighbors_of_train(fastai_tree: Path) -> None:
    dataset = open_dataset("camvid", fastai_tree)
    leaks = find_leaks(dataset, *(Selected(name, dataset.frames(name)) for name in ("train", "val")))
    group, close = leaks[-2:]
    assert (group.kind, group.frames, group.of, group.example) == (GROUP, 101, 101, "0016E5")
    assert (close.kind, close.frames, close.detail) == (TIME, 101, "none is more than 135 numbers from one")


def test_data_writes_what_it_found_as_json(
    command: Callable[..., int], segnet_tree: Path, capfd: pytest.CaptureFixture
) -> None:
    assert command("data", "camvid", "--data", segnet_tree, "--json", "found.json") == 0
    assert "what splits share" in capfd.readouterr().out
    found = json.loads(Path("found.json").read_text())
    assert (found["splits"]["train"]["frames"], found["splits"]["test"]) == (2, None)
    assert {leak["kind"] for leak in found["leaks"]} <= {FILE, PIXELS, NEAR, GROUP, TIME}
    assert "looks" not in found["splits"]["train"]
