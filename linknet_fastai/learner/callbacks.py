"""fastai callbacks of a LinkNet learner: loss scaling, label sizes, seeds, skipped batches, accumulated gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException
from fastai.learner import Learner
from fastai.torch_core import find_bs

from linknet_fastai.core.device import Reading, release_memory, resolve_precision, runs_ahead, tune
from linknet_fastai.core.fastai_private import number_of_workers
from linknet_fastai.core.images import VOID
from linknet_fastai.learner.process_group import on_every_rank, sum_over_ranks
from linknet_fastai.model.linknet import resample_logits


class DevicePrecision(Callback):
    """Trains in the learner's precision: loss scaling for fp16, weights in channels_last, a tuned device.

    Autocast itself is in `LinkNetLearner.forward_pass`, its step in `LinkNetLearner.optimizer_step`. fastai's
    `MixedPrecision` supports CUDA alone: on a CPU it does nothing, without a warning.
    """

    order = 10
    scaler: torch.amp.GradScaler | None = None

    def before_fit(self) -> None:
        """Lay out the weights, make the loss scaler that fp16 needs, and tune the device."""
        self.learn.model.to(memory_format=torch.channels_last)
        device = next(self.learn.model.parameters()).device
        tune(device, number_of_workers(self.learn.dls.train))
        fp16 = resolve_precision(self.learn.precision, device) == "fp16"
        self.scaler = torch.amp.GradScaler(device.type) if fp16 else None

    def before_backward(self) -> None:
        """Scale the loss."""
        if self.scaler:
            self.learn.loss_grad = self.scaler.scale(self.learn.loss_grad)

    def before_step(self) -> None:
        """Divide the gradients by the scale, before a callback such as fastai's `GradientClip` looks at them."""
        if self.scaler:
            self.scaler.unscale_(torch_optimizer(self.learn))

    def after_epoch(self) -> None:
        """Keep no more memory than the next epoch needs."""
        release_memory(next(self.learn.model.parameters()).device)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "scaler": None}


def torch_optimizer(learn: Learner) -> Any:
    """The torch optimizer inside fastai's OptimWrapper; one of fastai's own is used as it is."""
    return getattr(learn.opt, "opt", learn.opt)


class ScoreAtLabelSize(Callback):
    """Resizes logits bilinearly to the size of the label map: label maps are never resampled for a score."""

    order = 11  # after the callbacks of a user, whose default is 0

    def after_pred(self) -> None:
        """Resample `learn.pred` if the labels have another size."""
        if self.learn.yb:
            self.learn.pred = resample_logits(self.learn.pred, self.learn.y.shape[-2:])


class SkipVoidBatches(Callback):
    """Skips a training batch whose pixels are all void: only weight decay would change the weights.

    Such a batch has no loss that a mean could count. The network runs on it only where gradients that were
    accumulated before wait for the step that follows it.

    If several processes train together, a batch is skipped by all of them or by none, because each waits for the
    gradients of the others.

    The labels are checked before the network runs. A GPU, which may still be busy with the batch before, has the
    network run on such a batch too: the host reads what was found only when a step is due, so that it never waits.
    """

    order = 6
    found: Reading | None = None

    def before_fit(self) -> None:
        """Say that there is no loss before the first batch that has one."""
        self.is_void = False
        self.learn.smooth_loss = torch.tensor(torch.nan)

    def before_batch(self) -> None:
        """Skip the batch if all its labels are void."""
        self.is_void, self.found = False, None
        if not (self.learn.training and self.learn.yb):
            return
        void = (self.learn.y == VOID).all()
        if runs_ahead(self.learn.dls.device) and not any(accumulations(self.learn)):
            self.found = Reading(void)
            return
        self.is_void = on_every_rank(void)
        if self.is_void and not any(cb.pending and cb.step_follows for cb in accumulations(self.learn)):
            raise CancelBatchException

    def before_step(self) -> None:
        """Take no step if all labels of the batch are void."""
        if self.found and self.found.read():
            self.is_void = True
            raise CancelStepException

    def after_batch(self) -> None:
        """Keep a loss that is none from the recorder."""
        if self.is_void:
            leave_out_of_means(self.learn)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "found": None}


def leave_out_of_means(learn: Learner) -> None:
    """Have fastai's recorder ignore the current batch, as it ignores those without labels.

    Args:
        learn: the learner, in `after_batch` of one of its callbacks whose `order` is below the recorder's 50.
    """
    learn.yb = ()


class AccumulateGradients(Callback):
    """Takes a step every `batches` batches with the gradient of one batch of all their frames, in all processes.

    That batch's loss is a sum over its pixels divided by the sum of their weights. So the gradients of the sums are
    accumulated, and divided once. A mean of the batches' means differs from it where batches, or processes, have
    different classes and shares of void. Batch norm still computes its statistics batch by batch.

    The last batches of an epoch make a step of their own if they are fewer.

    A loss function of another kind than `SegmentationLoss` is taken to be a mean over frames.

    Args:
        batches: how many batches make a step.
    """

    order, run_valid = DevicePrecision.order - 4, False

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def before_train(self) -> None:
        """Start without gradients, which an interrupted training may have left."""
        self.pending, self.weight = False, torch.zeros((), device=self.learn.dls.device)
        self.learn.opt.zero_grad()

    @property
    def step_follows(self) -> bool:
        """Whether the current batch ends with a step."""
        return (self.learn.iter + 1) % self.batches == 0 or self.learn.iter == self.learn.n_iter - 1

    def after_loss(self) -> None:
        """Turn the mean that is differentiated into a sum, and the one that is shown into that of all processes."""
        learn, weight = self.learn, getattr(self.learn.loss_func, "weight_sum", None)
        weight = learn.loss.new_tensor(find_bs(learn.yb)) if weight is None else weight
        sums = torch.stack([learn.loss.detach() * weight, weight, torch.ones_like(weight)])
        total, weight_of_all, ranks = sum_over_ranks(sums)
        learn.loss = total / weight_of_all.clamp(min=torch.finfo(weight.dtype).tiny)
        self.weight = self.weight + weight_of_all
        if not self.pending:  # a single batch is divided at once; what divides several keeps them in fp16's range
            self.divisor = self.weight if self.batches == 1 else learn.y.numel() * self.batches
        learn.loss_grad = learn.loss_grad * (weight * ranks / self.divisor)  # DDP takes the mean over the ranks
        self.pending = True

    def before_step(self) -> None:
        """Divide the gradients, or end the batch without a step."""
        if not self.step_follows:
            raise CancelBatchException
        if self.batches > 1:
            for parameter in self.learn.model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= self.divisor / self.weight
        self.pending, self.weight = False, torch.zeros_like(self.weight)


def accumulations(learn: Learner) -> Iterator[AccumulateGradients]:
    """The callbacks of a learner that accumulate gradients: one, or none."""
    return (callback for callback in learn.cbs if isinstance(callback, AccumulateGradients))


class EpochSeed(Callback):
    """Passes the epoch to the training loader: order and augmentation follow from (seed, epoch, index).

    A second `fit` of the same learner continues to count, so that its crops differ from those of the first.
    """

    def __init__(self) -> None:
        self.epochs_before = 0

    def before_train(self) -> None:
        """Set the loader's epoch."""
        self.dls.train.epoch = self.epochs_before + self.epoch

    def after_fit(self) -> None:
        """Add the epochs of this fit, except those of the learning rate finder."""
        if not hasattr(self.learn, "lr_finder"):
            self.epochs_before += self.n_epoch
