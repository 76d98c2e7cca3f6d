"""The course of the learning rate over a training, by name."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.learner import Learner

STEPS = (0.5, 0.75)  # the step schedule divides the learning rate by ten at these shares of the training


def fit_schedule(
    learn: Learner,
    schedule: str,
    epochs: int,
    lr: float,
    start_epoch: int = 0,
    cbs: Sequence[Callback] = (),
    encoder_lr: float = 1.0,
) -> None:
    """Train by one of the schedules, from `start_epoch` on.

    Args:
        learn: the learner.
        schedule: "one-cycle" and "flat-cos" are fastai's, "cosine" falls from `lr` to 0 by half a cosine, "constant"
            keeps `lr`, "step" divides it by ten after half and after three quarters of the training.
        epochs: the whole length of the training.
        lr: the (highest) learning rate.
        start_epoch: how many epochs were done before, their callbacks' events are skipped by fastai.
        cbs: callbacks for this training.
        encoder_lr: the encoder's share of the learning rate: a trained one is spoilt by the rate that a new decoder
            needs.
    """
    shared = {"cbs": list(cbs), "start_epoch": start_epoch}
    rates = np.array([lr * encoder_lr, lr])  # of the groups of `encoder_and_rest`
    if schedule == "one-cycle":
        learn.fit_one_cycle(epochs, rates, **shared)
    elif schedule == "flat-cos":
        learn.fit_flat_cos(epochs, rates, **shared)
    elif schedule == "constant":
        learn.fit(epochs, rates, **shared)
    elif schedule in ("cosine", "step"):
        scheduled = SchedCos(rates, 0) if schedule == "cosine" else partial(_step_rate, rates)
        shared["cbs"].append(ParamScheduler({"lr": scheduled}))
        learn.fit(epochs, rates, **shared)
    else:
        raise ValueError(f"schedule {schedule!r}: use 'one-cycle', 'flat-cos', 'cosine', 'constant' or 'step'")


def _step_rate(rates: np.ndarray, share: float) -> np.ndarray:
    return rates * 0.1 ** sum(share >= step for step in STEPS)
