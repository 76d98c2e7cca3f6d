"""What belongs together in a data set, such as the frames of one drive: as a recipe describes it."""

import re
from collections.abc import Mapping
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
