"""The numpy counts of evaluation are those of training."""

import numpy as np
import pytest
import torch

from linknet_fastai.metrics import ConfusionMatrix
from linknet_fastai.scores import count_pixels, scores_of


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
    assert scores_of(counts).miou == matrix.scores().miou
