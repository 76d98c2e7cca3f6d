"""TensorBoard and Weights & Biases, through fastai's own callbacks."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback

from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UserError, import_optional
from linknet_fastai.core.fastai_private import continue_wandb

LOGGERS = ("tensorboard", "wandb")  # the packages' names, and those of the extras that bring them


def require_loggers(names: Collection[str]) -> None:
    """Raise UserError where a logger is not installed."""
    for name in names:
        import_optional(name, name)


@contextmanager
def logging_callbacks(names: Collection[str], folder: Path, settings: Settings) -> Iterator[list[Callback]]:
    """Return fastai's callbacks for some of `LOGGERS`; their files are written into the run folder.

    They log losses, scores and learning rates, but neither the network's graph nor predictions: fastai's callbacks
    cannot trace in mixed precision, and they show frames of one size only.

    Raises:
        UserError: W&B cannot start, for example without a login.
    """
    callbacks: list[Callback] = []
    if "tensorboard" in names:
        callbacks.append(_tensorboard_callback()(folder / "tensorboard", trace_model=False, log_preds=False))
    if "wandb" not in names:
        yield callbacks
        return
    import wandb

    # W&B names the folder of a run after its id, which a resumed training uses again.
    earlier = next((folder / "wandb").glob("*run-*_*-*"), None)
    resumed: dict[str, Any] = {"id": re.split(r"run-\d+_\d+-", earlier.name)[1], "resume": "allow"} if earlier else {}
    config = settings.model_dump(mode="json")
    try:
        run = wandb.init(project="linknet-fastai", name=folder.name, dir=folder, config=config, **resumed)
    except wandb.Error as error:
        reason = str(error).rstrip(".")
        raise UserError(f"--wandb: {reason}; or keep the log on disk with WANDB_MODE=offline") from None
    with run:
        yield [*callbacks, _wandb_callback()(log=None, log_preds=False)]


def _tensorboard_callback() -> type[Callback]:
    from fastai.callback.tensorboard import SummaryWriter, TensorBoardCallback

    class ResumableTensorBoard(TensorBoardCallback):
        """fastai's, which cannot write an optimizer's settings that are not numbers, and does not resume a run."""

        def before_fit(self) -> None:
            done = self.learn.run_record.batches_before  # what was logged after them is logged again
            self.writer = SummaryWriter(self.log_dir, purge_step=done + 1 if done else None)

        def after_batch(self) -> None:
            if not (self.learn.training and self.learn.yb):  # of a batch that was skipped nothing is known
                return
            self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)
            for group, hypers in enumerate(self.opt.hypers):
                for name, value in hypers.items():
                    if isinstance(value, int | float):
                        self.writer.add_scalar(f"{name}_{group}", value, self.train_iter)

    return ResumableTensorBoard


def _wandb_callback() -> type[Callback]:
    from fastai.callback.wandb import WandbCallback

    class ResumableWandb(WandbCallback):
        """fastai's, which reads every argument's arguments and fails on some; here the settings are the config."""

        def before_fit(self) -> None:
            self.learn.gather_args = dict
            super().before_fit()
            done = self.learn.run_record.batches_before
            continue_wandb(self, done - 1, done / len(self.dls.train))

        def after_batch(self) -> None:
            if self.learn.yb:
                super().after_batch()

    return ResumableWandb
