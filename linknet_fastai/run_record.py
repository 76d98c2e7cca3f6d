"""The callback that keeps a run while it trains, and who wants to hear of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import get_model

from linknet_fastai.dataset import Progress
from linknet_fastai.metrics import ForegroundIoU
from linknet_fastai.model_file import RUN_MODEL, save_model
from linknet_fastai.processes import is_first
from linknet_fastai.run_folder import plain_numbers, write_checkpoint, write_metrics
from linknet_fastai.scores import best_row
from linknet_fastai.settings import Settings

Row = dict[str, float]


class Observer(Protocol):
    """What wants to know how a training goes; the command line implements it."""

    progress: Progress

    def started(self, learn: Learner, settings: Settings, origins: Mapping[str, str], run: Mapping) -> None:
        """Everything is resolved and checked; the first epoch follows."""

    def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
        """A batch of an epoch (counted from 1) is done."""

    def epoch_ended(self, row: Row) -> None:
        """An epoch is done; `row` is that of metrics.csv."""


@dataclass
class FitResult:
    """What a training left: its folder, its rows, and whether it ran to the end."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    finished: bool = True

    @property
    def best(self) -> Row:
        """The row of the epoch whose weights were kept."""
        return best_row(self.rows)


class RunRecord(Callback):
    """Keeps a run: a row, a checkpoint and the best weights after each epoch; tells the observer.

    Of several processes that train together the first alone writes.

    Args:
        folder: the run folder.
        checkpoint: where an interrupted run goes on; fastai only passes through the epochs before.
        observer: told of batches and epochs.
    """

    order = 70  # behind Recorder and ParamScheduler

    def __init__(
        self, folder: Path, checkpoint: Mapping[str, Any] | None = None, observer: Observer | None = None
    ) -> None:
        self.folder, self.checkpoint, self.observer = folder, checkpoint, observer
        self.start_epoch = checkpoint["epochs_done"] if checkpoint else 0
        self.rows: list[Row] = list(checkpoint["rows"]) if checkpoint else []

    def before_fit(self) -> None:
        """Restore what fastai makes anew at the start of every fit."""
        if self.checkpoint:
            smooth_loss = self.learn.recorder.smooth_loss
            smooth_loss.count, smooth_loss.val = self.checkpoint["smooth_loss"]
            scaler, state = self.learn.device_precision.scaler, self.checkpoint["scaler"]
            if scaler and state:  # a run may go on on a device that trains in another precision
                scaler.load_state_dict(state)
            torch.set_rng_state(self.checkpoint["torch_rng"])

    def before_epoch(self) -> None:
        """Start the clock."""
        self.begun = time.perf_counter()

    def after_batch(self) -> None:
        """Tell the observer."""
        if self.observer and self.epoch >= self.start_epoch:
            loss = float(self.learn.smooth_loss) if self.learn.training else float(self.learn.loss)
            lr = float(self.opt.hypers[-1]["lr"])
            done = self.learn.iter + 1
            self.observer.stepped(self.epoch + 1, done, self.learn.n_iter, loss, lr, self.learn.training)

    def after_epoch(self) -> None:
        """Write the best weights first, then the checkpoint, which holds all rows, then metrics.csv.

        A run killed between two of these goes on from the checkpoint, and no row is lost or doubled.
        """
        if self.epoch < self.start_epoch:
            return
        row = self._row()
        self.rows.append(row)
        if not is_first():
            return
        model = get_model(self.learn.model)
        if best_row(self.rows) is row:
            save_model(model, self.learn.card, self.folder / RUN_MODEL)
        scaler, smooth_loss = self.learn.device_precision.scaler, self.learn.recorder.smooth_loss
        state = {
            "model": model.state_dict(),
            "optimizer": plain_numbers(self.opt.state_dict()),
            "rows": self.rows,
            "classes": self.learn.card.class_names,
            "smooth_loss": (smooth_loss.count, smooth_loss.val),
            "scaler": scaler.state_dict() if scaler else None,
            "torch_rng": torch.get_rng_state(),
        }
        write_checkpoint(self.folder, self.epoch + 1, state)
        write_metrics(self.folder, self.rows)
        if self.observer:
            self.observer.epoch_ended(row)

    def _row(self) -> Row:
        recorder, scores = self.learn.recorder, _counted(self.learn).scores()
        names = self.learn.card.class_names
        return {
            "epoch": self.epoch + 1,
            "train_loss": float(recorder.smooth_loss.value),
            "valid_loss": float(recorder.loss.value),
            "miou": scores.miou,
            "mean_accuracy": scores.mean_accuracy,
            "pixel_accuracy": scores.pixel_accuracy,
            **{f"iou_{name}": iou for name, iou in zip(names, scores.iou.tolist(), strict=True)},
            "lr": float(self.opt.hypers[-1]["lr"]),
            "seconds": time.perf_counter() - self.begun,
        }


def _counted(learn: Learner) -> ForegroundIoU:
    return next(metric for metric in learn.metrics if isinstance(metric, ForegroundIoU))
