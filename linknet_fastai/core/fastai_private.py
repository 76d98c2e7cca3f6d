"""What this package uses of fastai beyond its public interface; no other file uses a private name of fastai."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader, _loaders
from fastai.learner import Learner
from fastai.torch_core import apply, to_device
from torch import Tensor


class ForwardLearner(Learner):
    """A fastai Learner whose forward pass and step are methods, which a subclass can run in mixed precision.

    fastai's `MixedPrecision` enters autocast in one callback event and exits in another: after an error in the
    network it stays on.
    """

    def forward_pass(self) -> Tensor:
        """Return the network's output for the inputs of the current batch, `xb`."""
        return self.model(*self.xb)

    def optimizer_step(self) -> None:
        """Take a step with the gradients that the parameters have."""
        self.opt.step()

    def _step(self) -> None:
        self.optimizer_step()

    def _do_one_batch(self) -> None:
        # As fastai's; its first line is `self.pred = self.model(*self.xb)`.
        self.pred = self.forward_pass()
        self("after_pred")
        if self.yb:
            self.loss_grad = self.loss_func(self.pred, *self.yb)
            self.loss = self.loss_grad.clone()
        self("after_loss")
        if self.training and self.yb:
            self._do_grad_opt()


class SegmentationDL(TfmdDL):
    """A `TfmdDL` that copies batches to a GPU while it computes, and draws label maps of another size than images.

    For fastai's copy the host waits until the GPU has done all that is queued. And fastai's `show_batch` draws a
    label map over its image pixel for pixel; `_pre_show_batch` decodes a batch for it.
    """

    def __iter__(self) -> Iterator[tuple]:
        # As fastai's, but for `_to_device_at_once`.
        self.randomize()
        self.before_iter()
        self._DataLoader__idxs = self.get_idxs()  # read by `sample`, in the loader processes too
        for batch in _loaders[self.fake_l.num_workers == 0](self.fake_l):
            if self.device is not None:
                batch = _to_device_at_once(batch, torch.device(self.device))
            yield self.after_batch(batch)
        self.after_iter()
        if hasattr(self, "it"):
            del self.it

    def _pre_show_batch(self, b: tuple, max_n: int = 9) -> tuple:
        images, *labels = b
        size = images.shape[-2:]
        shown = [F.interpolate(y[:, None].float(), size)[:, 0].to(y.dtype).as_subclass(type(y)) for y in labels]
        return super()._pre_show_batch((images, *shown), max_n)


def _to_device_at_once(batch: tuple, device: torch.device) -> tuple:
    """Copy a batch to a device; to a GPU from memory that it reads by itself, so that the host need not wait."""
    if device.type != "cuda":
        return to_device(batch, device)
    pinned = apply(lambda part: part.pin_memory() if isinstance(part, Tensor) else part, batch)
    return to_device(pinned, device, non_blocking=True)


def number_of_workers(dl: DataLoader) -> int:
    """How many loader processes a fastai DataLoader starts; `fake_l` is the torch DataLoader inside it."""
    return dl.fake_l.num_workers


def continue_wandb(callback: Callback, step: int, epoch: float) -> None:
    """Have fastai's `WandbCallback` log its next batch after this step and epoch; call it after its `before_fit`."""
    callback._wandb_step, callback._wandb_epoch = step, epoch  # noqa: SLF001
