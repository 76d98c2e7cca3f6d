"""The look for leaks: what two splits share, so that scores on one say too little about frames never seen."""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from linknet_fastai.data.dataset import Dataset, file_identity
from linknet_fastai.data.looks import NEARLY_EQUAL, equal_looks, nearest_looks
from linknet_fastai.data.match import Frame

FILE, PIXELS, NEAR, GROUP, TIME = "same file", "same pixels", "nearly equal", "same group", "neighbors in time"
STEPS = 10  # how many of the usual steps between two frames neighbors are apart at most
NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")  # a stem with the number of the frame


@dataclass(frozen=True)
class Selected:
    """The frames of a split or another selection.

    Attributes:
        name: as messages name it.
        frames: the frames.
        looks: what `look_of` returned for each, as in `Survey.looks`; empty if images are not compared.
    """

    name: str
    frames: Sequence[Frame]
    looks: Sequence[str] = ()


@dataclass(frozen=True)
class Leak:
    """Frames of one selection that another one gives away.

    Attributes:
        kind: what they share, one of the names above.
        first: the selection that is known, such as the one to train on.
        second: the selection with the frames.
        frames: how many frames of `second`.
        of: out of how many.
        example: the closest example.
        detail: what else is known, as the groups.
    """

    kind: str
    first: str
    second: str
    frames: int
    of: int
    example: str
    detail: str = ""


def find_leaks(dataset: Dataset, first: Selected, second: Selected) -> list[Leak]:
    """What two selections share, the worst first; a frame counts as one of the first three kinds at most.

    Args:
        dataset: the data, whose folder the examples' paths are relative to.
        first: the selection that is known, such as the one to train on.
        second: the selection to score.

    Example:
        ::

            train, val = (Selected(name, dataset.frames(name)) for name in ("train", "val"))
            for leak in find_leaks(dataset, train, val):
                print(leak.kind, leak.frames, leak.example)
    """
    found: list[Leak] = []
    counted: set[int] = set()

    def add(kind: str, pairs: dict[int, int], distance: Callable[[int], float] = lambda position: 0) -> None:
        pairs = {position: other for position, other in pairs.items() if position not in counted}
        if pairs:
            position = min(pairs, key=distance)
            frames = first.frames[pairs[position]], second.frames[position]
            example = " and ".join(dict.fromkeys(map(dataset.relative_path, frames)))
            found.append(Leak(kind, first.name, second.name, len(pairs), len(second.frames), example))
            counted.update(pairs)

    files = {file_identity(frame.image): position for position, frame in enumerate(first.frames)}
    identities = [file_identity(frame.image) for frame in second.frames]
    add(FILE, {position: files[identity] for position, identity in enumerate(identities) if identity in files})
    if first.looks and second.looks:
        add(PIXELS, equal_looks(first.looks, second.looks))
        nearest, distances = nearest_looks(first.looks, second.looks)
        near = {i: int(nearest[i]) for i, distance in enumerate(distances) if distance <= NEARLY_EQUAL}
        add(NEAR, near, distances.__getitem__)
    return [*found, *_of_groups(first, second)]


def _of_groups(first: Selected, second: Selected) -> Iterator[Leak]:
    """Groups that are in both, and in these the frames close to a frame of `first`."""
    known = {frame.group for frame in first.frames} - {None}
    of_group = [frame for frame in second.frames if frame.group in known]
    if not of_group:
        return
    groups = sorted({str(frame.group) for frame in of_group})
    named = ", ".join(groups[:5]) + f" and {len(groups) - 5} more" * (len(groups) > 5)
    of = len(second.frames)
    yield Leak(GROUP, first.name, second.name, len(of_group), of, groups[0], named)
    taken, asked = _by_number(first.frames), _by_number(of_group)
    gaps = []
    for sequence in taken.keys() & asked.keys():
        numbers = sorted(taken[sequence])
        step = median(after - before for before, after in pairwise(numbers)) if numbers[1:] else 1
        for number, frame in asked[sequence].items():
            place = bisect_left(numbers, number)
            gap, other = min((abs(near - number), near) for near in numbers[max(place - 1, 0) : place + 1])
            if gap <= STEPS * step:
                gaps.append((gap, f"{taken[sequence][other].stem} and {frame.stem}"))
    if gaps:
        farthest = f"none is more than {max(gaps)[0]} numbers from one"
        yield Leak(TIME, first.name, second.name, len(gaps), of, min(gaps)[1], farthest)


def _by_number(frames: Sequence[Frame]) -> dict[tuple[str | None, str, str], dict[int, Frame]]:
    """The numbered frames of each sequence: of one group, with the same text around the number."""
    sequences: dict = defaultdict(dict)
    for frame in frames:
        if match := NUMBERED.fullmatch(frame.stem):
            before, number, after = match.groups()
            sequences[frame.group, before, after][int(number)] = frame
    return sequences


def leak_notes(leaks: Sequence[Leak]) -> list[str]:
    """A line for each kind of leak that `Dataset.notes` does not report already; groups and time are one line."""
    by_kind = {leak.kind: leak for leak in leaks}
    notes = []
    for kind, what in ((PIXELS, "have the same pixels as"), (NEAR, "look the same as")):
        if leak := by_kind.get(kind):
            notes.append(
                f"{leak.second}: {leak.frames} of {leak.of} frames {what} frames of {leak.first}, as {leak.example}; "
                "scores over them are too high"
            )
    if leak := by_kind.get(GROUP):
        time = f", {near.frames} of them close in time, {near.detail}" if (near := by_kind.get(TIME)) else ""
        notes.append(
            f"{leak.second}: {leak.frames} of {leak.of} frames are of groups that {leak.first} has as well "
            f"({leak.detail}){time}; scores are higher than where everything is new"
        )
    return notes
