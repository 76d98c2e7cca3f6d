"""Learning rate schedules by name."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, SchedCos, combined_cos
from fastai.learner import Learner

from linknet_fastai.core.errors import UsageError

STEPS = (0.5, 0.75)  # the step schedule divides the learning rate by ten at these shares of the training


def fit_schedule(
    learn: Learner,
    schedule: str | None = None,
    epochs: int | None = None,
    lr: float | str | None = None,
    start_epoch: int = 0,
    cbs: Sequence[Callback] = (),
    encoder_lr: float | None = None,
) -> None:
    """Train with one of the schedules; what is None follows `learn.settings`.

    Args:
        learn: the result of `linknet_learner`.
        schedule: "one-cycle" and "flat-cos" are fastai's, "cosine" falls from `lr` to 0 by half a cosine, "constant"
            keeps `lr`, "step" divides it by ten after half and after three quarters of the training.
        epochs: the length of the whole training, with the epochs before `start_epoch`.
        lr: the (highest) learning rate.
        start_epoch: how many epochs are done already; fastai skips them.
        cbs: callbacks for this training.
        encoder_lr: the encoder's share of the learning rate, at most 1. By default that of the settings for an
            encoder that is trained already, else 1.

    Raises:
        UsageError: the learning rate is "auto", which the command `fit` alone resolves.
        ValueError: there is no such schedule.

    Example:
        With the settings of the preset, and for 20 epochs of another schedule::

            fit_schedule(learn)
            fit_schedule(learn, "cosine", epochs=20, lr=1e-3)
    """
    settings = learn.settings
    schedule, epochs, lr = schedule or settings.schedule, epochs or settings.epochs, lr or settings.lr
    if isinstance(lr, str):
        raise UsageError(f"lr: {lr!r} is for the command fit; give a number, such as learn.lr_find().valley")
    rates = group_rates(learn, lr, encoder_lr)
    shapes = {
        # As fastai's fit_flat_cos, which does not pass on `start_epoch` (2.8.12).
        "flat-cos": combined_cos(0.75, rates, rates, rates / 1e5),
        "cosine": SchedCos(rates, 0),
        "step": partial(_step_rate, rates),
    }
    if schedule == "one-cycle":
        learn.fit_one_cycle(epochs, rates, cbs=[*cbs], start_epoch=start_epoch)
    elif schedule == "constant":
        learn.fit(epochs, rates, cbs=[*cbs], start_epoch=start_epoch)
    elif schedule in shapes:
        learn.fit(epochs, rates, cbs=[*cbs, ParamScheduler({"lr": shapes[schedule]})], start_epoch=start_epoch)
    else:
        raise ValueError(f"schedule {schedule!r}: use 'one-cycle', 'flat-cos', 'cosine', 'constant' or 'step'")


def group_rates(learn: Learner, lr: float, encoder_lr: float | None = None) -> np.ndarray:
    """The learning rates of the learner's parameter groups, the encoder and the rest, for the rate `lr` of the rest.

    Args:
        learn: the result of `linknet_learner`.
        lr: the learning rate.
        encoder_lr: see `fit_schedule`.

    Example:
        As the command `lr-find` searches::

            learn.lr_find(group_rates(learn, 1e-7), group_rates(learn, 10))
    """
    settings = learn.settings
    if encoder_lr is None:
        encoder_lr = settings.encoder_lr if settings.encoder_is_trained else 1
    return np.array([lr * encoder_lr, lr])


def _step_rate(rates: np.ndarray, share: float) -> np.ndarray:
    return rates * 0.1 ** sum(share >= step for step in STEPS)
