"""Class weights from pixel counts, and the weighted cross-entropy that trains LinkNet."""

import torch
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor
from torch.autograd.function import once_differentiable

from linknet_fastai.core.images import VOID

LARGEST_IN_FP16 = 1000  # of the weights, when they come into a gradient


def class_weights(pixels: Tensor, method: str = "log") -> Tensor | None:
    """Weights that lift rare classes.

    Args:
        pixels: C counts of training pixels, one a class, void left out.
        method: "log" is 1 / ln(1.02 + p) with p the class's share of all counted pixels (ENet, Paszke et al.,
            2016; LinkNet uses the same); "sqrt" is its square root, which lifts them less; "median" is median
            frequency balancing, median(p) / p (Eigen and Fergus, 2015; here p is over all pixels, not over the
            frames that hold the class); "none" weighs all classes alike.

    Returns:
        C float32 weights, or None for "none". A class without a pixel, which nothing ever trains, gets what p = 0
        gives; with "median", where that is infinite, the largest weight of the others.
    """
    if method == "none":
        return None
    pixels = pixels.double()
    share = pixels / pixels.sum().clamp(min=1)
    if method in ("log", "sqrt"):
        weights = 1 / torch.log(1.02 + share)
        return (weights if method == "log" else weights.sqrt()).float()
    if method != "median":
        raise ValueError(f"class weights {method!r}: use 'log', 'sqrt', 'median' or 'none'")
    present = share > 0
    weights = torch.where(present, share[present].median() / share, torch.zeros_like(share))
    return torch.where(present, weights, weights.max()).float()


class SegmentationLoss(CrossEntropyLossFlat):
    """fastai's `CrossEntropyLossFlat` over the channel axis, weighted by class, with void left out.

    Takes logits BxCxHxW of any float type and labels BxHxW (integers, 255 for void); gives the mean over the
    pixels that count, each weighed by its class, computed in fp32. A batch that is all void costs 0, where the
    weighted mean would be 0/0.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(axis=1, weight=weight, ignore_index=VOID, reduction=reduction)

    def __call__(self, logits: Tensor, labels: Tensor, **kwargs) -> Tensor:
        if self.reduction == "mean" and not kwargs:
            weight = self.func.weight
            weight = torch.ones(logits.shape[1], device=logits.device) if weight is None else weight
            if logits.dtype == torch.float16:  # whose largest number is 65504; a weighted mean is the same
                weight = weight / (weight.max() / LARGEST_IN_FP16).clamp(min=1)
            return _WeightedCrossEntropy.apply(logits, labels, weight)
        flat = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
        return self.func(flat.float(), labels.reshape(-1).long(), **kwargs)


class _WeightedCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy over the pixels that are not void, each weighed by its class.

    The same figure as `F.cross_entropy`. That one goes through memory about ten times, and slowest in the
    channels_last layout that the network computes in: on a CPU it takes a third of a training step. Here the
    scores are brought to BxCxHxW in fp32 once, on a CPU a frame at a time, and leave as their gradient.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Compute the loss, and the gradient of its numerator."""
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = weight_sum = torch.zeros((), device=logits.device)
        frames = 1 if logits.device.type == "cpu" else len(logits)
        for first in range(0, len(logits), frames):
            part = slice(first, first + frames)
            scores, truth = logits[part], labels[part, None].long()
            counts = truth != VOID
            truth = torch.where(counts, truth, 0)
            pixel_weight = torch.where(counts, weight[truth], 0)
            scores = scores.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            scores -= scores.amax(1, keepdim=True)
            of_truth = scores.gather(1, truth)
            total = scores.exp_().sum(1, keepdim=True)
            loss = loss + ((total.log() - of_truth) * pixel_weight).sum()
            weight_sum = weight_sum + pixel_weight.sum()
            if gradient is not None:
                scores *= pixel_weight / total
                gradient[part] = scores.scatter_add_(1, truth, -pixel_weight)
        # Weights are positive: the sum is 0 only where no pixel counts.
        ctx.scale = torch.where(weight_sum > 0, 1 / weight_sum, 0)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss * ctx.scale

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient_of_loss: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * (gradient_of_loss * ctx.scale), None, None
