"""The split that is proposed where an export has none: by groups, so that neighbors in a video stay together."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

VAL_SHARE = 0.2


def propose_split(frames: Sequence[PurePosixPath]) -> tuple[dict[str, list[PurePosixPath]], str]:
    """Divide frames into train and val.

    Frames whose paths differ in their last number alone are a group, as those of one video or drive are. Whole groups
    go into val, up to about a fifth of the frames; of a single group its last frames; of frames without groups a
    fifth, by a digest of their names.

    Args:
        frames: paths of images.

    Returns:
        The frames of "train" and "val", and in words by which groups they were divided.

    Example:
        >>> split, how = propose_split([PurePosixPath(f"{drive}_{n}.jpg") for drive in "abcdef" for n in range(9)])
        >>> len(split["train"]), len(split["val"]), how
        (45, 9, '6 groups by names as in a_*, whole groups')
    """
    if len(frames) == 1:
        return {"train": list(frames), "val": list(frames)}, "one frame, which serves for both"
    groups: dict[str, list[PurePosixPath]] = defaultdict(list)
    for frame in sorted(frames, key=_natural):
        groups[group_of(frame)].append(frame)
    wanted = VAL_SHARE * len(frames)
    if len(groups) == 1 and len(frames) > 2:
        ordered = next(iter(groups.values()))
        start = len(ordered) - max(round(wanted), 1)
        return {
            "train": ordered[:start],
            "val": ordered[start:],
        }, "one group, its last fifth: frames in order of their numbers"
    if 1 < len(groups) <= len(frames) / 2:
        val: list[PurePosixPath] = []
        chosen: list[str] = []
        for name in sorted(groups, key=_digest):
            size = len(groups[name])
            if abs(len(val) + size - wanted) < abs(len(val) - wanted):
                val += groups[name]
                chosen.append(name)
        if not val:
            name = min(groups, key=lambda name: len(groups[name]))
            val, chosen = groups[name], [name]
        if len(val) < len(frames):
            train = [frame for name, group in groups.items() if name not in chosen for frame in group]
            return {"train": train, "val": val}, f"{len(groups)} groups by names as in {min(groups)}*, whole groups"
    shuffled = sorted(frames, key=lambda frame: _digest(str(frame)))
    count = max(round(wanted), 1)
    return {
        "train": sorted(shuffled[count:]),
        "val": sorted(shuffled[:count]),
    }, "no groups in the names: a fifth, at random"


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
