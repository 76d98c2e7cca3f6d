"""fastai callbacks of a LinkNet learner: precision, seeds, label sizes, steps that are skipped or put together."""

import torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner
from fastai.torch_core import find_bs

from linknet_fastai.core.device import autocast, release_memory, resolve_precision, tune
from linknet_fastai.core.images import VOID
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.learner.process_group import on_every_rank
from linknet_fastai.model.linknet import resample_logits


class DevicePrecision(Callback):
    """Mixed precision on whatever device the model is on, weights in channels_last, and the device's own settings.

    fastai's `MixedPrecision` autocasts CUDA alone: on a CPU it does nothing and says nothing.
    """

    order = 10

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision
        self.scaler: torch.amp.GradScaler | None = None
        self._autocast: torch.autocast | None = None

    def before_fit(self) -> None:
        """Lay out the weights, make the loss scaler that fp16 needs, and tune the device."""
        self.learn.model.to(memory_format=torch.channels_last)
        device = next(self.learn.model.parameters()).device
        tune(device, self.learn.dls.train.fake_l.num_workers)
        fp16 = resolve_precision(self.precision, device) == "fp16"
        self.scaler = torch.amp.GradScaler(device.type) if fp16 else None

    def before_batch(self) -> None:
        """Enter autocast; also outside of `fit`, where there is no `before_fit`."""
        device = self.learn.xb[0].device
        self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.learn.xb)
        self._autocast = autocast(resolve_precision(self.precision, device), device)
        self._autocast.__enter__()

    def after_pred(self) -> None:
        """Leave autocast: the loss and the scores are computed in fp32.

        LinkNet's own loss takes the logits of a training as they are: a copy in fp32 would only be moved around.
        """
        self.leave()
        if not (self.learn.training and isinstance(self.learn.loss_func, SegmentationLoss)):
            self.learn.pred = self.learn.pred.float()

    def after_cancel_batch(self) -> None:
        """Leave autocast also when the batch ends early."""
        self.leave()

    def before_backward(self) -> None:
        """Scale the loss."""
        if self.scaler:
            self.learn.loss_grad = self.scaler.scale(self.learn.loss_grad)

    def before_step(self) -> None:
        """Let the scaler take the step, or skip it where gradients overflowed; fastai's own step is left out."""
        if self.scaler:
            self.scaler.step(self.learn.opt.opt)  # the torch optimizer inside fastai's OptimWrapper
            self.scaler.update()
            raise CancelStepException

    def after_epoch(self) -> None:
        """Keep no more memory than the next epoch needs."""
        release_memory(next(self.learn.model.parameters()).device)

    def leave(self) -> None:
        """Leave autocast, where it was entered; the learner calls this also when a batch fails or is interrupted."""
        if self._autocast is not None:
            self._autocast.__exit__(None, None, None)
            self._autocast = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "scaler": None, "_autocast": None}


class ScoreAtLabelSize(Callback):
    """Brings logits to the size of the label map, bilinearly: label maps are never resampled for a score."""

    order = 11  # behind DevicePrecision, which makes the logits fp32

    def after_pred(self) -> None:
        """Resample `learn.pred` where the labels have another size."""
        if self.learn.yb:
            self.learn.pred = resample_logits(self.learn.pred, self.learn.y.shape[-2:])


class SkipVoidBatches(Callback):
    """Skips training on a batch without a single pixel that counts: there is nothing to learn, only to decay.

    Of several processes all skip it or none: each waits for the gradients of the others.

    It looks before the network runs. There the device has nothing else to do: fastai has just waited for the loss
    of the batch before.
    """

    order = 6

    def before_batch(self) -> None:
        """End the batch where all its labels are void."""
        if self.learn.training and self.learn.yb and on_every_rank((self.learn.y == VOID).all()):
            skip_batch(self.learn)


def skip_batch(learn: Learner) -> None:
    """End the current batch before the network runs."""
    if getattr(learn, "loss", None) is None:  # fastai's recorder averages the loss that is there
        learn.loss = torch.zeros((), device=learn.y.device)
    raise CancelBatchException


class AccumulateGradients(GradientAccumulation):
    """Takes a step every `batches` batches; what is left at the end of an epoch makes a smaller one.

    fastai's carries it over to the next epoch, where a resumed run would miss it.
    """

    def __init__(self, batches: int, bs: int) -> None:
        super().__init__(n_acc=batches * bs)

    def before_train(self) -> None:
        """Start anew: where the last batch of an epoch was all void, its gradients are still there."""
        self.count = 0
        self.learn.opt.zero_grad()

    @property
    def step_follows(self) -> bool:
        """Whether the current batch ends with a step."""
        return self.iter == self.n_iter - 1 or self.count + find_bs(self.learn.yb) >= self.n_acc

    def before_step(self) -> None:
        """Let the step happen, or end the batch."""
        if self.step_follows:
            self.count = self.n_acc
        super().before_step()


class EpochSeed(Callback):
    """Tells the training loader the epoch: order and augmentation follow from (seed, epoch, index).

    A second `fit` of the same learner goes on counting, so that it sees other crops than the first.
    """

    def __init__(self) -> None:
        self.epochs_before = 0

    def before_train(self) -> None:
        """Pass the epoch on."""
        self.dls.train.epoch = self.epochs_before + self.epoch

    def after_fit(self) -> None:
        """Count the epochs of this fit; the learning rate finder leaves no trace."""
        if not hasattr(self.learn, "lr_finder"):
            self.epochs_before += self.n_epoch
