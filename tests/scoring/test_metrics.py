"""Scores come from one confusion matrix over the whole split, void left out."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from linknet_fastai.core.images import VOID
from linknet_fastai.scoring.metrics import ConfusionMatrix, ForegroundIoU, segmentation_metrics


def numpy_scores(predicted: np.ndarray, labels: np.ndarray, n: int) -> tuple[list[float], list[float], float]:
    """Class IoU, class accuracy and pixel accuracy, counted one class at a time."""
    counted = labels != VOID
    iou, accuracy = [], []
    for c in range(n):
        tp = int((counted & (labels == c) & (predicted == c)).sum())
        fp = int((counted & (labels != c) & (predicted == c)).sum())
        fn = int((counted & (labels == c) & (predicted != c)).sum())
        iou.append(tp / (tp + fp + fn) if tp + fp + fn else np.nan)
        accuracy.append(tp / (tp + fn) if tp + fn else np.nan)
    return iou, accuracy, (predicted == labels)[counted].mean()


def count(predicted: np.ndarray, labels: np.ndarray, n: int, bs: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(n)
    for start in range(0, len(labels), bs):
        matrix.update(torch.tensor(predicted[start : start + bs]), torch.tensor(labels[start : start + bs]))
    return matrix


@pytest.mark.parametrize("bs", [1, 3, 7])
def test_equals_a_numpy_transcription_with_any_batch_size_and_last_batch(bs):
    rng = np.random.default_rng(bs)
    predicted, labels = rng.integers(0, 5, (7, 6, 4)), rng.integers(0, 5, (7, 6, 4))
    labels[rng.random(labels.shape) < 0.3] = VOID
    scores = count(predicted, labels, 5, bs).scores()
    iou, accuracy, pixel_accuracy = numpy_scores(predicted, labels, 5)
    assert scores.iou.tolist() == pytest.approx(iou, abs=1e-12)
    assert scores.accuracy.tolist() == pytest.approx(accuracy, abs=1e-12)
    assert scores.miou == pytest.approx(np.mean(iou), abs=1e-12)
    assert scores.mean_accuracy == pytest.approx(np.mean(accuracy), abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(pixel_accuracy, abs=1e-12)
    assert scores.pixels.tolist() == [int((labels == c).sum()) for c in range(5)]


def test_a_class_absent_from_truth_scores_zero_and_has_no_accuracy():
    scores = count(np.array([[0, 1]]), np.array([[0, 0]]), 2, 1).scores()
    assert scores.iou.tolist() == [0.5, 0.0]
    assert scores.accuracy[0] == 0.5
    assert np.isnan(scores.accuracy[1])
    assert scores.miou == 0.25
    assert scores.mean_accuracy == 0.5


def test_a_class_absent_from_prediction_scores_zero():
    scores = count(np.array([[0, 0]]), np.array([[0, 1]]), 2, 1).scores()
    assert scores.iou.tolist() == [0.5, 0.0]
    assert scores.accuracy.tolist() == [1.0, 0.0]


def test_a_class_absent_from_both_is_left_out_of_the_mean():
    scores = count(np.array([[0, 1, 0]]), np.array([[0, 1, 1]]), 3, 1).scores()
    assert np.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((0.5 + 0.5) / 2)


def test_void_everywhere_has_no_score():
    scores = count(np.array([[0, 1]]), np.array([[VOID, VOID]]), 2, 1).scores()
    assert np.isnan([scores.miou, scores.mean_accuracy, scores.pixel_accuracy]).all()


def test_counts_stay_exact_beyond_32_bits():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**40
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    assert matrix.counts[0, 0].item() == 2**40 + 1


def test_fastai_metrics_share_one_count_and_reset():
    metrics = segmentation_metrics(2)
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]])
    learn = SimpleNamespace(pred=logits, y=torch.tensor([[[0, 0]]]))
    for metric in metrics:
        metric.reset()
    for metric in metrics:
        metric.accumulate(learn)
    assert [metric.name for metric in metrics] == ["miou", "mean_accuracy", "pixel_accuracy"]
    assert [metric.value for metric in metrics] == [0.25, 0.5, 0.5]
    assert isinstance(metrics[0], ForegroundIoU)
    assert metrics[0].counts.sum() == 2
    metrics[0].reset()
    assert metrics[0].counts.sum() == 0


def test_metrics_survive_a_pickle_together():
    metrics = pickle.loads(pickle.dumps(segmentation_metrics(2)))
    metrics[0].accumulate(SimpleNamespace(pred=torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]]), y=torch.zeros(1, 1, 2)))
    assert [metric.value for metric in metrics] == [0.25, 0.5, 0.5]
