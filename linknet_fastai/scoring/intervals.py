"""95% intervals of scores by a bootstrap over groups, or over blocks of consecutive frames. NumPy and SciPy only."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr, stdtrit

from linknet_fastai.config.groups import Group
from linknet_fastai.scoring.scores import OVERALL_SCORES, Scores

MIN_GROUPS = 10  # with fewer, how much they differ from each other cannot be estimated
MIN_UNITS = 6  # with fewer, even the range of all resamples contains the score less often than 95%: 1 - 2 ** (1 - n)
RESAMPLES, AT_ONCE, SEED = 2000, 100, 0
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class FrameCounts:
    """The confusion matrix of each frame of a split.

    Attributes:
        names: the path of each frame's image relative to the data folder, N.
        groups: the group of each frame, N; None for a frame that belongs to none.
        counts: NxC*C integers: the rows of a frame's confusion matrix one after the other; NxC*(C+1) where the matrix
            has a column of no class, see `Scores`.
        word: what messages call the groups, as in "drives".
    """

    names: Sequence[str]
    groups: Sequence[str | None]
    counts: csr_array
    word: str = "groups"

    @property
    def n_classes(self) -> int:
        """C."""
        return math.isqrt(self.counts.shape[1])

    def scores(self) -> Scores:
        """The scores over all frames."""
        return self._scores_of(np.ones(len(self.names), bool))

    def by_group(self) -> dict[str | None, tuple[int, Scores]]:
        """How many frames each group has, and the scores over these; frames without a group are last, as None."""
        groups = np.array(self.groups, object)
        names = sorted({group for group in self.groups if group is not None})
        found = {name: groups == name for name in (*names, None)}
        return {name: (int(of.sum()), self._scores_of(of)) for name, of in found.items() if of.any()}

    def _scores_of(self, frames: np.ndarray) -> Scores:
        return Scores(self.counts[frames].sum(0).reshape(self.n_classes, -1))


@dataclass(frozen=True, eq=False)
class Intervals:
    """The 95% intervals of a split's scores.

    Attributes:
        over: what was resampled, in words.
        units: how many of these there are.
        within: what the intervals say nothing beyond, in words; empty if groups were resampled.
        of_classes: by the name of a class score Cx2, the ends; nan for a class that fewer than six units have.
        overall: by the name of a mean of these, the two ends.
    """

    over: str
    units: int
    within: str
    of_classes: dict[str, np.ndarray]
    overall: dict[str, tuple[float, float]]

    @property
    def words(self) -> str:
        """How they were computed, and for what they hold.

        Example:
            >>> Intervals("blocks of consecutive frames", 11, "within these drives only", {}, {}).words
            'bootstrap over 11 blocks of consecutive frames, within these drives only'
        """
        return f"bootstrap over {self.units} {self.over}" + f", {self.within}" * bool(self.within)

    def as_json(self) -> dict[str, Any]:
        """The intervals of overall scores as plain values, each a list of two; those of classes: `of_class`."""
        return {
            "level": LEVEL,
            "words": self.words,
            "units": self.units,
            **{name: _ends(ends) for name, ends in self.overall.items()},
        }

    def of_class(self, channel: int) -> dict[str, list[float] | None]:
        """The intervals of a class as plain values, by the score's name and `_interval`; None if it has none."""
        return {f"{name}_interval": _ends(values[channel].tolist()) for name, values in self.of_classes.items()}


@dataclass(frozen=True)
class Difference:
    """How far the mIoU of two networks differs on the same frames.

    Attributes:
        miou: the first network's mIoU less the second's.
        interval: its 95% interval.
        words: what was resampled, see `Intervals.words`.
    """

    miou: float
    interval: tuple[float, float]
    words: str

    @property
    def told_apart(self) -> bool:
        """Whether zero is outside the interval."""
        return self.interval[0] > 0 or self.interval[1] < 0


def word_of(group: Group | None) -> str:
    """What messages call a recipe's groups: by the field of its pattern, else drives.

    Example:
        >>> word_of("city"), word_of(None)
        ('cities', 'drives')
    """
    return re.sub(r"(?<![aeiou])y$", "ie", group) + "s" if isinstance(group, str) else "drives"


def score_intervals(frames: FrameCounts) -> Intervals | None:
    """The 95% intervals of class IoU, class accuracy and their means.

    Groups are resampled if there are at least 10, otherwise blocks of consecutive frames of one group: such intervals
    do not say how much a new drive would differ. The same frames always give the same intervals.

    Args:
        frames: the confusion matrix of each frame.

    Returns:
        None with fewer than six groups or blocks.

    Example:
        >>> each = csr_array([[8, 2, 1, 9], [6, 4, 1, 9], [9, 1, 0, 10]] * 2)
        >>> found = score_intervals(FrameCounts([*"123456"], [None] * 6, each, "drives"))
        >>> found.words
        'bootstrap over 6 blocks of consecutive frames, within these drives only'
        >>> low, high = found.overall["miou"]
        >>> 0 < low < Scores(each.sum(0).reshape(2, 2)).miou < high < 1
        True
    """
    over, within, units = _units(frames)
    count = units.shape[0]
    if count < MIN_UNITS:
        return None
    counts = units @ frames.counts
    names = {score.name: score.mean_of for score in OVERALL_SCORES if score.mean_of}
    values: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    for resampled in _resamples(counts, frames.n_classes):
        for name, parts in values.items():
            parts.append(getattr(resampled, name))
    of_classes, overall = {}, {}
    for mean, name in names.items():
        of_each = np.concatenate(values[name])
        overall[mean] = _interval(_mean(of_each), count)
        having = np.sum([~np.isnan(getattr(each, name)) for each in _of_units(counts, frames.n_classes)], 0)
        of_classes[name] = np.array([_interval(*pair) for pair in zip(of_each.T, having.tolist(), strict=True)])
    return Intervals(over, count, within, of_classes, overall)


def compared(first: FrameCounts, second: FrameCounts) -> Difference | None:
    """How far the mIoU of two networks differs, by a paired bootstrap: both are scored on the same resampled frames.

    Args:
        first: the confusion matrix of each frame by one network.
        second: by the other.

    Returns:
        None if they were not scored on the same frames and label maps, or with fewer than six groups or blocks.

    Example:
        >>> right = csr_array([[10, 0, 0, 10]] * 6)
        >>> worse = csr_array([[8, 2, 1, 9], [9, 1, 1, 9], [8, 2, 2, 8]] * 2)
        >>> found = compared(*(FrameCounts([*"123456"], [None] * 6, counts) for counts in (right, worse)))
        >>> found.told_apart, found.interval[0] < found.miou < found.interval[1]
        (True, True)
    """
    if first.counts.shape != second.counts.shape or sorted(first.names) != sorted(second.names):
        return None
    place = {name: row for row, name in enumerate(second.names)}
    other = second.counts[[place[name] for name in first.names]]
    pixels = [of.sum(0).reshape(first.n_classes, -1).sum(1) for of in (first.counts, other)]
    over, within, units = _units(first)
    if units.shape[0] < MIN_UNITS or not np.array_equal(*pixels):
        return None
    mious = [
        np.concatenate([_mean(each.iou) for each in _resamples(units @ counts, first.n_classes)])
        for counts in (first.counts, other)
    ]
    interval = _interval(mious[0] - mious[1], units.shape[0])
    words = Intervals(over, units.shape[0], within, {}, {}).words
    return Difference(first.scores().miou - second.scores().miou, interval, words)


def _ends(interval: Sequence[float]) -> list[float] | None:
    return None if math.isnan(interval[0]) else list(interval)


def _units(frames: FrameCounts) -> tuple[str, str, csr_array]:
    """What is resampled: its name, what the intervals are limited to, and UxN, 1 where a frame is part of a unit."""
    if len(set(frames.groups) - {None}) >= MIN_GROUPS:
        of_frames = zip(frames.groups, frames.names, strict=True)
        keys = [f"frame {name}" if group is None else f"group {group}" for group, name in of_frames]
        over, within, unit_of = frames.word, "", np.unique(keys, return_inverse=True)[1]
    else:
        over, within = "blocks of consecutive frames", f"within these {frames.word} only"
        unit_of = _blocks(frames)
    ones = np.ones(len(unit_of), np.int64)
    return over, within, csr_array((ones, (unit_of, np.arange(len(unit_of)))))


def _blocks(frames: FrameCounts) -> np.ndarray:
    """The number of each frame's block; none crosses groups. There are about as many as each has frames, or a few."""

    def in_order(frame: int) -> list[str | int]:  # 10 comes after 9
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", frames.names[frame])]

    length = max(min(round(len(frames.names) ** 0.5), len(frames.names) // MIN_UNITS), 1)
    members: dict[str | None, list[int]] = {}
    for frame in sorted(range(len(frames.names)), key=in_order):
        members.setdefault(frames.groups[frame], []).append(frame)
    blocks = [
        block
        for of_group in members.values()
        for block in np.array_split(of_group, max(round(len(of_group) / length), 1))
    ]
    unit_of = np.empty(len(frames.names), np.int64)
    for unit, block in enumerate(blocks):
        unit_of[block] = unit
    return unit_of


def _resamples(counts: csr_array, n_classes: int) -> Iterator[Scores]:
    """The scores of resampled units, UxC*C, `AT_ONCE` at a time; the same units are drawn in every call."""
    rng, units = np.random.default_rng(SEED), counts.shape[0]
    for _ in range(RESAMPLES // AT_ONCE):
        times_drawn = rng.multinomial(units, np.full(units, 1 / units), AT_ONCE)
        yield Scores((counts.T @ times_drawn.T).T.reshape(AT_ONCE, n_classes, -1))


def _of_units(counts: csr_array, n_classes: int) -> Iterator[Scores]:
    for unit in range(counts.shape[0]):
        yield Scores(counts[[unit]].toarray().reshape(n_classes, -1))


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over classes of each row, without those that are nan."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0).sum(-1) / present.sum(-1)


def _interval(resampled: np.ndarray, units: int) -> tuple[float, float]:
    """The interval of a score that was resampled from so many units: percentiles, nan for too few."""
    resampled = resampled[~np.isnan(resampled)]
    if units < MIN_UNITS or not resampled.size:
        return np.nan, np.nan
    # Percentiles of few units are too narrow by as much as the normal distribution is narrower than Student's t, and
    # the variance of a sample than that of what it was drawn from (Hesterberg, 2015).
    tail = ndtr(stdtrit(units - 1, (1 - LEVEL) / 2) * np.sqrt(units / (units - 1)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
