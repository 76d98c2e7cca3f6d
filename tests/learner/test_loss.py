"""Class weights and the weighted cross-entropy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.losses import CrossEntropyLossFlat

from linknet_fastai.core.images import VOID
from linknet_fastai.learner.loss import SegmentationLoss, class_weights

CAMVID_SHARES = [0.1754, 0.2421, 0.0102, 0.3296, 0.0467, 0.1012, 0.0122, 0.0117, 0.0611, 0.0067, 0.0030]
CAMVID_WEIGHTS = [5.60, 4.30, 33.57, 3.34, 15.49, 8.74, 31.54, 32.01, 12.83, 38.01, 43.91]


def test_log_weights_are_those_of_the_paper_on_camvid():
    weights = class_weights(torch.tensor(CAMVID_SHARES) * 1e6)
    assert weights.dtype == torch.float32
    # The shares are rounded to four digits, those of rare classes have two significant digits.
    assert weights.tolist() == pytest.approx(CAMVID_WEIGHTS, rel=3e-3)


def test_log_weights_follow_the_formula():
    assert class_weights(torch.tensor([3, 1]))[1].item() == pytest.approx(1 / math.log(1.02 + 0.25))


def test_sqrt_weights_are_the_roots_of_the_logs():
    pixels = torch.tensor([60, 30, 10, 0])
    assert torch.allclose(class_weights(pixels, "sqrt") ** 2, class_weights(pixels, "log"))


def test_median_weights_follow_the_formula_and_an_absent_class_stays_finite():
    weights = class_weights(torch.tensor([60, 30, 10, 0]), "median")
    assert weights.tolist() == pytest.approx([0.5, 1.0, 3.0, 3.0])


def test_none_gives_no_weights():
    assert class_weights(torch.tensor([1, 2]), "none") is None


def numpy_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of -log softmax, pixel by pixel."""
    total = weight_sum = 0.0
    for b, y, x in np.ndindex(labels.shape):
        label = labels[b, y, x]
        if label != VOID:
            scores = logits[b, :, y, x]
            total -= weights[label] * (scores[label] - np.log(np.exp(scores).sum()))
            weight_sum += weights[label]
    return total / weight_sum


@pytest.mark.parametrize("channels_last", [False, True])
def test_loss_is_the_weighted_mean_over_pixels_that_are_not_void(channels_last):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    labels[0, 0], weights = VOID, np.array([1.0, 5.0, 0.5])
    tensor = torch.tensor(logits, dtype=torch.float32)
    if channels_last:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    loss = SegmentationLoss(torch.tensor(weights, dtype=torch.float32))
    assert isinstance(loss, CrossEntropyLossFlat)
    assert loss(tensor, torch.tensor(labels)).item() == pytest.approx(numpy_loss(logits, labels, weights), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 7.0])])
def test_loss_and_gradient_are_those_of_cross_entropy(dtype, weights):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 4, 6, 5, generator=generator) * 5).to(dtype).requires_grad_()
    labels = torch.randint(0, 4, (3, 6, 5), generator=generator)
    labels[1, :4], labels[2] = VOID, VOID
    loss = SegmentationLoss(weights)(logits, labels)
    (gradient,) = torch.autograd.grad(loss * 3, logits)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    reference = F.cross_entropy(logits.float(), labels, weights, ignore_index=VOID)
    (expected,) = torch.autograd.grad(reference * 3, logits)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(gradient, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-6)


def test_a_weight_too_large_for_fp16_gives_finite_gradients():
    labels = torch.tensor([[[0, 1]]])
    weights = torch.tensor([1.0, 1e6])
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float16, requires_grad=True)
    loss = SegmentationLoss(weights)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert loss.item() == pytest.approx(math.log(2))
    assert gradient[0, :, 0, 1].tolist() == pytest.approx([0.5, -0.5], abs=1e-3)


def test_other_reductions_are_those_of_fastai():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    each = SegmentationLoss(reduction="none")(logits, labels)
    torch.testing.assert_close(each, F.cross_entropy(logits, labels, reduction="none").flatten())


def test_a_label_outside_the_classes_is_an_error():
    with pytest.raises(IndexError):
        SegmentationLoss()(torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), 7))


def test_a_batch_that_is_all_void_has_no_loss_and_no_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = SegmentationLoss(torch.ones(3))(logits, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_decodes_and_activation_are_those_of_fastai():
    logits = torch.randn(1, 3, 2, 2)
    loss = SegmentationLoss()
    assert torch.equal(loss.decodes(logits), logits.argmax(1))
    torch.testing.assert_close(loss.activation(logits).sum(1), torch.ones(1, 2, 2))
