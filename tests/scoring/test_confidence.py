"""Calibration error and the scores of the most certain pixels, compared with counting pixel by pixel."""

import numpy as np
import pytest

from linknet_fastai.scoring.confidence import COVERAGES, ConfidenceScores, count_confidences
from linknet_fastai.scoring.scores import Scores, count_pixels

CLASSES = 5


def frame(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted classes, labels with void, and confidences; the more certain, the more often correct."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (48, 64)).astype(np.uint8)
    confidence = rng.integers(60, 256, labels.shape).astype(np.uint8)
    correct = rng.random(labels.shape) < confidence / 255 - 0.1
    predicted = np.where(correct, labels, rng.integers(0, CLASSES, labels.shape)).astype(np.uint8)
    labels[:5] = 255
    return predicted, labels, confidence


@pytest.fixture(scope="module")
def scores() -> ConfidenceScores:
    counted = [count_confidences(*frame(seed), CLASSES) for seed in range(3)]
    return ConfidenceScores(*np.sum(counted, 0), temperature=1.0)


def pixels() -> tuple[np.ndarray, ...]:
    """Predicted, labels and confidences of all pixels that are not void."""
    together = np.concatenate([np.stack([part.ravel() for part in frame(seed)], 1) for seed in range(3)])
    return (*together[together[:, 1] != 255].T,)


def test_the_calibration_error_is_the_mean_difference_in_fifteen_bins(scores: ConfidenceScores) -> None:
    predicted, labels, confidence = pixels()
    bins = np.minimum((confidence / 255 * 15).astype(int), 14)
    parts = [bins == number for number in range(15)]
    expected = sum(
        part.mean() * abs((confidence[part] / 255).mean() - (predicted == labels)[part].mean())
        for part in parts
        if part.any()
    )
    assert scores.ece == pytest.approx(expected)
    assert 0.02 < scores.ece < 0.2
    assert sum(row["share"] for row in scores.reliability) == pytest.approx(1)
    assert len(scores.reliability) == sum(part.any() for part in parts)


@pytest.mark.parametrize("threshold", [61, 128, 250])
def test_scores_at_a_coverage_are_those_of_the_pixels_above_its_confidence(
    scores: ConfidenceScores, threshold: int
) -> None:
    predicted, labels, confidence = pixels()
    kept = confidence >= threshold
    counts = count_pixels(predicted[kept].astype(np.uint8), labels[kept].astype(np.uint8), CLASSES)
    risk, miou = scores.most_certain(kept.mean())
    assert risk == pytest.approx(1 - Scores(counts).pixel_accuracy)
    assert miou == pytest.approx(Scores(counts).miou)


def test_pixels_with_the_confidence_at_the_limit_are_counted_in_part() -> None:
    predicted, labels = np.uint8([[0, 0, 1, 1, 0]]), np.uint8([[0, 1, 1, 1, 0]])
    scores = ConfidenceScores(*count_confidences(predicted, labels, np.full((1, 5), 255, np.uint8), 2), 1.0)
    assert scores.most_certain(0.5) == pytest.approx(scores.most_certain(1.0))
    assert scores.most_certain(1.0)[0] == pytest.approx(1 / 5)


def test_the_json_has_curves_and_no_nan(scores: ConfidenceScores) -> None:
    values = scores.as_json()
    assert [point["coverage"] for point in values["risk_coverage"]] == list(COVERAGES)
    assert values["miou_most_certain_90"] == scores.most_certain(0.9)[1]
    assert values["risk_coverage"][0]["risk"] > values["risk_coverage"][-1]["risk"]
    sure = ConfidenceScores(*count_confidences(*np.uint8([[[0]], [[1]], [[0]]]), 2), 1.0).as_json()
    assert sure["ece"] == 0.0
    assert sure["risk_coverage"][0] == {"coverage": 1.0, "risk": 1.0, "miou": 0.0}
