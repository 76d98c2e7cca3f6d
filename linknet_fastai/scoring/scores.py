"""The scores of a confusion matrix: their formulas, and the table of how they are shown. NumPy only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """How a score is listed; its formula is the property of `Scores` with this name.

    Attributes:
        name: key in the JSON of `evaluate`; of an overall score also the column of metrics.csv and fastai's metric.
        label: in the tables of `evaluate`, in charts and reports.
        short: the label's short form for the row that `fit` prints for an epoch; by default the label.
        format: how `fit` and reports print a value.
        mean_of: the class score whose mean it is; `evaluate` prints it in the last row of that column.
    """

    name: str
    label: str
    short: str = ""
    format: str = ".4f"
    mean_of: str = ""

    @property
    def heading(self) -> str:
        """The column heading above the rows that `fit` prints."""
        return self.short or self.label

    def text(self, value: float) -> str:
        """The value as `fit` and reports print it."""
        return f"{value:{self.format}}"


# A new score is a property of `Scores` and a row in one of these; everything that lists scores reads them.
# For each class: columns of the table that `evaluate` prints, and in the `classes` of its JSON.
CLASS_SCORES = (
    Score("iou", "IoU"),
    Score("accuracy", "accuracy"),
)
# Further columns of `evaluate --all`; in its JSON always.
MORE_CLASS_SCORES = (
    Score("precision", "precision"),
    Score("f1", "F1"),
)
# One value for all classes: metrics.csv, the row of an epoch, charts, report, `evaluate` and its JSON.
OVERALL_SCORES = (
    Score("miou", "mIoU", mean_of="iou"),
    Score("mean_accuracy", "mean accuracy", short="mean acc", mean_of="accuracy"),
    Score("pixel_accuracy", "pixel accuracy", short="pixel acc"),
)
# Further ones of `evaluate` and its JSON alone.
MORE_OVERALL_SCORES = (Score("frequency_weighted_iou", "frequency-weighted IoU"),)


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a confusion matrix; fractions from 0 to 1, nan without pixels to score.

    Args:
        counts: CxC integers, rows are the truth, columns the prediction; a further column is of no class. The scores
            of classes are also computed of several matrices at once, ...xCxC to ...xC.

    Example:
        >>> scores = Scores(np.array([[3, 1], [0, 4]]))
        >>> scores.iou.tolist(), scores.pixel_accuracy
        ([0.75, 0.8], 0.875)
    """

    counts: np.ndarray

    @property
    def true_positives(self) -> np.ndarray:
        """Correctly predicted pixels of each class, C floats."""
        return self.counts.diagonal(axis1=-2, axis2=-1).astype(float)

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class in the truth, TP + FN, C integers."""
        return self.counts.sum(-1)

    @property
    def predicted(self) -> np.ndarray:
        """Pixels predicted as each class, TP + FP, C integers."""
        return self.counts.sum(-2)[..., : self.counts.shape[-2]]

    @property
    def iou(self) -> np.ndarray:
        """Class IoU, TP / (TP + FP + FN), C floats; nan for a class in neither truth nor prediction."""
        return _ratio(self.true_positives, self.pixels + self.predicted - self.true_positives)

    @property
    def accuracy(self) -> np.ndarray:
        """Class accuracy, TP / (TP + FN), C floats; nan for a class that is not in the truth."""
        return _ratio(self.true_positives, self.pixels)

    @property
    def precision(self) -> np.ndarray:
        """Precision of each class, TP / (TP + FP), C floats; nan for a class that is never predicted."""
        return _ratio(self.true_positives, self.predicted)

    @property
    def f1(self) -> np.ndarray:
        """F1 (Dice) of each class, 2 TP / (2 TP + FP + FN), C floats; nan for a class in neither."""
        return _ratio(2 * self.true_positives, self.pixels + self.predicted)

    @property
    def miou(self) -> float:
        """The mean of the class IoU."""
        return mean_score(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """The mean of the class accuracy."""
        return mean_score(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        """The share of all pixels that is predicted correctly."""
        return float(_ratio(self.true_positives.sum(), self.pixels.sum()))

    @property
    def frequency_weighted_iou(self) -> float:
        """The mean of the class IoU, each class weighted by its pixels in the truth."""
        return float(_ratio(np.nansum(self.iou * self.pixels), self.pixels.sum()))

    def overall(self, scores: Sequence[Score] = OVERALL_SCORES) -> dict[str, float]:
        """The scores of `OVERALL_SCORES`, or of others, by name, in that order."""
        return {score.name: getattr(self, score.name) for score in scores}

    def of_classes(self, scores: Sequence[Score] = CLASS_SCORES) -> dict[str, list[float]]:
        """The scores of `CLASS_SCORES`, or of others, by name, in that order: a list of C floats each."""
        return {score.name: getattr(self, score.name).tolist() for score in scores}


def mean_score(values: np.ndarray | list[float]) -> float:
    """The mean of the values that are not nan; nan if there are none.

    Example:
        >>> mean_score([0.5, float("nan"), 0.75])
        0.625
    """
    values = np.asarray(values)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def number(value: float) -> float | None:
    """The value, or None for nan, which JSON does not have.

    Example:
        >>> number(0.5), number(float("nan"))
        (0.5, None)
    """
    return None if math.isnan(value) else value


def count_pixels(
    predicted: np.ndarray, labels: np.ndarray, n_classes: int, n_labels: int | None = None
) -> np.ndarray:
    """Count the pixels of a frame into a confusion matrix.

    Args:
        predicted: classes, uint8 of any shape, from 0 to C-1.
        labels: classes of the same shape, uint8, 255 for void.
        n_classes: C.
        n_labels: how many values of the labels are counted, by default C.

    Returns:
        CxC integers (`n_labels` rows), rows are the truth, columns the prediction; void is not counted.

    Example:
        >>> labels = np.array([[0, 0, 1, 255]], np.uint8)
        >>> count_pixels(np.array([[0, 1, 1, 1]], np.uint8), labels, 2).tolist()
        [[1, 1], [0, 1]]
    """
    # One row for each value of a byte: void has its own after the classes, so nothing has to be masked.
    # 16 bits are enough for 255 * 254 + 253, and are computed four times as fast as 64.
    bins = np.multiply(labels, n_classes, dtype=np.uint16)
    bins += predicted
    counts = np.bincount(bins.ravel(), minlength=256 * n_classes)
    return counts.reshape(-1, n_classes)[: n_labels or n_classes]


def frame_dice(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """The mean Dice of one frame with void scored as a class, as the course project's notebooks score.

    Dice is 2 TP / (2 TP + FP + FN), averaged over the classes in the frame's truth or prediction. The network has no
    channel for void: void pixels count as errors, and void itself, if the frame has any, scores 0.

    Args:
        predicted: classes, uint8 of any shape, from 0 to C-1.
        labels: classes of the same shape, uint8, 255 for void.
        n_classes: C.

    Returns:
        A fraction from 0 to 1.

    Example:
        >>> frame_dice(np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 0, 1]], np.uint8), 2)
        0.7333333333333334
    """
    counts = count_pixels(predicted, np.minimum(labels, n_classes), n_classes, n_classes + 1)
    true_positives = np.append(counts.diagonal(), 0)
    total = counts.sum(1) + np.append(counts.sum(0), 0)
    present = total > 0
    return float((2 * true_positives[present] / total[present]).mean())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # 0/0 is nan: such a class has no score
        return np.divide(part, whole)
