"""Class weights from pixel counts, the weighted cross-entropy that trains LinkNet, and its mean over batches."""

from math import nan
from typing import Any

import torch
from fastai.learner import AvgLoss, AvgSmoothLoss, Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import find_bs, to_detach
from torch import Tensor
from torch.autograd.function import once_differentiable

from linknet_fastai.core.images import VOID

LARGEST_IN_FP16 = 1000  # class weight; a gradient in fp16 is multiplied by it


def class_weights(pixels: Tensor, method: str = "log") -> Tensor | None:
    """Weights that raise the share of rare classes in the loss.

    With p a class's share of all counted pixels, a class's weight is

    - "log": 1 / ln(1.02 + p) (ENet, Paszke et al., 2016; LinkNet uses the same),
    - "sqrt": the square root of "log", which raises rare classes less,
    - "median": median(p) / p, median frequency balancing (Eigen and Fergus, 2015; theirs divides by the pixels of the
      frames that contain the class, ours by those of all frames).

    Args:
        pixels: C counts of training pixels, one per class, without void.
        method: "log", "sqrt", "median", or "none" for no weights.

    Returns:
        C float32 weights, or None for "none". The weight of a class without pixels is that of p = 0; with "median",
        where it would be infinite, it is the largest weight of the other classes.

    Raises:
        ValueError: there is no such method.

    Example:
        >>> class_weights(torch.tensor([900, 100]))
        tensor([1.5330, 8.8239])
        >>> class_weights(torch.tensor([900, 100]), "median")
        tensor([0.1111, 1.0000])
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
    """The weighted cross-entropy of a batch, without void: fastai's `CrossEntropyLossFlat` over the channel axis.

    The loss is sum(w[y] * -log softmax(x)[y]) / sum(w[y]) over all pixels that are not void, with x the logits of a
    pixel, y its label and w the class weights. It is computed in float32. A batch whose pixels are all void has the
    loss 0, where the formula is 0/0.

    Called with logits BxCxHxW of any float type and labels BxHxW, integers with 255 for void, it returns a scalar.

    Args:
        weight: C float32 class weights, see `class_weights`; None weighs all classes the same.
        reduction: "mean", or "sum" or "none" as in torch.

    Attributes:
        weight_sum: the denominator of the last mean, a scalar; 0 if all pixels were void. None before the first.

    Example:
        >>> logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> SegmentationLoss()(logits, torch.tensor([[[0, 1, 255]]]))
        tensor(1.1269)
        >>> SegmentationLoss(torch.tensor([3.0, 1.0]))(logits, torch.tensor([[[0, 1, 255]]]))
        tensor(0.6269)
    """

    weight_sum: Tensor | None = None

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(axis=1, weight=weight, ignore_index=VOID, reduction=reduction)

    def __call__(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        """Return the loss; `kwargs` are those of fastai's `BaseLoss`."""
        if self.reduction == "mean" and not kwargs:
            weight = self.func.weight
            weight = torch.ones(logits.shape[1], device=logits.device) if weight is None else weight
            if logits.dtype == torch.float16:  # its largest number is 65504; scaled weights give the same mean
                weight = weight / (weight.max() / LARGEST_IN_FP16).clamp(min=1)
            loss, self.weight_sum = _WeightedCrossEntropy.apply(logits, labels, weight)
            return loss
        flat = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
        return self.func(flat.float(), labels.reshape(-1).long(), **kwargs)


class LabeledLoss(AvgLoss):
    """fastai's mean loss over the frames of a validation, without batches whose pixels are all void."""

    def accumulate(self, learn: Learner) -> None:
        """Count the loss of the current batch."""
        weight_sum = getattr(learn.loss_func, "weight_sum", None)  # None for the loss function of a user
        if weight_sum is None or weight_sum > 0:
            frames = getattr(learn.dl, "real_frames", find_bs(learn.yb))  # of several processes each counts its own
            self.total += learn.loss.detach().mean().cpu() * frames
            self.count += frames

    @property
    def value(self) -> float | Tensor:
        """The mean so far; nan if there is none."""
        return self.total / self.count if self.count else nan


class SmoothLoss(AvgSmoothLoss):
    """fastai's smooth training loss, kept on the device: fastai copies it to the host, which waits for every step.

    `learn.smooth_loss` and `recorder.losses` are on the device then; fastai's plots want them on the host.
    """

    val: Tensor

    def accumulate(self, learn: Learner) -> None:
        """Count the loss of the current batch."""
        self.count += 1
        loss = to_detach(learn.loss.mean(), cpu=False)
        self.val = torch.lerp(loss, self.val.to(loss), self.beta)


class _WeightedCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy over the pixels that are not void, weighted by class.

    `F.cross_entropy` computes the same, but reads and writes memory about ten times, and is slowest in the
    channels_last layout that the network computes in: on a CPU it takes a third of a training step. Here the scores
    are converted to contiguous float32 once (on a CPU frame by frame) and then overwritten by their gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss and the sum of the weights, and save the gradient of the loss's numerator."""
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = weight_sum = torch.zeros((), device=logits.device)
        frames = 1 if logits.device.type == "cpu" else len(logits)
        for first in range(0, len(logits), frames):
            part = slice(first, first + frames)
            scores, truth = logits[part], labels[part, None].long()
            counted = truth != VOID
            truth = torch.where(counted, truth, 0)
            pixel_weight = torch.where(counted, weight[truth], 0)
            scores = scores.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            scores -= scores.amax(1, keepdim=True)
            true_scores = scores.gather(1, truth)
            total = scores.exp_().sum(1, keepdim=True)
            loss = loss + ((total.log() - true_scores) * pixel_weight).sum()
            weight_sum = weight_sum + pixel_weight.sum()
            if gradient is not None:
                scores *= pixel_weight / total
                gradient[part] = scores.scatter_add_(1, truth, -pixel_weight)
        # Weights are positive: the sum is 0 only if all pixels are void.
        ctx.scale = torch.where(weight_sum > 0, 1 / weight_sum, 0)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(weight_sum)
        return loss * ctx.scale, weight_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_of_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * (gradient_of_loss * ctx.scale), None, None
