"""Data sets as users have them: every frame is found and counted once, and what is unusual is reported."""

import codecs
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.presets import load_preset
from linknet_fastai.config.recipe import load_recipe, read_stems
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.files import cache_folder
from linknet_fastai.data.cache import cached_frames, clear_caches
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.fetch import clear_old_scenes, draw_street, fetch
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import MOST_SURVEYS, survey
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.training.data_check import inspect_data

OwnRecipe = Callable[..., Path]
PIXELS = 48 * 36
IMAGES, LABELS = '"frames/{stem}.png"', '"masks/{stem}.png"'
ALL = ("train = { fraction = 0.45 }\nval = { fraction = 0.55 }", "train = { fraction = 1.0 }")
LISTS = (
    "train = { fraction = 0.45 }\nval = { fraction = 0.55 }",
    'train = { list = "a.txt" }\nval = { list = "b.txt" }',
)
NO_VOID = ("[void]\nid = 99\n", "")


def save(file: Path, value: int | None = None) -> Path:
    """Write an image of 48x36 or, with a value, a label map of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((36, 48, 3), np.uint8) if value is None else np.full((36, 48), value, np.uint8)
    kind = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}.get(file.suffix.lower(), "JPEG")
    Image.fromarray(array).save(file, kind)
    return file


def found(dataset: Dataset, split: str = "train") -> dict[str, str]:
    """The names of the image and of the label map of each frame of a split."""
    return {frame.image.name: frame.label.name for frame in dataset.frames(split)}


# What label maps contain


def binary_masks(folder: Path, white: int) -> Path:
    for number in range(4):
        save(folder / f"frames/{number}.png")
        mask = save(folder / f"masks/{number}.png", 10)
        Image.fromarray(np.repeat(np.uint8([[10], [white]]), 48, 1).repeat(18, 0)).save(mask)
    return folder


def test_masks_of_0_and_255_are_noted_with_the_class_that_has_no_pixel(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    dataset = open_dataset(own_recipe(NO_VOID), binary_masks(tmp_path / "data", 255))
    notes = inspect_data(dataset, tmp_path / "batch.png").notes
    assert [note.split(":")[0] for note in notes] == ["train", "val"]
    for note in notes:
        assert "no pixel of wall, air; 50% of the pixels are 255, which is void by default" in note
        assert "[void] id" in note
    with pytest.warns(UserWarning, match="no pixel of wall, air"):
        found = segmentation_dls(own_recipe(NO_VOID), dataset.folder, workers=0, bs=2).notes
    assert [note for note in found if "have the same pixels as" not in note] == notes  # all images are equal
    scored = evaluate(Predictor(LinkNet(3, pretrained=False), ModelCard.of(dataset.recipe, (64, 48)), "cpu"), dataset)
    assert scored.data_notes == notes[1:]


def test_a_class_without_a_pixel_is_noted_where_void_is_written(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    dataset = open_dataset(own_recipe(), binary_masks(tmp_path / "data", 20))
    assert inspect_data(dataset, tmp_path / "batch.png").notes == ["train: no pixel of air", "val: no pixel of air"]


def test_a_split_that_is_void_throughout_is_refused(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    for split, value in (("train", 255), ("val", 255), ("good", 10)):
        save(tmp_path / f"data/{split}/0.png"), save(tmp_path / f"data/{split}_masks/0.png", value)
    folders = 'train = { folder = "train" }\nval = { folder = "val" }\ngood = { folder = "good" }'
    recipe = own_recipe(
        NO_VOID, (IMAGES, '"{split}/{stem}.png"'), (LABELS, '"{split}_masks/{stem}.png"'), (ALL[0], folders)
    )
    problems = inspect_data(open_dataset(recipe, tmp_path / "data"), tmp_path / "batch.png").problems
    assert [problem.split(": ")[1] for problem in problems] == [
        f"no pixel of {s} has a class" for s in ("train", "val")
    ]
    for train_on, validate_on in (("train", "good"), ("good", "val")):
        for cache in (True, False):
            with pytest.raises(UserError, match=r"100% of the pixels are 255, which is void by default.*\[void\] id"):
                segmentation_dls(
                    recipe, tmp_path / "data", train_on=train_on, validate_on=validate_on, cache=cache, workers=0
                )


def test_id_255_for_a_class_names_the_default_of_void(own_recipe: OwnRecipe) -> None:
    with pytest.raises(UsageError, match=r"id 255 is used twice; it is the id of void by default.*\[void\] id"):
        load_recipe(own_recipe(NO_VOID, ("id = 20", "id = 255")))
    with pytest.raises(UsageError, match=r"id 99 is used twice$"):
        load_recipe(own_recipe(("id = 20", "id = 99")))


# Which files are frames


@pytest.mark.parametrize(
    ("ending", "files"),
    [
        (".jpg", ["a.jpg", "b.JPG", "c.jpeg", "d.Jpeg"]),
        (".JPEG", ["a.jpg", "b.JPEG"]),
        (".png", ["a.PNG", "b.png"]),
        (".tif", ["a.tiff", "b.TIF"]),
        (".*", ["a.JPG", "b.png", "c.tiff"]),
    ],
)
def test_endings_in_capitals_and_of_the_same_meaning(
    own_recipe: OwnRecipe, tmp_path: Path, ending: str, files: list[str]
) -> None:
    for number, name in enumerate(files):
        save(tmp_path / "data/frames" / name)
        save(tmp_path / "data/masks" / f"{name[0]}.{('png', 'PNG')[number % 2]}", (10, 20)[number % 2])
    dataset = open_dataset(own_recipe((IMAGES, f'"frames/{{stem}}{ending}"'), ALL), tmp_path / "data")
    assert found(dataset) == {name: f"{name[0]}.{('png', 'PNG')[i % 2]}" for i, name in enumerate(files)}
    ids = (len(files) + 1) // 2, len(files) // 2
    assert survey(dataset, dataset.frames("train")).class_pixels == [PIXELS * ids[0], PIXELS * ids[1], 0]
    assert dataset.notes("train") == []


def test_files_that_are_left_out_are_counted(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "no-mask.jpg", "other.png", "other2.bmp"):
        save(tmp_path / "data/frames" / name)
    for name in ("a", "b", "other", "no-image", "no-image2"):
        save(tmp_path / "data/masks" / f"{name}.png", 10)
    (tmp_path / "data/frames/notes.txt").touch()
    dataset = open_dataset(own_recipe((IMAGES, '"frames/{stem}.jpg"'), ALL), tmp_path / "data")
    assert [*found(dataset)] == ["a.jpg", "b.jpg"]
    unlabeled, unused, others = dataset.notes("train")
    assert unlabeled.startswith("images without a label map, left out: 1, first")
    assert "no-mask.jpg" in unlabeled
    assert unused.startswith("label maps without an image, left out: 3, first")
    assert 'images = "frames/{stem}.*"' in others
    assert "left out: 2, first" in others
    assert inspect_data(dataset, tmp_path / "batch.png").notes[:3] == [unlabeled, unused, others]


def test_one_frame_in_two_formats_is_not_counted_twice(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png", "2.jpg"):
        save(tmp_path / "data/frames" / name)
        save(tmp_path / "data/masks" / f"{name[0]}.png", 10)
    with pytest.raises(UserError, match=r"1\.jpg and .*1\.png: two images of one frame"):
        open_dataset(own_recipe((IMAGES, '"frames/{stem}.*"'), ALL), tmp_path / "data").frames("train")
    only = open_dataset(own_recipe((IMAGES, '"frames/{stem}.jpg"'), ALL), tmp_path / "data")
    assert ([*found(only)], only.notes("train")) == (["1.jpg", "2.jpg"], [])


@pytest.mark.parametrize("data", ["data", ".hidden/data", "zip"])
def test_what_systems_leave_behind_is_no_frame(own_recipe: OwnRecipe, tmp_path: Path, data: str) -> None:
    folder = tmp_path / data / ("set" if data == "zip" else "")
    save(folder / "frames/1.png"), save(folder / "masks/1.png", 10)
    for junk in ("._1.png", "._2.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for kind in ("frames", "masks"):
            (folder / kind / junk).write_bytes(b"\0\5\x16\7")
    for left in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        save(folder / left / "frames/3.png"), save(folder / left / "masks/3.png", 10)
        save(folder / "frames" / left / "4.png")
    if data == "zip":
        shutil.copytree(folder / "__MACOSX", tmp_path / data / "__MACOSX")
    for images, labels in ((IMAGES, LABELS), ('"{kind}rames/{stem}.png"', LABELS)):
        dataset = open_dataset(own_recipe((IMAGES, images), (LABELS, labels), ALL), tmp_path / data)
        assert found(dataset) == {"1.png": "1.png"}
        assert dataset.folder == folder
        assert dataset.notes("train") == []
    deep = own_recipe((IMAGES, '"frames/{any}/{stem}.png"'), (LABELS, '"masks/{any}/{stem}.png"'), ALL)
    with pytest.raises(UserError, match="no own data here"):
        open_dataset(deep, tmp_path / data)
    named = own_recipe((IMAGES, '"@eaDir/frames/{stem}.png"'), (LABELS, '"@eaDir/masks/{stem}.png"'), ALL)
    assert found(open_dataset(named, folder)) == {"3.png": "3.png"}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("all/{stem}.png", "all/{stem}_mask.png"),
        ("{stem}.png", "{stem}_L.png"),
        ("all/{stem}.png", "all/gt_{stem}.png"),
        ("all/{stem}.jpg", "all/{stem}.png"),
        ("all/{stem}_rgb.png", "all/{stem}.png"),
        ("all/{stem}.png", "all/labels/{stem}.png"),
        ("{folder}/{stem}.png", "masks/{stem}.png"),
    ],
)
def test_a_label_map_beside_its_image_is_no_image(
    own_recipe: OwnRecipe, tmp_path: Path, images: str, labels: str
) -> None:
    for stem in ("x", "y"):
        save(tmp_path / "data" / images.format(stem=stem, folder="photos"))
        save(tmp_path / "data" / labels.format(stem=stem), 20)
    alone = save(tmp_path / "data" / labels.format(stem="z"), 20)
    lonely = save(tmp_path / "data" / images.format(stem="w", folder="photos"))
    dataset = open_dataset(own_recipe((IMAGES, f'"{images}"'), (LABELS, f'"{labels}"'), ALL), tmp_path / "data")
    assert [frame.stem for frame in dataset.frames("train")] == ["x", "y"]
    assert survey(dataset, dataset.frames("train")).class_pixels == [0, 2 * PIXELS, 0]
    assert dataset.notes("train") == [
        f"images without a label map, left out: 1, first {lonely}",
        f"label maps without an image, left out: 1, first {alone}",
    ]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("label_on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_names_in_another_unicode_form(
    own_recipe: OwnRecipe, tmp_path: Path, on_disk: str, label_on_disk: str, written: str
) -> None:
    save(tmp_path / "data" / unicodedata.normalize(on_disk, "Übersicht/frames/Straße é.png"))
    save(tmp_path / "data" / unicodedata.normalize(label_on_disk, "Übersicht/masks/Straße é.png"), 10)
    prefix = unicodedata.normalize(written, "Übersicht/")
    recipe = own_recipe((IMAGES, f'"{prefix}frames/{{stem}}.png"'), (LABELS, f'"{prefix}masks/{{stem}}.png"'), ALL)
    dataset = open_dataset(recipe, tmp_path / "data")
    assert survey(dataset, dataset.frames("train")).class_pixels == [PIXELS, 0, 0]
    (names := tmp_path / "list.txt").write_text(unicodedata.normalize(written, "Straße é\n"), encoding="utf-8")
    assert dataset.frames(str(names)) == dataset.frames("train")


# Lists and texts


@pytest.mark.parametrize(
    "lines",
    [
        "f1\nf2.png\nf1\nf2\n",
        "f1\r\nframes\\f1.png\r\nf2.PNG\r\n",
        "frames/f1.png masks/f1.png\nframes/f2.png\tmasks/f2.png\n",
        "/SegNet/frames/f1.png /SegNet/masks/f1.png\n./frames/f2.png,masks/f2.png\n",
        "C:\\data\\frames\\f1.png;C:\\data\\masks\\f1.png\rf2\r",
        "\ufefff1\n\ufefff2.png\n",  # two files joined, each with its byte order mark
    ],
)
def test_lists_as_people_make_them_name_each_frame_once(
    own_recipe: OwnRecipe, own_tree: Path, tmp_path: Path, lines: str
) -> None:
    recipe = own_recipe(LISTS)
    (recipe.parent / "a.txt").write_text(lines, encoding="utf-8", newline="")
    (recipe.parent / "b.txt").write_text("f7\nf8.png", encoding="utf-8")
    dataset = open_dataset(recipe, own_tree)
    assert [frame.stem for frame in dataset.frames("train")] == ["f1", "f2"]
    assert dataset.frames(str(recipe.parent / "a.txt")) == dataset.frames("train")


def test_a_listed_path_decides_between_frames_of_one_name(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    for name, value in (("day/1", 10), ("night/1", 20), ("day/2", 30)):
        save(tmp_path / f"data/frames/{name}.png"), save(tmp_path / f"data/masks/{name}.png", value)
    recipe = own_recipe((IMAGES, '"frames/{time}/{stem}.png"'), (LABELS, '"masks/{time}/{stem}.png"'), LISTS)
    lines = {"a.txt": "night/1.png\nold/disk/frames/day/1.png\n", "b.txt": "2"}
    for file, text in lines.items():
        (recipe.parent / file).write_text(text)
    dataset = open_dataset(recipe, tmp_path / "data")
    assert [frame.image.parent.name for frame in dataset.frames("train")] == ["night", "day"]
    for text, message in (
        ("1", "'1' names both"),
        ("dusk/1.png", "no frame 'dusk/1'"),
        ("day/2.png\nnight/2.png", "no frame 'night/2'"),
        ("x 2", "no frame 'x 2'"),
    ):
        (file := tmp_path / "some.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            dataset.frames(str(file))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_texts_as_windows_writes_them(own_recipe: OwnRecipe, own_tree: Path, tmp_path: Path, encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""

    def as_windows(file: Path, text: str) -> Path:
        file.write_bytes(mark + text.replace("\n", "\r\n").encode(encoding))
        return file

    recipe = own_recipe(LISTS, ("painted by hand", "gemalt: Übung"))
    as_windows(recipe, recipe.read_text(encoding="utf-8"))
    as_windows(recipe.parent / "a.txt", "f1\nf2.png\n")
    as_windows(recipe.parent / "b.txt", "frames\\f3.png\n")
    dataset = open_dataset(recipe, own_tree)
    assert dataset.recipe.source == "gemalt: Übung"
    assert found(dataset) == {"f1.png": "f1.png", "f2.png": "f2.png"}
    assert found(dataset, "val") == {"f3.png": "f3.png"}
    assert load_preset(as_windows(tmp_path / "mine.toml", 'title = "é"\nlr = 0.5\n')).settings == {"lr": 0.5}


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "utf-16-le"])
def test_another_encoding_is_named(own_recipe: OwnRecipe, tmp_path: Path, encoding: str) -> None:
    recipe = own_recipe(("painted by hand", "gemalt: Übung"))
    recipe.write_bytes(recipe.read_text(encoding="utf-8").encode(encoding))
    (names := tmp_path / "list.txt").write_bytes("f1\nÜbung\n".encode(encoding))
    for read in (lambda: load_recipe(recipe), lambda: read_stems(names)):
        with pytest.raises(UsageError, match=r"encoding is not UTF-8.*save it as UTF-8"):
            read()


def test_a_pattern_with_a_backslash_is_refused_with_the_fix(own_recipe: OwnRecipe) -> None:
    with pytest.raises(UsageError, match=r"images: write 'frames.*' with / in place of \\"):
        load_recipe(own_recipe((IMAGES, r"'frames\{stem}.png'")))


def test_a_pattern_may_begin_with_the_current_folder(own_recipe: OwnRecipe, own_tree: Path) -> None:
    assert len(found(open_dataset(own_recipe((IMAGES, '"./frames//{stem}.png"'), ALL), own_tree))) == 10


# Splits that share frames


@pytest.mark.parametrize("how", ["path", "link", "hard link"])
def test_splits_that_share_a_frame_are_reported(own_recipe: OwnRecipe, tmp_path: Path, how: str) -> None:
    for split in ("learn", "check"):
        for stem in ("a", "b"):
            save(tmp_path / f"data/{split}/{split}_{stem}.png"), save(tmp_path / f"data/m/{split}_{stem}.png", 10)
    (shared := tmp_path / "data/check/check_b.png").unlink()
    if how == "link":
        shared.symlink_to("../learn/learn_b.png")
    elif how == "hard link":
        os.link(tmp_path / "data/learn/learn_b.png", shared)
    recipe = own_recipe(
        (IMAGES, '"{split}/{stem}.png"'),
        (LABELS, '"m/{stem}.png"'),
        (ALL[0], 'train = { folder = "learn" }\nval = { folder = "check" }'),
    )
    dataset, other = open_dataset(recipe, tmp_path / "data"), "val"
    if how == "path":
        (tmp_path / "own.txt").write_text("check_a\nlearn_b\n")
        other = str(tmp_path / "own.txt")
    example = "learn/learn_b.png"
    advice = "scores over frames that were trained on are too high"
    expected = [f"frames in both train and {other}: 1, first {example}; {advice}"]
    assert dataset.notes("train", other)[-1:] == expected
    if how == "hard link":
        save(tmp_path / "data/m/check_b.png", 10)
        assert dataset.notes("train", other) == expected  # the other split uses the other label maps
    with pytest.warns(UserWarning, match="frames in both train and"):
        segmentation_dls(recipe, tmp_path / "data", validate_on=other, workers=0)
    assert not any(
        "both" in note for note in open_dataset(own_recipe(file="plain.toml"), own(tmp_path)).notes("train", "val")
    )


def own(folder: Path) -> Path:
    for stem in "abcd":
        save(folder / f"plain/frames/{stem}.png"), save(folder / f"plain/masks/{stem}.png", 10)
    return folder / "plain"


# Caches


def test_a_file_replaced_with_the_same_size_and_time_is_noticed(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    dataset = open_dataset(own_recipe(ALL), own(tmp_path))
    frames, file = dataset.frames("train"), tmp_path / "plain/masks/a.png"

    def wall_pixels() -> tuple[int, int]:
        cached = cached_frames(dataset, frames, "train", (16, 12), True, tmp_path / "cache")[0]
        return survey(dataset, frames).class_pixels[1], cached.class_pixels[1]

    assert wall_pixels() == (0, 0)
    before = file.stat()
    new = save(tmp_path / "new.png", 20)
    assert new.stat().st_size == before.st_size
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(file)  # as rsync and tar do
    assert wall_pixels() == (PIXELS, PIXELS)
    content = save(tmp_path / "new.png", 10).read_bytes()
    file.write_bytes(content)  # as cp -p does
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert wall_pixels() == (0, 0)


def test_recipes_and_lists_of_one_name_keep_their_caches(
    own_recipe: OwnRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        (here := tmp_path / f"here{number}").mkdir()
        (here / "list.txt").write_text("ab"[number - 1])
    folder, cache = own(tmp_path), tmp_path / "cache"
    swap = ("id = 10", "id = 11"), ("id = 20", "id = 10"), ("id = 11", "id = 20")
    for recipe in (own_recipe(file="1/own.toml"), own_recipe(*swap, file="2/own.toml")):
        dataset = open_dataset(recipe, folder)
        for number in (1, 2):
            monkeypatch.chdir(tmp_path / f"here{number}")
            cached_frames(dataset, dataset.frames("list.txt"), "list.txt", (16, 12), True, cache)
    assert len([path for path in (cache / "frames/own").iterdir() if path.is_dir()]) == 4


def test_surveys_heed_the_cache_folder_are_bounded_and_cleared(own_recipe: OwnRecipe, tmp_path: Path) -> None:
    dataset, cache = open_dataset(own_recipe(ALL), own(tmp_path)), tmp_path / "cache"
    (old := cache / "surveys/of-an-older-version.json").parent.mkdir(parents=True)
    old.write_text("{}")
    for number in range(MOST_SURVEYS + 3):
        os.utime(tmp_path / "plain/masks/a.png", ns=(0, number))
        survey(dataset, dataset.frames("train"), folder=cache)
    assert len(list((cache / "surveys/own").glob("*.json"))) == MOST_SURVEYS
    inspect_data(dataset, tmp_path / "batch.png", cache_dir=cache)
    assert clear_caches("own", cache) > 0
    assert list(cache.rglob("*.json")) == []


def test_scenes_of_older_versions_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn = {}

    def draw(folder: Path, splits: dict[str, int], **_: object) -> None:
        save(folder / "new.png")
        drawn[folder] = splits["train"]

    monkeypatch.setattr("linknet_fastai.data.street.write_scenes", draw)
    folders = [fetch(load_recipe(recipe)) for recipe in ("street", "streets", "street")]
    assert folders[0] == folders[2] != folders[1]
    assert list(drawn.values()) == [240, 1200]
    save(old := tmp_path / "linknet-fastai/street-0123456789ab/train/images/old.png")
    assert clear_old_scenes() > 0
    assert not old.exists()
    assert all((folder / "new.png").exists() for folder in folders)


# Machines


def test_without_a_home_the_named_folders_are_used(
    own_recipe: OwnRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_entry(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/linknet-fastai"
    monkeypatch.delenv("XDG_CACHE_HOME")
    dataset = open_dataset(own_recipe(ALL), own(tmp_path))
    frames = dataset.frames("train")
    assert survey(dataset, frames).class_pixels == [4 * PIXELS, 0, 0]
    assert len(cached_frames(dataset, frames, "train", (16, 12), True, tmp_path / "cache")[1]) == 4
    for use in (
        cache_folder,
        lambda: draw_street(240),
        lambda: cached_frames(dataset, frames, "train", (16, 12), True),
    ):
        with pytest.raises(UserError, match="no home folder: set XDG_CACHE_HOME"):
            use()
