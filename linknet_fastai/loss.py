"""Class weights from pixel counts, and the weighted cross-entropy that trains LinkNet."""

import torch
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor

from linknet_fastai.recipe import VOID


def class_weights(pixels: Tensor, method: str = "log") -> Tensor | None:
    """Weights that lift rare classes.

    Args:
        pixels: C counts of training pixels, one a class, void left out.
        method: "log" is 1 / ln(1.02 + p) with p the class's share of all counted pixels (ENet, Paszke et al.,
            2016; LinkNet uses the same); "median" is median frequency balancing, median(p) / p (Eigen and
            Fergus, 2015; here p is over all pixels, not over the frames that hold the class); "none" weighs all
            classes alike.

    Returns:
        C float32 weights, or None for "none". A class without a pixel gets the largest weight of the others:
        nothing ever trains it, and an infinite weight would spoil the loss.
    """
    if method == "none":
        return None
    pixels = pixels.double()
    share = pixels / pixels.sum().clamp(min=1)
    if method == "log":
        return (1 / torch.log(1.02 + share)).float()
    if method != "median":
        raise ValueError(f"class weights {method!r}: use 'log', 'median' or 'none'")
    present = share > 0
    weights = torch.where(present, share[present].median() / share, torch.zeros_like(share))
    return torch.where(present, weights, weights.max()).float()


class SegmentationLoss(CrossEntropyLossFlat):
    """fastai's `CrossEntropyLossFlat` over the channel axis, weighted by class, with void left out.

    Takes logits BxCxHxW and labels BxHxW (integers, 255 for void); gives the mean over the pixels that count,
    each weighed by its class. A batch that is all void costs 0, where the weighted mean would be 0/0.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(axis=1, weight=weight, ignore_index=VOID, reduction=reduction)

    def __call__(self, logits: Tensor, labels: Tensor, **kwargs) -> Tensor:
        # Channels last first: where the network runs in that memory format this flattening copies nothing.
        flat = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
        loss = self.func(flat, labels.reshape(-1).long(), **kwargs)
        if self.reduction == "mean":
            return torch.where((labels != VOID).any(), loss, flat.sum() * 0)
        return loss
