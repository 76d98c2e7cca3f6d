"""The split that is proposed where an export has none: by groups, so that neighbors in a video stay together."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from unicodedata import normalize

from linknet_fastai.config import groups as recipe_groups
from linknet_fastai.config.groups import StemGroup, divide

VAL_SHARE, MOST_OFF = 0.2, 0.05  # of a fraction, which names decide, from what was wanted
# `group_of` for a stem: the group that a recipe can name.
GROUP = StemGroup(stem=r"^(.*?)\d+\D*$")


class ProposedSplit(NamedTuple):
    """A split of frames into train and val.

    Attributes:
        frames: the frames of "train" and "val".
        how: in words how they were divided.
        recipe: `splits`, and `group` if there are groups, as in a recipe; empty where it takes lists of the frames.
    """

    frames: dict[str, list[PurePosixPath]]
    how: str
    recipe: dict[str, Any]


def propose_split(frames: Sequence[PurePosixPath], images: str) -> ProposedSplit:
    """Divide frames into train and val.

    Frames whose paths differ in their last number alone are a group, as those of one video or drive are. Whole groups
    go into val, up to about a fifth of the frames; of a single group its last frames; of frames without groups a
    fifth, by a digest of their names.

    Args:
        frames: paths of images.
        images: their pattern in the recipe, whose stems may name the groups.

    Example:
        >>> frames = [PurePosixPath(f"{drive}_{n}.jpg") for drive in "abcdef" for n in range(9)]
        >>> split = propose_split(frames, "{stem}.jpg")
        >>> len(split.frames["val"]), split.how, split.recipe["splits"]["val"]
        (9, '6 groups by names as in a_*, whole groups', {'group': ['e_']})
    """
    if len(frames) == 1:
        return ProposedSplit({"train": list(frames), "val": list(frames)}, "one frame, which serves for both", {})
    groups: dict[str, list[PurePosixPath]] = defaultdict(list)
    for frame in sorted(frames, key=_natural):
        groups[group_of(frame)].append(frame)
    wanted = VAL_SHARE * len(frames)
    if len(groups) == 1 and len(frames) > 2:
        ordered = next(iter(groups.values()))
        start = len(ordered) - max(round(wanted), 1)
        divided = {"train": ordered[:start], "val": ordered[start:]}
        return ProposedSplit(divided, "one group, its last fifth: frames in order of their numbers", {})
    stems = {frame: normalize("NFC", frame.stem) for frame in frames}
    has_stems = re.fullmatch(r"\{stem\}\.[\w*]+", PurePosixPath(images).name)
    if 1 < len(groups) <= len(frames) / 2:
        how = f"{len(groups)} groups by names as in {min(groups)}*, whole groups"
        names = {frame: recipe_groups.group_of(GROUP, {"stem": stem}) or "" for frame, stem in stems.items()}
        pairs = {(group_of(frame), name) for frame, name in names.items()}
        named = has_stems and len(pairs) == len(groups) == len({*names.values()}) and all(names.values())
        if named and (split := _by_fraction(names, how)):
            return split._replace(recipe={"group": {"stem": GROUP.stem}, **split.recipe})
        val: list[PurePosixPath] = []
        for name in sorted(groups, key=_digest):
            if abs(len(val) + len(groups[name]) - wanted) < abs(len(val) - wanted):
                val += groups[name]
        val = val or min(groups.values(), key=len)
        if len(val) < len(frames):
            train = [frame for group in groups.values() if group[0] not in val for frame in group]
            splits = {"train": {"fraction": 1.0}, "val": {"group": sorted({names[frame] for frame in val})}}
            recipe = {"group": {"stem": GROUP.stem}, "splits": splits} if named else {}
            return ProposedSplit({"train": train, "val": val}, how, recipe)
    at_random = "no groups in the names: a fifth, at random"
    if has_stems and (split := _by_fraction(stems, at_random)):
        return split
    shuffled = sorted(frames, key=lambda frame: _digest(str(frame)))
    count = max(round(wanted), 1)
    divided = {"train": sorted(shuffled[count:]), "val": sorted(shuffled[:count])}
    return ProposedSplit(divided, at_random, {})


def _by_fraction(names: dict[PurePosixPath, str], how: str) -> ProposedSplit | None:
    """The split of a recipe's fractions by the names of frames or of their groups; None if it is far from a fifth."""
    fractions = {"train": 1 - VAL_SHARE, "val": VAL_SHARE}
    of_split = divide({*names.values()}, fractions)
    divided = {split: [frame for frame, name in names.items() if name in of_split[split]] for split in fractions}
    if abs(len(divided["val"]) / len(names) - VAL_SHARE) > MOST_OFF:
        return None
    return ProposedSplit(divided, how, {"splits": {split: {"fraction": share} for split, share in fractions.items()}})


def group_of(frame: PurePosixPath) -> str:
    """A path without its last number and what follows; the whole path where there is none.

    Example:
        >>> group_of(PurePosixPath("yard/0016E5_07959.png"))
        'yard/0016E5_'
    """
    match = re.fullmatch(r"(.*?)\d+\D*", frame.name)
    return str(frame.with_name(match[1])) if match and match[1] else str(frame.parent / "") if match else str(frame)


def _natural(frame: PurePosixPath) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(frame))]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()
