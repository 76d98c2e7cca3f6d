"""fastai callbacks of a LinkNet learner: loss scaling, label sizes, seeds, skipped batches, accumulated gradients."""

import torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner
from fastai.torch_core import find_bs

from linknet_fastai.core.device import release_memory, resolve_precision, tune
from linknet_fastai.core.fastai_private import number_of_workers
from linknet_fastai.core.images import VOID
from linknet_fastai.learner.process_group import on_every_rank
from linknet_fastai.model.linknet import resample_logits


class DevicePrecision(Callback):
    """Trains in the learner's precision: loss scaling for fp16, weights in channels_last, a tuned device.

    Autocast itself is in `LinkNetLearner.forward_pass`. fastai's `MixedPrecision` supports CUDA alone: on a CPU it
    does nothing, without a warning.
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
        """Let the scaler take the step, or skip it if gradients overflowed; fastai's own step is canceled."""
        if self.scaler:
            self.scaler.step(self.learn.opt.opt)  # the torch optimizer inside fastai's OptimWrapper
            self.scaler.update()
            raise CancelStepException

    def after_epoch(self) -> None:
        """Keep no more memory than the next epoch needs."""
        release_memory(next(self.learn.model.parameters()).device)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "scaler": None}


class ScoreAtLabelSize(Callback):
    """Resizes logits bilinearly to the size of the label map: label maps are never resampled for a score."""

    order = 11  # after the callbacks of a user, whose default is 0

    def after_pred(self) -> None:
        """Resample `learn.pred` if the labels have another size."""
        if self.learn.yb:
            self.learn.pred = resample_logits(self.learn.pred, self.learn.y.shape[-2:])


class SkipVoidBatches(Callback):
    """Skips a training batch whose pixels are all void: only weight decay would change the weights.

    If several processes train together, a batch is skipped by all of them or by none, because each waits for the
    gradients of the others.

    The labels are checked before the network runs. The device is idle then: fastai has just waited for the loss of
    the previous batch.
    """

    order = 6

    def before_batch(self) -> None:
        """Skip the batch if all its labels are void."""
        if self.learn.training and self.learn.yb and on_every_rank((self.learn.y == VOID).all()):
            skip_batch(self.learn)


def skip_batch(learn: Learner) -> None:
    """Cancel the current batch before the network runs.

    Args:
        learn: the learner, in one of its callbacks' `before_batch`.

    Raises:
        CancelBatchException: always; fastai continues with the next batch.
    """
    if getattr(learn, "loss", None) is None:  # fastai's recorder averages `loss` after every batch
        learn.loss = torch.zeros((), device=learn.y.device)
    raise CancelBatchException


class AccumulateGradients(GradientAccumulation):
    """Takes a step every `batches` batches; the remaining ones at the end of an epoch make a smaller step.

    fastai's callback carries them over to the next epoch, where a resumed run would miss them.

    Args:
        batches: how many batches make a step.
        bs: frames per batch.
    """

    def __init__(self, batches: int, bs: int) -> None:
        super().__init__(n_acc=batches * bs)

    def before_train(self) -> None:
        """Discard gradients that remain if the last batch of the previous epoch was skipped."""
        self.count = 0
        self.learn.opt.zero_grad()

    @property
    def step_follows(self) -> bool:
        """Whether the current batch ends with a step."""
        return self.iter == self.n_iter - 1 or self.count + find_bs(self.learn.yb) >= self.n_acc

    def before_step(self) -> None:
        """Take the step, or end the batch."""
        if self.step_follows:
            self.count = self.n_acc
        super().before_step()


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
