"""What this package uses of fastai beyond its public interface; no other file uses a private name of fastai."""

import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
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


class LabelsAtImageSizeDL(TfmdDL):
    """A `TfmdDL` whose `show_batch` also draws label maps of another size than their images.

    fastai draws a label map over its image pixel for pixel. `_pre_show_batch` decodes a batch for `show_batch`.
    """

    def _pre_show_batch(self, b: tuple, max_n: int = 9) -> tuple:
        images, *labels = b
        size = images.shape[-2:]
        shown = [F.interpolate(y[:, None].float(), size)[:, 0].to(y.dtype).as_subclass(type(y)) for y in labels]
        return super()._pre_show_batch((images, *shown), max_n)


def number_of_workers(dl: DataLoader) -> int:
    """How many loader processes a fastai DataLoader starts; `fake_l` is the torch DataLoader inside it."""
    return dl.fake_l.num_workers


def continue_wandb(callback: Callback, step: int, epoch: float) -> None:
    """Have fastai's `WandbCallback` log its next batch after this step and epoch; call it after its `before_fit`."""
    callback._wandb_step, callback._wandb_epoch = step, epoch  # noqa: SLF001
