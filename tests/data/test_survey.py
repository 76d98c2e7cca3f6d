"""The survey: it counts correctly, names damaged files, and reads files again only if something changed."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import linknet_fastai.data.survey
from linknet_fastai.core.errors import UserError
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import Survey, survey

SaveArray = Callable[[np.ndarray, Path], Path]


@pytest.fixture
def dataset(own_recipe: Callable[..., Path], own_tree: Path) -> Dataset:
    return open_dataset(own_recipe(), own_tree)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stems of the frames that are read, as they are read."""
    read: list[str] = []
    check = linknet_fastai.data.survey._check_frame
    monkeypatch.setattr(
        linknet_fastai.data.survey,
        "_check_frame",
        lambda frame, *args: read.append(frame.stem) or check(frame, *args),
    )
    return read


def survey_of(dataset: Dataset, split: str = "train") -> Survey:
    return survey(dataset, dataset.frames(split))


def test_pixels_and_sizes_are_counted(dataset: Dataset, own_tree: Path, save_array: SaveArray) -> None:
    frames = dataset.frames("train")
    save_array(np.zeros((40, 50, 3), np.uint8), frames[0].image)
    save_array(np.full((40, 50), 30, np.uint8), frames[0].label)
    found = survey_of(dataset)
    raw = np.concatenate([np.asarray(Image.open(frame.label)).ravel() for frame in frames])
    assert found.frames == 6
    assert found.sizes == {"50x40": 1, "64x48": 5}
    assert found.class_pixels == [int((raw == value).sum()) for value in (10, 20, 30)]
    assert found.void_pixels == int((raw == 99).sum()) > 0
    assert found.problems == []
    found.raise_problems()


def test_progress_is_reported_for_every_frame(dataset: Dataset) -> None:
    reports: list[tuple] = []
    survey(dataset, dataset.frames("val"), lambda *report: reports.append(report))
    assert reports == [("checking frames", done, 4) for done in (1, 2, 3, 4)]


def truncate(file: Path, save_array: SaveArray) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path, save_array: SaveArray) -> None:
    file.write_bytes(b"")


def no_image(file: Path, save_array: SaveArray) -> None:
    file.write_bytes(b"<!doctype html>" * 100)


def outside_the_mapping(file: Path, save_array: SaveArray) -> None:
    save_array(np.full((48, 64), 77, np.uint8), file)


def another_size(file: Path, save_array: SaveArray) -> None:
    save_array(np.full((48, 65), 10, np.uint8), file)


def in_color(file: Path, save_array: SaveArray) -> None:
    save_array(np.full((48, 64, 3), (200, 0, 0), np.uint8), file)


DAMAGES = [
    ("image", truncate, "cannot read this image"),
    ("image", empty, "cannot read this image"),
    ("image", no_image, "cannot read this image"),
    ("label", truncate, "cannot read this label map"),
    ("label", empty, "cannot read this label map"),
    ("label", no_image, "cannot read this label map"),
    ("label", outside_the_mapping, "values outside the recipe's mapping: 77"),
    ("label", another_size, "is 65x48, its image"),
    ("label", in_color, "mode RGB"),
]


@pytest.mark.parametrize(("which", "damage", "reason"), DAMAGES, ids=[f"{w}-{d.__name__}" for w, d, _ in DAMAGES])
def test_a_damaged_file_is_named_with_the_reason(
    dataset: Dataset, save_array: SaveArray, which: str, damage: Callable[[Path, SaveArray], None], reason: str
) -> None:
    file = getattr(dataset.frames("train")[3], which)
    damage(file, save_array)
    found = survey_of(dataset)
    assert len(found.problems) == 1
    assert str(file) in found.problems[0]
    assert reason in found.problems[0]
    assert sum(found.sizes.values()) == 5
    assert found.void_pixels + sum(found.class_pixels) == 5 * 48 * 64
    with pytest.raises(UserError, match=reason) as caught:
        found.raise_problems()
    assert "\n" not in str(caught.value)


def test_all_damage_is_found_at_once_and_counted(dataset: Dataset, save_array: SaveArray) -> None:
    frames = dataset.frames("train")
    empty(frames[1].image, save_array)
    outside_the_mapping(frames[2].label, save_array)
    truncate(frames[5].image, save_array)
    found = survey_of(dataset)
    assert [str(frames[place].stem) in problem for place, problem in zip((1, 2, 5), found.problems, strict=True)]
    with pytest.raises(UserError, match=r"\(and 2 more problems\)"):
        found.raise_problems()


def test_a_survey_without_problems_is_stored_and_nothing_is_read_again(dataset: Dataset, reads: list[str]) -> None:
    first = survey_of(dataset)
    assert len(reads) == 6
    assert survey_of(dataset) == first
    assert len(reads) == 6


def test_a_file_that_changed_is_seen(dataset: Dataset, reads: list[str], save_array: SaveArray) -> None:
    before = survey_of(dataset)
    save_array(np.full((48, 64), 10, np.uint8), dataset.frames("train")[0].label)
    after = survey_of(dataset)
    assert len(reads) == 12
    assert after.class_pixels != before.class_pixels


def test_a_file_of_another_time_but_the_same_length_is_seen(dataset: Dataset, reads: list[str]) -> None:
    survey_of(dataset)
    file = dataset.frames("train")[0].image
    data = file.read_bytes()
    file.write_bytes(data[:-30] + bytes(30))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    assert len(survey_of(dataset).problems) == 1
    assert len(reads) == 12


def test_another_mapping_is_another_survey(
    dataset: Dataset, own_recipe: Callable[..., Path], own_tree: Path, reads: list[str]
) -> None:
    before = survey_of(dataset)
    swapped = own_recipe(("id = 10", "id = 11"), ("id = 20", "id = 10"), ("id = 11", "id = 20"))
    after = survey_of(open_dataset(swapped, own_tree))
    assert len(reads) == 12
    assert after.class_pixels[:2] == before.class_pixels[1::-1]


def test_what_does_not_decide_pixels_makes_no_other_survey(
    dataset: Dataset, own_recipe: Callable[..., Path], own_tree: Path, reads: list[str]
) -> None:
    survey_of(dataset)
    changed = own_recipe(("bs = 2", "bs = 4"), ("painted by hand", "painted"), ("[200, 0, 0]", "[100, 0, 0]"))
    survey_of(open_dataset(changed, own_tree))
    assert len(reads) == 6


def test_another_split_is_another_survey(dataset: Dataset) -> None:
    assert survey_of(dataset).frames == 6
    assert survey_of(dataset, "val").frames == 4


def test_a_survey_with_problems_is_not_stored(dataset: Dataset, reads: list[str], save_array: SaveArray) -> None:
    outside_the_mapping(dataset.frames("train")[0].label, save_array)
    assert survey_of(dataset).problems == survey_of(dataset).problems != []
    assert len(reads) == 12


def test_a_stored_survey_that_was_damaged_is_made_again(dataset: Dataset, reads: list[str], own_caches: Path) -> None:
    first = survey_of(dataset)
    for file in (own_caches / "linknet-fastai" / "surveys").glob("*/*.json"):
        file.write_text('{"frames": 6', encoding="utf-8")
    assert survey_of(dataset) == first
    assert len(reads) == 12


def test_nothing_is_written_into_the_data_folder(dataset: Dataset, own_tree: Path) -> None:
    before = sorted(own_tree.rglob("*"))
    survey_of(dataset)
    assert sorted(own_tree.rglob("*")) == before
