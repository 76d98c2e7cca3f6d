"""What this package uses of fastai beyond its public interface; no other file uses a private name of fastai."""

from fastai.callback.core import Callback
from fastai.data.load import DataLoader


def number_of_workers(dl: DataLoader) -> int:
    """How many loader processes a fastai DataLoader starts; `fake_l` is the torch DataLoader inside it."""
    return dl.fake_l.num_workers


def continue_wandb(callback: Callback, step: int, epoch: float) -> None:
    """Have fastai's `WandbCallback` log its next batch after this step and epoch; call it after its `before_fit`."""
    callback._wandb_step, callback._wandb_epoch = step, epoch  # noqa: SLF001
