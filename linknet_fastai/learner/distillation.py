"""Learning from a teacher: a larger network's predictions as soft targets beside the labels (Hinton et al., 2015)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import Tensor, nn

from linknet_fastai.core.device import autocast, resolve_precision
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.batch_norm import fold_batch_norms
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.save_load import load_model


class SoftTargets(Callback):
    """Adds to the loss of a training batch how far the network's predictions are from those of a teacher.

    The teacher sees the same augmented images, normalized as it expects them. It runs without gradients, and is part
    neither of the network nor of what is saved of a learner.

    Args:
        path: the teacher, a run folder or a `.safetensors`.
        card: the card of the network that learns.
        share: what the divergence is multiplied by before it is added to the loss.
        temperature: what logits are divided by, see `soft_target_loss`.

    Raises:
        UsageError: the teacher has other classes.
        UserError: the teacher cannot be loaded.

    Example:
        ::

            learn = linknet_learner(dls, encoder="resnet10t", cbs=SoftTargets(Path("runs/large"), card))
    """

    order, run_valid = 5, False  # before AccumulateGradients, which scales the whole loss

    def __init__(self, path: Path, card: ModelCard, share: float = 0.5, temperature: float = 1.0) -> None:
        network, taught = load_model(path)
        if taught.class_names != card.class_names:
            raise UsageError(
                f"--teacher: {path} has the {len(taught.classes)} classes of {taught.recipe}, not the "
                f"{len(card.classes)} of {card.recipe}; a teacher was trained on the same classes"
            )
        self.share, self.temperature = share, temperature
        self.teacher: nn.Module | None = fold_batch_norms(network).requires_grad_(False)
        # From the images of the network that learns to those of the teacher: one factor and one offset a channel.
        mean, std, own_mean, own_std = map(torch.tensor, (taught.mean, taught.std, card.mean, card.std))
        self.factor, self.offset = ((each.view(1, 3, 1, 1)) for each in (own_std / std, (own_mean - mean) / std))

    def before_fit(self) -> None:
        """Move the teacher to where the network is."""
        device = next(self.learn.model.parameters()).device
        self.factor, self.offset = self.factor.to(device), self.offset.to(device)
        if self.teacher:
            self.teacher.to(device).to(memory_format=torch.channels_last)

    def after_loss(self) -> None:
        """Add the divergence to the loss."""
        learn = self.learn
        if not self.teacher:
            return
        images = learn.x.as_subclass(Tensor)
        with torch.no_grad(), autocast(resolve_precision(learn.precision, images.device), images.device):
            images = torch.addcmul(self.offset, images, self.factor).contiguous(memory_format=torch.channels_last)
            soft = self.teacher(images)
        weight = learn.loss_func.func.weight if isinstance(learn.loss_func, SegmentationLoss) else None
        labels = learn.y.as_subclass(Tensor)
        learn.loss_grad = learn.loss_grad + self.share * soft_target_loss(
            learn.pred.as_subclass(Tensor), soft, labels, weight, self.temperature
        )
        learn.loss = learn.loss_grad.clone()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "teacher": None}


def soft_target_loss(
    logits: Tensor, soft: Tensor, labels: Tensor, weight: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """The mean divergence between the softmaxes of a teacher and of the network that learns.

    With T the temperature, q and p the softmaxes of the teacher's and the network's logits divided by T, y the label
    of a pixel and w the class weights, it is T^2 sum(w[y] KL(q || p)) / sum(w[y]) over all pixels that are not void.
    T^2 keeps its gradients as large as those of the labels; the weights are those of the labels' loss, so that
    gradients accumulate as those of one large batch. Computed in float32. 0 if all pixels are void.

    Args:
        logits: BxCxHxW floats, of the network that learns.
        soft: BxCxHxW floats, of the teacher.
        labels: BxHxW integers, 255 for void.
        weight: C floats; None weighs all classes the same.
        temperature: T, above 0.

    Returns:
        A scalar of at least 0.

    Example:
        >>> soft, labels = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
        >>> soft_target_loss(torch.zeros(1, 2, 1, 1), soft, labels, temperature=1.0)
        tensor(0.3278)
    """
    counted = labels != VOID
    weight = torch.ones(logits.shape[1], device=logits.device) if weight is None else weight
    pixel_weight = torch.where(counted, weight[torch.where(counted, labels, 0).long()], 0)
    ours, theirs = (F.log_softmax(each.float() / temperature, 1) for each in (logits, soft))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    total = pixel_weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
    return temperature**2 * (divergence * pixel_weight).sum() / total
