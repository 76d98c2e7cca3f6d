"""What a confusion matrix says: the formulas of all scores, in numpy, for training and for evaluation alike."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; fractions from 0 to 1, nan where there is nothing to score.

    Attributes:
        iou: class IoU, TP / (TP + FP + FN), C values; nan for a class in neither truth nor prediction.
        accuracy: class accuracy, TP / (TP + FN), C values; nan for a class that is not in the truth.
        pixels: pixels of each class in the truth, C integers.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray
    miou: float
    mean_accuracy: float
    pixel_accuracy: float


def scores_of(counts: np.ndarray) -> Scores:
    """Score a confusion matrix: CxC integers, rows the truth, columns the prediction."""
    hit, truth, predicted = counts.diagonal().astype(float), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):  # 0/0 is nan: such a class has no score
        iou = hit / (truth + predicted - hit)
        accuracy = hit / truth
        pixel_accuracy = np.divide(hit.sum(), truth.sum())
    return Scores(iou, accuracy, truth, _mean(iou), _mean(accuracy), float(pixel_accuracy))


def number(value: float) -> float | None:
    """The value, or None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


def count_pixels(
    predicted: np.ndarray, labels: np.ndarray, n_classes: int, n_labels: int | None = None
) -> np.ndarray:
    """Count a frame's pixels.

    Args:
        predicted: classes, uint8 of any shape, from 0 to C-1.
        labels: classes of the same shape, uint8, 255 for void.
        n_classes: C.
        n_labels: how many values of the labels count, by default C.

    Returns:
        CxC integers (`n_labels` rows), rows the truth, columns the prediction; void counts nowhere.
    """
    # One row for each value of a byte: void has its own behind the classes, and nothing has to be masked.
    # 16 bits hold 255 * 254 + 253, and are four times as quick to make as 64.
    bins = np.multiply(labels, n_classes, dtype=np.uint16)
    bins += predicted
    counts = np.bincount(bins.ravel(), minlength=256 * n_classes)
    return counts.reshape(-1, n_classes)[: n_labels or n_classes]


def frame_dice(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """The mean Dice of one frame with void scored as a label, as the course project's notebooks score.

    Dice is 2 TP / (2 TP + FP + FN), over the labels that the frame's truth or prediction holds. No network of ours
    predicts void: what is labelled so counts as wrong, and void itself, where there is any, as 0.

    Args:
        predicted: classes, uint8 of any shape, from 0 to C-1.
        labels: classes of the same shape, uint8, 255 for void.
        n_classes: C.

    Returns:
        A fraction from 0 to 1.
    """
    counts = count_pixels(predicted, np.minimum(labels, n_classes), n_classes, n_classes + 1)
    hit = np.append(counts.diagonal(), 0)
    there = counts.sum(1) + np.append(counts.sum(0), 0)
    return float((2 * hit[there > 0] / there[there > 0]).mean())


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not nan; nan where there are none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
