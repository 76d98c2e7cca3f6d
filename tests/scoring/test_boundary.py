"""Boundary IoU is that of the authors' definition: each class's mask eroded step by step in a padded frame."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from linknet_fastai.scoring.boundary import BOUNDARY_SHARE, BoundaryScores, count_boundaries


def band(mask: np.ndarray, share: float) -> np.ndarray:
    """As `mask_to_boundary` of bowenc0221/boundary-iou-api, with SciPy in place of OpenCV."""
    steps = max(round(share * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)), 1)
    eroded = binary_erosion(np.pad(mask, 1), np.ones((3, 3)), steps, border_value=1)[1:-1, 1:-1]
    return mask & ~eroded


@pytest.mark.parametrize("share", [0.001, BOUNDARY_SHARE, 0.1])
def test_boundary_iou_is_that_of_masks_eroded_one_by_one(share: float) -> None:
    rng = np.random.default_rng(0)
    labels, predicted = (np.kron(rng.integers(0, 4, (6, 8)), np.ones((9, 8), int)).astype(np.uint8) for _ in "12")
    predicted[:, :40] = np.roll(labels, 2, 1)[:, :40]
    labels[20:30, 10:30] = 255
    seen = np.where(labels == 255, 255, predicted)  # void is outside of the frame for both
    counts = count_boundaries(predicted, labels, 3, share)  # class 3 is another one, as of a model with more classes
    for class_id in range(3):
        truth, prediction = (band(each == class_id, share) for each in (labels, seen))
        assert counts[:, class_id].tolist() == [truth.sum(), prediction.sum(), (truth & prediction).sum()]
    scores = BoundaryScores(counts, share)
    assert scores.iou == pytest.approx(counts[2] / (counts[0] + counts[1] - counts[2]))
    assert 0 < min(scores.iou) < max(scores.iou) < 1


def test_void_costs_a_perfect_prediction_nothing_and_an_absent_class_has_no_score() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 1
    labels[10:20, 5:50] = 255
    predicted = np.where(labels == 255, 1, labels).astype(np.uint8)
    scores = BoundaryScores(count_boundaries(predicted, labels, 3), BOUNDARY_SHARE)
    np.testing.assert_array_equal(scores.iou, [1, 1, np.nan])
    assert scores.miou == 1


def test_a_border_that_is_missed_costs_more_than_in_class_iou() -> None:
    labels = np.zeros((100, 200), np.uint8)
    labels[:, 100:] = 1
    predicted = np.roll(labels, 4, 1)
    predicted[:, :4] = 0
    near = BoundaryScores(count_boundaries(predicted, labels, 2), BOUNDARY_SHARE).iou
    assert near.max() < 0.9 < 96 / 100  # the class IoU
