"""The grammar of what is trained on, validated on or scored."""

from pathlib import Path

import pytest

from linknet_fastai.config.selection import pin_selection, selection_parts

SPLITS = ("train", "val", "test")


@pytest.mark.parametrize(
    ("selection", "parts"),
    [
        ("val", ["val"]),
        ("train+val", ["train", "val"]),
        ("trainval", ["train", "val"]),
        ("a+b.txt", ["a+b.txt"]),
        ("train+a+b.txt+val", ["train", "a+b.txt", "val"]),
        ("train+vall", ["train", "vall"]),
        ("train+", ["train", ""]),
    ],
)
def test_parts_are_joined_by_plus_also_where_a_path_has_one(
    selection: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a+b.txt").touch()
    assert selection_parts(selection, SPLITS) == parts


def test_trainval_is_the_recipes_own_split_where_there_is_one() -> None:
    assert selection_parts("trainval", (*SPLITS, "trainval")) == ["trainval"]


def test_pinned_lists_are_absolute_and_read_back_as_the_same_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "x+y").mkdir()
    (folder / "more.txt").touch()
    monkeypatch.chdir(folder)
    pinned = pin_selection("train+more.txt", SPLITS)
    assert pinned == f"train+{folder / 'more.txt'}"
    monkeypatch.chdir(tmp_path)
    assert selection_parts(pinned, SPLITS) == ["train", str(folder / "more.txt")]
