"""What belongs together in a data set, such as the frames of one drive: as a recipe describes it."""

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from itertools import accumulate, pairwise
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Tag

from linknet_fastai.config.classes import Checked
from linknet_fastai.core.text import Line, Name

MAX_REPEATS = 4  # in an expression: each more can make a stem take 255 times as long to match
REPEAT = re.compile(r"(?:[*+?]|\{[\d,]+\})[?+]?")


def _check_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    plain = text.replace("(?", "(")
    if len(REPEAT.findall(plain)) > MAX_REPEATS or re.search(rf"\){REPEAT.pattern}", plain):
        raise ValueError(f"{text!r} is too complex: at most {MAX_REPEATS} repetitions, none of them of a (group)")
    return text


class StemGroup(Checked):
    """A part of a frame's stem names its group.

    Args:
        stem: a regular expression, whose first (group) is the name; a frame that it does not match is on its own.
    """

    stem: Annotated[Line, AfterValidator(_check_expression)]


# A field of the images' pattern, or a part of the stem; an error is that of the one that was meant.
Group = Annotated[
    Annotated[Name, Tag("field")] | Annotated[StemGroup, Tag("table")],
    Discriminator(lambda group: "field" if isinstance(group, str) else "table"),
]


def group_of(group: Group | None, fields: Mapping[str, str]) -> str | None:
    """The group of a frame; None for a frame that is on its own.

    Args:
        group: the recipe's `group`.
        fields: the text of each field of the images' pattern.

    Example:
        >>> group_of(StemGroup(stem="^([^_]+)_"), {"stem": "0016E5_07959"})
        '0016E5'
        >>> group_of("city", {"city": "lindau", "stem": "000019"})
        'lindau'
    """
    if group is None or isinstance(group, str):
        return fields[group] if group else None
    match = re.search(group.stem, fields["stem"])
    return match[min(match.re.groups, 1)] if match else None


def place_of(name: str) -> float:
    """Where a group, or a frame on its own, is between 0 and 1: fractions of frames are cut there.

    Example:
        >>> round(place_of("0016E5"), 3)
        0.693
    """
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def divide(names: Collection[str], fractions: Mapping[str, float]) -> dict[str, set[str]]:
    """Divide groups, or frames that are on their own, into splits by their names.

    A name's `place_of` decides, so that what is added moves no other to another split. Places are spread as at
    random: of n names the share in a fraction f differs from f by a standard deviation of sqrt(f (1 - f) / n). A
    split that would be empty gets the name that is closest, of those that leave no other split empty.

    Args:
        names: what is divided.
        fractions: of each split, from 0 to 1, together at most 1.

    Example:
        >>> divide(["0001TP", "0006R0", "0016E5"], {"train": 0.9, "val": 0.1})["val"]
        {'0001TP'}
    """
    bounds = (round(bound, 9) for bound in accumulate(fractions.values(), initial=0.0))  # .7 + .2 + .1 is below 1
    places = {name: place_of(name) for name in names}
    intervals = dict(zip(fractions, pairwise(bounds), strict=True))
    divided = {
        split: {name for name, place in places.items() if begin <= place < end}
        for split, (begin, end) in intervals.items()
    }
    for split, (begin, end) in intervals.items():
        alone = {name for members in divided.values() if len(members) == 1 for name in members}
        if end > begin and not divided[split] and (free := places.keys() - alone):
            closest = min(free, key=lambda name: (max(begin - places[name], places[name] - end), name))
            for members in divided.values():
                members.discard(closest)
            divided[split].add(closest)
    return divided
