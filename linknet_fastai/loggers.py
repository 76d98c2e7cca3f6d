"""TensorBoard and Weights & Biases, through fastai's own callbacks."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastai.callback.core import Callback

from linknet_fastai.errors import UserError, need
from linknet_fastai.settings import Settings

LOGGERS = ("tensorboard", "wandb")  # the packages' names, and those of the extras that bring them


def require_loggers(names: Collection[str]) -> None:
    """Raise UserError where a logger is not installed."""
    for name in names:
        need(name, name)


@contextmanager
def logging_callbacks(names: Collection[str], folder: Path, settings: Settings) -> Iterator[list[Callback]]:
    """Give fastai's callbacks for some of `LOGGERS`; what they keep on disk goes into the run folder.

    They log losses, scores and rates. Neither the network's graph nor predictions: fastai's callbacks cannot trace in
    mixed precision, and they show frames of one size alone.

    Raises:
        UserError: W&B cannot start, for want of a login for instance.
    """
    callbacks: list[Callback] = []
    if "tensorboard" in names:
        from fastai.callback.tensorboard import TensorBoardCallback

        callbacks.append(TensorBoardCallback(folder / "tensorboard", trace_model=False, log_preds=False))
    if "wandb" not in names:
        yield callbacks
        return
    import wandb
    from fastai.callback.wandb import WandbCallback

    class OwnConfig(WandbCallback):
        """The settings are the run's config: fastai gathers every argument's arguments and fails on some."""

        def before_fit(self) -> None:
            self.learn.gather_args = dict
            super().before_fit()

    try:
        run = wandb.init(
            project="linknet-fastai", name=folder.name, dir=folder, config=settings.model_dump(mode="json")
        )
    except wandb.Error as error:
        reason = str(error).rstrip(".")
        raise UserError(f"--wandb: {reason}; or keep the log on disk with WANDB_MODE=offline") from None
    with run:
        yield [*callbacks, OwnConfig(log=None, log_preds=False)]
