"""The cache: it contains what decoding gives, follows every change of a file, and is never incomplete."""

import errno
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

import linknet_fastai.data.cache
import linknet_fastai.data.survey
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import open_image, resize_image, resize_labels
from linknet_fastai.data.cache import CachedFrame, cached_frames, clear_caches, recipe_caches
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import survey

SIZE = (40, 24)  # frames are 64x48


@pytest.fixture
def dataset(own_recipe: Callable[..., Path], own_tree: Path) -> Dataset:
    return open_dataset(own_recipe(), own_tree)


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    return tmp_path / "caches"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stems of the frames that are decoded, as they are."""
    stems: list[str] = []
    check = linknet_fastai.data.survey._check_frame
    monkeypatch.setattr(
        linknet_fastai.data.survey,
        "_check_frame",
        lambda frame, *rest: stems.append(frame.stem) or check(frame, *rest),
    )
    return stems


def build(dataset: Dataset, caches: Path, training: bool = True) -> list[CachedFrame]:
    return cached_frames(dataset, dataset.frames("train"), "train", SIZE, training, caches)[1]


def folders(caches: Path) -> list[Path]:
    return [path for path in (caches / "frames").glob("*/*") if path.is_dir()]


@pytest.mark.parametrize("training", [True, False])
def test_a_cache_contains_what_decoding_gives(dataset: Dataset, caches: Path, training: bool) -> None:
    found, frames = cached_frames(dataset, dataset.frames("train"), "train", SIZE, training, caches)
    assert found == survey(dataset, dataset.frames("train"))
    assert [frame.image for frame in frames] == [frame.image for frame in dataset.frames("train")]
    for frame in frames:
        labels = dataset.read_label(frame.label)
        expected = np.asarray(resize_image(open_image(frame.image), SIZE)).transpose(2, 0, 1)
        assert np.array_equal(frame.cache.image(frame.position), expected)
        kept = frame.cache.labels(frame.position)
        assert np.array_equal(kept, resize_labels(labels, SIZE) if training else labels)


def test_label_maps_of_several_sizes_keep_them(dataset: Dataset, caches: Path, save_array: Callable) -> None:
    frame = dataset.frames("train")[2]
    save_array(np.zeros((30, 50, 3), np.uint8), frame.image)
    save_array(np.full((30, 50), 20, np.uint8), frame.label)
    shapes = [tuple(f.cache.labels(f.position).shape) for f in build(dataset, caches, training=False)]
    assert shapes == [(30, 50) if i == 2 else (48, 64) for i in range(6)]
    assert (build(dataset, caches, training=False)[2].cache.labels(2) == 1).all()


def test_frames_are_decoded_once(dataset: Dataset, caches: Path, decoded: list[str]) -> None:
    reports: list[tuple] = []
    cached_frames(
        dataset, dataset.frames("train"), "train", SIZE, True, caches, lambda *report: reports.append(report)
    )
    assert reports == [("decoding frames", done, 6) for done in range(1, 7)]
    build(dataset, caches)
    assert len(decoded) == 6
    build(dataset, caches, training=False)  # another kind of cache
    assert len(decoded) == 12


def change_a_label(dataset: Dataset, save_array: Callable) -> None:
    save_array(np.full((48, 64), 30, np.uint8), dataset.frames("train")[0].label)


def remove_a_frame(dataset: Dataset, save_array: Callable) -> None:
    frame = dataset.frames("train")[0]
    frame.image.unlink()
    frame.label.unlink()


def add_a_frame(dataset: Dataset, save_array: Callable) -> None:
    for number in range(50, 60):  # split by fraction: some of ten go to train
        save_array(np.zeros((48, 64, 3), np.uint8), dataset.folder / "frames" / f"f{number}.png")
        save_array(np.full((48, 64), 30, np.uint8), dataset.folder / "masks" / f"f{number}.png")


@pytest.mark.parametrize("change", [change_a_label, remove_a_frame, add_a_frame])
def test_a_changed_removed_or_added_file_rebuilds_it_and_the_stale_one_goes(
    dataset: Dataset, caches: Path, save_array: Callable, change: Callable
) -> None:
    build(dataset, caches)
    (stale,) = folders(caches)
    change(dataset, save_array)
    frames = build(dataset, caches)
    (fresh,) = folders(caches)
    assert fresh != stale
    assert [frame.stem for frame in frames] == [frame.stem for frame in dataset.frames("train")]
    for frame in frames:
        expected = resize_labels(dataset.read_label(frame.label), SIZE)
        assert np.array_equal(frame.cache.labels(frame.position), expected)


def test_what_a_killed_run_left_is_never_used(dataset: Dataset, caches: Path, decoded: list[str]) -> None:
    build(dataset, caches)
    (whole,) = folders(caches)
    whole.rename(whole.with_name(whole.name + ".partial"))
    build(dataset, caches)
    assert len(decoded) == 12
    assert folders(caches) == [whole]


@pytest.mark.parametrize("file", ["images.bin", "labels.bin", "index.json"])
def test_a_damaged_cache_is_rebuilt(dataset: Dataset, caches: Path, decoded: list[str], file: str) -> None:
    build(dataset, caches)
    damaged = folders(caches)[0] / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    build(dataset, caches)
    assert len(decoded) == 12


def test_of_two_runs_that_start_together_the_second_waits_and_uses_what_the_first_built(
    dataset: Dataset, caches: Path, decoded: list[str]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: build(dataset, caches), range(2))
    assert len(decoded) == 6
    assert np.array_equal(first[0].cache.image(0), second[0].cache.image(0))


def test_a_damaged_frame_is_named_and_nothing_is_left(dataset: Dataset, caches: Path) -> None:
    (image := dataset.frames("train")[3].image).write_bytes(b"no image")
    with pytest.raises(UserError, match=image.name):
        build(dataset, caches)
    assert folders(caches) == []


def test_a_full_disk_is_reported_with_the_fix_and_nothing_is_left(
    dataset: Dataset, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(linknet_fastai.data.cache, "check_frames", full)
    with pytest.raises(UserError, match=r"caches.*No space left on device.*--cache-dir.*--no-cache"):
        build(dataset, caches)
    assert folders(caches) == []


def test_a_disk_that_is_too_small_is_reported_before_anything_is_decoded(
    dataset: Dataset, caches: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6 * 40 * 24 * 4 - 1))
    with pytest.raises(UserError, match=r"No space left on device.*--no-cache"):
        build(dataset, caches)
    assert decoded == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6 * 40 * 24 * 4))
    build(dataset, caches)


def test_the_space_check_counts_label_maps_at_their_own_size(
    dataset: Dataset, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = dataset.frames("val")
    room = len(frames) * (3 * 20 * 12 + 64 * 48)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room - 1))
    with pytest.raises(UserError, match="No space left on device"):
        cached_frames(dataset, frames, "val", (20, 12), False, caches)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    cached_frames(dataset, frames, "val", (20, 12), False, caches)


def test_another_way_of_decoding_rebuilds_it(
    dataset: Dataset, caches: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dataset, caches)
    monkeypatch.setattr(linknet_fastai.data.survey, "FORMAT", 0)
    build(dataset, caches)
    assert len(decoded) == 12


def test_a_cache_that_is_being_built_is_not_cleared(dataset: Dataset, caches: Path) -> None:
    build(dataset, caches)
    (lock,) = (caches / "frames").glob("*/*.lock")
    with FileLock(lock), pytest.raises(UserError, match="another run is building this cache"):
        clear_caches(dataset.recipe.name, caches)
    assert folders(caches)


def test_waiting_for_another_run_is_reported_until_it_is_over(dataset: Dataset, caches: Path) -> None:
    build(dataset, caches)
    (lock,), (built,) = (caches / "frames").glob("*/*.lock"), folders(caches)
    built.rename(away := built.with_name("away"))
    lock_of_other, reports = FileLock(lock), []
    lock_of_other.acquire()

    def progress(what: str, done: int, total: int) -> None:
        reports.append((what.split()[0], done, total))
        if done == 0:
            away.rename(built)
            lock_of_other.release()

    cached_frames(dataset, dataset.frames("train"), "train", SIZE, True, caches, progress)
    assert reports == [("waiting", 0, 1), ("waiting", 1, 1)]


def test_a_cache_folder_that_cannot_be_created_is_reported(dataset: Dataset, caches: Path) -> None:
    caches.write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be written.*--cache-dir"):
        build(dataset, caches)


def test_an_unpickled_frame_opens_the_cache_itself(dataset: Dataset, caches: Path) -> None:
    frame = build(dataset, caches)[1]
    text = pickle.dumps(frame)
    assert len(text) < 2000  # paths, no pixels
    unpickled = pickle.loads(text)
    assert np.array_equal(unpickled.cache.image(1), frame.cache.image(1))


def test_clearing_deletes_the_caches_of_one_recipe(dataset: Dataset, caches: Path) -> None:
    build(dataset, caches)
    other = recipe_caches("other", caches)
    shutil.copytree(recipe_caches(dataset.recipe.name, caches), other)
    assert clear_caches(dataset.recipe.name, caches) > 6 * 40 * 24 * 4
    assert [path.suffix for path in recipe_caches(dataset.recipe.name, caches).iterdir()] == [".lock"]
    assert other.is_dir()
    assert clear_caches("nothing there", caches) == 0


def test_nothing_is_written_into_the_data_folder(dataset: Dataset, caches: Path) -> None:
    before = sorted(dataset.folder.rglob("*"))
    build(dataset, caches)
    assert sorted(dataset.folder.rglob("*")) == before


def test_a_recipe_of_any_name_stays_inside_the_cache_folder(caches: Path) -> None:
    assert recipe_caches("..", caches).parent == caches / "frames"
    assert recipe_caches("..", caches).name == "__"
