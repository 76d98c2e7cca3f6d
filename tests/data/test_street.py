"""The drawn street scenes: repeatable, complete and safely written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.data.street import CLASSES, SIZE, SPLITS, VOID, draw_scene, scene_seed, write_scenes

SMALL = (96, 72)


@pytest.fixture(scope="module")
def forty_label_maps() -> list[np.ndarray]:
    return [draw_scene(scene_seed("train", index), (160, 120))[1] for index in range(40)]


def test_same_seed_draws_the_same_scene_and_another_seed_another() -> None:
    frame, labels = draw_scene(5, SMALL)
    again, labels_again = draw_scene(5, SMALL)
    other, other_labels = draw_scene(6, SMALL)
    assert frame.tobytes() == again.tobytes()
    assert np.array_equal(labels, labels_again)
    assert frame.tobytes() != other.tobytes()
    assert not np.array_equal(labels, other_labels)


@pytest.mark.parametrize("size", [SIZE, SMALL, (480, 360), (201, 99), (64, 128)])
def test_frame_and_labels_have_the_size_asked_for(size: tuple[int, int]) -> None:
    frame, labels = draw_scene(1, size)
    assert (frame.mode, frame.size) == ("RGB", size)
    assert (labels.dtype, labels.shape) == (np.uint8, size[::-1])


def test_labels_are_class_ids_or_void(forty_label_maps: list[np.ndarray]) -> None:
    assert max(labels.max() for labels in forty_label_maps) <= VOID == len(CLASSES) == 11


@pytest.mark.parametrize("class_id", range(len(CLASSES)), ids=CLASSES)
def test_each_class_is_found_in_many_scenes(class_id: int, forty_label_maps: list[np.ndarray]) -> None:
    assert sum(np.any(labels == class_id) for labels in forty_label_maps) >= 15


def test_small_classes_are_not_negligible(forty_label_maps: list[np.ndarray]) -> None:
    shares = np.bincount(np.concatenate(forty_label_maps, axis=None), minlength=VOID + 1) / (40 * 160 * 120)
    assert shares.min() > 0.003
    assert shares[CLASSES.index("Road")] > 0.15


def test_edges_of_the_labels_are_edges_of_the_frame() -> None:

    frame, labels = draw_scene(scene_seed("train", 3))
    grey = np.asarray(frame.convert("L"), float)
    change = np.abs(np.diff(grey, axis=1))
    border = labels[:, 1:] != labels[:, :-1]
    assert change[border].mean() > 2 * change[~border].mean()


def test_splits_never_share_a_seed() -> None:
    seeds = [scene_seed(split, index) for split, count in SPLITS.items() for index in range(count)]
    assert len(set(seeds)) == sum(SPLITS.values())


def test_write_scenes_lays_out_the_folder_and_reports_progress(tmp_path: Path) -> None:
    folder, calls = tmp_path / "cache" / "street", []
    write_scenes(folder, {"train": 2, "val": 1}, SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")) == [
        *("train/images/train_0000.png", "train/images/train_0001.png"),
        *("train/labels/train_0000.png", "train/labels/train_0001.png"),
        *("val/images/val_0000.png", "val/labels/val_0000.png"),
    ]
    frame, labels = draw_scene(scene_seed("train", 1), SMALL)
    with Image.open(folder / "train/images/train_0001.png") as image:
        assert (image.mode, image.tobytes()) == ("RGB", frame.tobytes())
    with Image.open(folder / "train/labels/train_0001.png") as image:
        assert image.mode == "L"
        assert np.array_equal(image, labels)
    assert [path.name for path in folder.parent.iterdir()] == ["street"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "street"
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    write_scenes(folder, {"train": 1}, SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["street", "mine.txt"]


def test_another_process_that_is_first_wins(tmp_path: Path) -> None:
    folder = tmp_path / "street"

    def finish_elsewhere(done: int, total: int) -> None:
        folder.mkdir()
        (folder / "theirs.txt").write_text("kept")

    write_scenes(folder, {"train": 1}, SMALL, finish_elsewhere)
    assert [path.name for path in tmp_path.rglob("*")] == ["street", "theirs.txt"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "street", {"train": 2}, SMALL, interrupt)
    assert not list(tmp_path.iterdir())
