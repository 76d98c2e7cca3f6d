"""The grammar of what is trained on, validated on or scored: splits, groups and lists of frames, joined by +."""

import os
from collections.abc import Collection
from pathlib import Path

GROUP = "group:"  # before the name of a group
COMMON_NAMES = {"trainval": "train+val"}  # unless the recipe has a split of this name


def selection_parts(selection: str, splits: Collection[str]) -> list[str]:
    """The splits, groups and lists of frames that a selection joins, as in `train+val` or `group:0016E5+more.txt`.

    Args:
        selection: names of splits, of groups after `group:`, and paths of lists, joined by +. `trainval` is
            `train+val`.
        splits: the names of the recipe's splits, which come before files of the same name.

    Returns:
        At least one part; one that is none of them is returned as it is.

    Example:
        >>> selection_parts("trainval", ["train", "val", "test"])
        ['train', 'val']
    """

    def known(part: str) -> bool:
        return part in splits or part.startswith(GROUP) or os.path.isfile(part)

    if not known(selection):
        selection = COMMON_NAMES.get(selection, selection)
    parts: list[str] = []
    unknown: list[str] = []  # the start of a path that contains a +
    for piece in selection.split("+"):
        unknown.append(piece)
        if known("+".join(unknown)):
            parts.append("+".join(unknown))
            unknown = []
    return parts + ["+".join(unknown)] * bool(unknown)


def pin_selection(selection: str, splits: Collection[str]) -> str:
    """A selection in which lists of frames are absolute paths, so that it means the same in any folder.

    Example:
        >>> pin_selection("trainval", ["train", "val", "test"])
        'train+val'
    """
    parts = selection_parts(selection, splits)
    return "+".join(
        str(Path(part).resolve()) if part not in splits and os.path.isfile(part) else part for part in parts
    )
