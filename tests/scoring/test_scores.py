"""The numpy counts of evaluation are those of training."""

import numpy as np
import pytest
import torch

from linknet_fastai.scoring.metrics import ConfusionMatrix
from linknet_fastai.scoring.scores import Scores, count_pixels, frame_dice


@pytest.mark.parametrize("n_classes", [2, 11, 34, 254])
def test_counts_are_those_of_the_metrics_matrix(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    predicted = rng.integers(0, n_classes, (37, 53)).astype(np.uint8)
    labels = rng.integers(0, n_classes, (37, 53)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    matrix = ConfusionMatrix(n_classes)
    matrix.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    counts = count_pixels(predicted, labels, n_classes)
    assert counts.shape == (n_classes, n_classes)
    assert np.array_equal(counts, matrix.counts.numpy())
    assert Scores(counts).miou == matrix.scores().miou


def test_the_course_projects_dice_scores_void_frame_by_frame() -> None:
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 1]], np.uint8)
    # class 0: 2*1 / (2+1); class 1: 2*1 / (1+3); void: not predicted; class 2 occurs nowhere
    assert frame_dice(predicted, labels, 3) == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert frame_dice(predicted[:, :3], labels[:, :3], 3) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_the_course_projects_dice_of_the_most_classes_there_can_be() -> None:
    labels = np.array([[253, 255]], np.uint8)
    assert frame_dice(np.array([[253, 253]], np.uint8), labels, 254) == pytest.approx((2 / 3 + 0) / 2)


def test_precision_f1_and_frequency_weighted_iou_of_a_matrix_worked_out_by_hand() -> None:
    scores = Scores(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))  # the last class occurs nowhere
    np.testing.assert_allclose(scores.precision, [3 / 5, 4 / 5, np.nan])
    np.testing.assert_allclose(scores.f1, [6 / 9, 8 / 11, np.nan])
    assert scores.frequency_weighted_iou == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)
    assert np.isnan(Scores(np.zeros((2, 2), int)).frequency_weighted_iou)


def test_scores_of_classes_are_those_of_each_matrix_of_several() -> None:
    several = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    for name in ("iou", "accuracy", "precision", "f1"):
        together = getattr(Scores(several), name)
        np.testing.assert_array_equal(together, [getattr(Scores(counts), name) for counts in several])
