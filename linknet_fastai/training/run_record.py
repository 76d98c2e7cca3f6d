"""The callbacks that keep a run while it trains and resume it, and the signals that stop it."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from fastai.torch_core import get_model

from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.parallel import Progress, is_first, process_count
from linknet_fastai.learner.callbacks import AccumulateGradients, skip_batch
from linknet_fastai.learner.process_group import on_any_rank
from linknet_fastai.model.save_load import RUN_MODEL, save_model
from linknet_fastai.runs.checkpoint import plain_numbers, write_checkpoint
from linknet_fastai.runs.folder import best_row, write_metrics
from linknet_fastai.scoring.metrics import ForegroundIoU

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
    """Keeps a run: checkpoints, and after each epoch a row and the best weights; tells the observer.

    Of several processes that train together the first alone writes.

    Args:
        folder: the run folder.
        checkpoint: where an interrupted run goes on; what was done before is passed by.
        observer: told of batches and epochs.
        minutes: between two checkpoints within an epoch.
    """

    order = 70  # behind Recorder and ParamScheduler

    def __init__(
        self,
        folder: Path,
        checkpoint: Mapping[str, Any] | None = None,
        observer: Observer | None = None,
        minutes: float = math.inf,
    ) -> None:
        self.folder, self.checkpoint, self.observer, self.minutes = folder, checkpoint, observer, minutes
        self.start_epoch, self.start_batch = 0, 0
        self.rows: list[Row] = []
        if checkpoint:
            self.start_epoch, self.start_batch = checkpoint["epochs_done"], checkpoint["batches_done"]
            self.rows = list(checkpoint["rows"])
        self.stop = StopRequest()
        self.stopped = False

    @property
    def batches_before(self) -> int:
        """Training batches that were done before an interruption."""
        return self.start_epoch * len(self.learn.dls.train) + self.start_batch

    @property
    def is_repeating(self) -> bool:
        """Whether the current batch was done before an interruption and is passed by."""
        learn = self.learn
        return learn.training and (learn.epoch, learn.iter) < (self.start_epoch, self.start_batch)

    def before_fit(self) -> None:
        """Restore what fastai makes anew at the start of every fit."""
        self.kept = time.perf_counter()
        self.learn.train_iter = self.start_epoch * len(self.learn.dls.train)
        if self.checkpoint:
            self._restore()
            scaler, state = self.learn.device_precision.scaler, self.checkpoint["scaler"]
            if scaler and state:  # a run may go on on a device that trains in another precision
                scaler.load_state_dict(state)

    def before_epoch(self) -> None:
        """Start the clock."""
        earlier = self.checkpoint["seconds"] if self.checkpoint and self.epoch == self.start_epoch else 0
        self.begun = time.perf_counter() - earlier

    def after_batch(self) -> None:
        """Tell the observer; keep a checkpoint where it is time, or where the training shall end here.

        Raises:
            UserError: the loss is no number any more.
        """
        done = self.learn.iter + 1
        if self.epoch < self.start_epoch:
            return
        if self.learn.training:
            self.batches = done
            if self.is_repeating:
                self._restore()  # fastai has counted the loss of a batch that was passed by
                return
        loss = float(self.learn.smooth_loss) if self.learn.training else float(self.learn.loss)
        if self.learn.training and not math.isfinite(loss):
            raise UserError(self._no_number(loss))
        if self.observer:
            lr = float(self.opt.hypers[-1]["lr"])
            self.observer.stepped(self.epoch + 1, done, self.learn.n_iter, loss, lr, self.learn.training)
        self.stopped = self._shall_stop()
        due = time.perf_counter() - self.kept > 60 * self.minutes
        if (self.stopped or (due and self.learn.training)) and not self._gradients_wait():
            self._keep(self.epoch, self.batches)
            if self.stopped:
                raise CancelFitException

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
        if best_row(self.rows) is row:
            save_model(get_model(self.learn.model), self.learn.card, self.folder / RUN_MODEL)
        self.begun = time.perf_counter()
        self._keep(self.epoch + 1, 0)
        write_metrics(self.folder, self.rows)
        if self.observer:
            self.observer.epoch_ended(row)

    def _restore(self) -> None:
        smooth_loss = self.learn.recorder.smooth_loss
        smooth_loss.count, smooth_loss.val = self.checkpoint["smooth_loss"]
        torch.set_rng_state(self.checkpoint["torch_rng"])

    def _keep(self, epochs_done: int, batches_done: int) -> None:
        self.kept = time.perf_counter()
        if not is_first():
            return
        scaler, smooth_loss = self.learn.device_precision.scaler, self.learn.recorder.smooth_loss
        state = {
            "model": get_model(self.learn.model).state_dict(),
            "optimizer": plain_numbers(self.opt.state_dict()),
            "rows": self.rows,
            "classes": self.learn.card.class_names,
            "data": _data_facts(self.learn),
            "smooth_loss": (smooth_loss.count, smooth_loss.val),
            "scaler": scaler.state_dict() if scaler else None,
            "torch_rng": torch.get_rng_state(),
            "seconds": time.perf_counter() - self.begun,
        }
        write_checkpoint(self.folder, epochs_done, batches_done, state)

    def _shall_stop(self) -> bool:
        """Whether an end was asked for; of several processes, in any: they end behind the same batch."""
        if process_count() == 1:
            return self.stop.asked
        return on_any_rank(torch.tensor(self.stop.asked, device=self.learn.dls.device))

    def _gradients_wait(self) -> bool:
        """Whether gradients wait for those of the next batch, which no checkpoint holds."""
        return self.learn.training and any(
            isinstance(callback, AccumulateGradients) and callback.count for callback in self.learn.cbs
        )

    def _no_number(self, loss: float) -> str:
        loader = self.learn.dl
        batch = loader.order[self.learn.iter * loader.bs : (self.learn.iter + 1) * loader.bs]
        frames = ", ".join(self.learn.dls.train_ds.items[i].stem for i in batch)
        step = self.epoch * self.learn.n_iter + self.batches
        kept = f"what was best before is in {self.folder}; " if self.rows else ""
        return (
            f"the loss is {loss} at step {step} (epoch {self.epoch + 1}, batch {self.batches}: {frames}); {kept}"
            "train anew with a lower --lr, or look at these frames"
        )

    def _row(self) -> Row:
        recorder, scores = self.learn.recorder, _counted(self.learn).scores()
        names = self.learn.card.class_names
        return {
            "epoch": self.epoch + 1,
            "train_loss": float(recorder.smooth_loss.value),
            "valid_loss": float(recorder.loss.value),
            **scores.overall(),
            **{f"iou_{name}": iou for name, iou in zip(names, scores.iou.tolist(), strict=True)},
            "lr": float(self.opt.hypers[-1]["lr"]),
            "seconds": time.perf_counter() - self.begun,
        }


def check_same_data(learn: Learner, checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Refuse data that are not what a run was begun with: its order, schedule and class weights follow from them.

    Raises:
        UserError: frames or the classes' pixels have another count.
    """
    now = _data_facts(learn)
    for what, before in checkpoint.get("data", {}).items():
        if now[what] != before:
            raise UserError(
                f"--resume: {what} are {now[what]} now and were {before} when {folder} was begun; for other data "
                f"start a new training with --init-from {folder}"
            )


def _data_facts(learn: Learner) -> dict[str, Any]:
    """By what a resumed run is held against the data it was begun with."""
    return {
        "the frames to train on": len(learn.dls.train_ds),
        "the frames to validate on": len(learn.dls.valid_ds),
        "the classes' pixels": learn.dls.class_pixels.tolist(),
    }


def _counted(learn: Learner) -> ForegroundIoU:
    return next(metric for metric in learn.metrics if isinstance(metric, ForegroundIoU))


class PassByDone(Callback):
    """Passes by the first batches of an epoch, which were done before the training was interrupted.

    They are loaded and augmented nevertheless: so the next one comes as it would have.
    """

    order = 5  # in front of all that looks at a batch

    def before_batch(self) -> None:
        """End the batch where it was done, as the run's record says."""
        if self.learn.run_record.is_repeating:
            skip_batch(self.learn)


class StopRequest:
    """Whether somebody has asked a training to end."""

    asked = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Give a request that the first Ctrl-C or SIGTERM sets; the second raises KeyboardInterrupt.

    Only the main thread hears signals: in another nothing sets the request.
    """
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
