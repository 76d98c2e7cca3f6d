"""The private names of fastai that this program uses; tests/core/test_fastai_private.py fails when one is gone."""

from fastai.callback.core import Callback
from fastai.data.load import DataLoader


def loader_workers(loader: DataLoader) -> int:
    """How many processes load the batches of a fastai DataLoader."""
    return loader.fake_l.num_workers


def continue_wandb(callback: Callback, step: int, epoch: float) -> None:
    """Have fastai's `WandbCallback` log its next batch after this step and epoch; call it after its `before_fit`."""
    callback._wandb_step, callback._wandb_epoch = step, epoch  # noqa: SLF001
