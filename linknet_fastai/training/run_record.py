"""The callbacks that write a run to its folder while it trains, and that resume it; what an observer receives."""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.learner import Learner
from fastai.torch_core import get_model

from linknet_fastai.config.settings import Settings
from linknet_fastai.core.device import Reading, runs_ahead
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.parallel import Progress, is_first, process_count
from linknet_fastai.learner.callbacks import accumulations, leave_out_of_means
from linknet_fastai.learner.process_group import on_any_rank
from linknet_fastai.model.card import IMAGENET_MEAN, IMAGENET_STD, Normalization
from linknet_fastai.model.save_load import RUN_MODEL, save_model
from linknet_fastai.runs.checkpoint import plain_numbers, write_checkpoint
from linknet_fastai.runs.metrics import best_row, write_metrics
from linknet_fastai.training.interrupt import StopRequest

Row = dict[str, float]
NORMALIZATION = "mean and standard deviation of images"


class Observer:
    """Receives the events of a training, and ignores them; the command line's display is a subclass.

    Attributes:
        progress: called with how far the preparation of data and the evaluation are.
    """

    progress: Progress | None = None

    def started(self, learn: Learner, settings: Settings, origins: Mapping[str, str], run: Mapping) -> None:
        """Everything is resolved and checked; the first epoch follows."""

    def fold_started(self, number: int, folds: int, name: str) -> None:
        """The training of a fold of `fit_folds` (counted from 1) follows."""

    def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
        """A batch of an epoch (counted from 1) is done."""

    def epoch_ended(self, row: Row) -> None:
        """An epoch is done; `row` is that of metrics.csv."""


@dataclass
class FitResult:
    """The result of a training: its folder, its rows, and whether it ran to the end."""

    folder: Path
    rows: list[Row]
    finished: bool = True

    @property
    def best(self) -> Mapping[str, float]:
        """The row of the epoch whose weights were kept."""
        return best_row(self.rows)


class RunRecord(Callback):
    """Writes checkpoints, and after each epoch a row of metrics.csv and the best weights; informs the observer.

    Only rank 0 writes.

    Args:
        folder: the run folder.
        checkpoint: where an interrupted run resumes; the batches before it are skipped. None for a new run.
        observer: receives batches and epochs.
    """

    order = 70  # after Recorder and ParamScheduler

    def __init__(self, folder: Path, checkpoint: Mapping[str, Any] | None, observer: Observer) -> None:
        self.folder, self.checkpoint, self.observer = folder, checkpoint or {}, observer
        self.start_epoch = self.checkpoint.get("epochs_done", 0)
        self.start_batch = self.checkpoint.get("batches_done", 0)
        self.rows: list[Row] = [*self.checkpoint.get("rows", ())]
        self.stop = StopRequest()
        self.stopped = False
        self.last_loss = math.nan  # the smooth loss that was read last
        self.unread: deque[tuple[int, Reading]] = deque()  # of batches of the epoch, by their number

    @property
    def batches_before(self) -> int:
        """Training batches that were done before an interruption."""
        return self.start_epoch * len(self.learn.dls.train) + self.start_batch

    @property
    def is_skipping(self) -> bool:
        """Whether the current batch was done before an interruption and is skipped."""
        learn = self.learn
        return learn.training and (learn.epoch, learn.iter) < (self.start_epoch, self.start_batch)

    def before_fit(self) -> None:
        """Restore what fastai resets at the start of every fit."""
        self.written = time.perf_counter()
        self.learn.train_iter = self.start_epoch * len(self.learn.dls.train)
        self._restore()
        scaler, state = self.learn.device_precision.scaler, self.checkpoint.get("scaler")
        if scaler and state:  # a run may be resumed on a device that trains in another precision
            scaler.load_state_dict(state)

    def before_epoch(self) -> None:
        """Start the clock."""
        earlier = self.checkpoint.get("seconds", 0) if self.epoch == self.start_epoch else 0
        self.started = time.perf_counter() - earlier

    def after_batch(self) -> None:
        """Inform the observer; write a checkpoint when one is due, or when the training is to stop here.

        Raises:
            UserError: the loss is not finite.
        """
        done = self.learn.iter + 1
        if self.epoch < self.start_epoch:
            return
        if self.learn.training:
            self.batches = done
            if self.is_skipping:
                self._restore()  # a transform of a user may have drawn random numbers
                return
        if self.learn.training and self.learn.yb:
            self.unread.append((done, Reading(self.learn.smooth_loss)))
            # While a GPU computes this step, the host prepares the next one.
            self._read_losses(leave=int(runs_ahead(self.learn.dls.device)))
        lr = float(self.opt.hypers[-1]["lr"])
        self.observer.stepped(self.epoch + 1, done, self.learn.n_iter, self.last_loss, lr, self.learn.training)
        # If any rank was asked to stop, all of them stop after the same batch.
        self.stopped = self.stop.asked
        if process_count() > 1:  # a tensor on a GPU would make a single process wait for it in every batch
            self.stopped = on_any_rank(torch.tensor(self.stop.asked, device=self.learn.dls.device))
        due = time.perf_counter() - self.written > 60 * self.learn.settings.checkpoint_minutes
        if (self.stopped or (due and self.learn.training)) and not self._gradients_pending():
            self._write_checkpoint(self.epoch, self.batches)
            if self.stopped:
                raise CancelFitException

    def after_train(self) -> None:
        """Read the last loss of the epoch; raises UserError if it is not finite."""
        self._read_losses()

    def after_epoch(self) -> None:
        """Write the best weights first, then the checkpoint, which has all rows, then metrics.csv.

        A run killed between two of these resumes from the checkpoint, and no row is lost or doubled.
        """
        if self.epoch < self.start_epoch:
            return
        row = self._row()
        self.rows.append(row)
        if not is_first():
            return
        if best_row(self.rows) is row:
            save_model(get_model(self.learn.model), self.learn.card, self.folder / RUN_MODEL)
        self.started = time.perf_counter()
        self._write_checkpoint(self.epoch + 1, 0)
        write_metrics(self.folder, self.rows)
        self.observer.epoch_ended(row)

    def _read_losses(self, leave: int = 0) -> None:
        """Read the losses of the batches so far, but for the last `leave`; raises UserError if one is not finite."""
        while len(self.unread) > leave:
            batch, reading = self.unread.popleft()
            self.last_loss = reading.read()
            if not math.isfinite(self.last_loss):
                raise UserError(self._not_finite(batch))

    def _restore(self) -> None:
        if self.checkpoint:
            smooth_loss = self.learn.recorder.smooth_loss
            smooth_loss.count, smooth_loss.val = self.checkpoint["smooth_loss"]
            torch.set_rng_state(self.checkpoint["torch_rng"])
            device = torch.device(self.learn.dls.device)
            if (state := self.checkpoint.get("cuda_rng")) is not None and device.type == "cuda":
                torch.cuda.set_rng_state(state, device)  # of an encoder with dropout
            # The schedule sets it in the next batch; after a stop in validation there is none before the row.
            self.opt.set_hyper("lr", [group["lr"] for group in self.checkpoint["optimizer"]["param_groups"]])

    def _write_checkpoint(self, epochs_done: int, batches_done: int) -> None:
        self._read_losses()
        self.written = time.perf_counter()
        if not is_first():
            return
        scaler, smooth_loss = self.learn.device_precision.scaler, self.learn.recorder.smooth_loss
        device = torch.device(self.learn.dls.device)
        state = {
            "model": get_model(self.learn.model).state_dict(),
            "optimizer": plain_numbers(self.opt.state_dict()),
            "rows": self.rows,
            "classes": self.learn.card.class_names,
            "data": _data_facts(self.learn),
            "settings": self.learn.settings.model_dump(include={"encoder", "decoder", "optimizer"}),
            "smooth_loss": (smooth_loss.count, smooth_loss.val.cpu()),
            "scaler": scaler.state_dict() if scaler else None,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "seconds": time.perf_counter() - self.started,
        }
        write_checkpoint(self.folder, epochs_done, batches_done, state)

    def _gradients_pending(self) -> bool:
        """Whether gradients of this batch are added to those of the next, which no checkpoint contains."""
        return self.learn.training and any(callback.pending for callback in accumulations(self.learn))

    def _not_finite(self, batch: int) -> str:
        loader = self.learn.dls.train
        items = loader.order[(batch - 1) * loader.bs : batch * loader.bs]
        frames = ", ".join(self.learn.dls.train_ds.items[i].stem for i in items)
        step = self.epoch * len(loader) + batch
        best = f"the best weights so far are in {self.folder}; " if self.rows else ""
        return (
            f"the loss is {self.last_loss} at step {step} (epoch {self.epoch + 1}, batch {batch}: {frames}); {best}"
            "start a new training with a lower --lr, or look at these frames"
        )

    def _row(self) -> Row:
        recorder, names = self.learn.recorder, self.learn.card.class_names
        scores = self.learn.metrics[0].scores()  # the first of `segmentation_metrics`, which counts for all
        return {
            "epoch": self.epoch + 1,
            "train_loss": float(recorder.smooth_loss.value),
            "valid_loss": float(recorder.loss.value),
            **scores.overall(),
            **{f"iou_{name}": iou for name, iou in zip(names, scores.iou.tolist(), strict=True)},
            "lr": float(self.opt.hypers[-1]["lr"]),
            "seconds": time.perf_counter() - self.started,
        }


def check_same_data(learn: Learner, checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Check the data against those that a run was started with: order, schedule and class weights depend on them.

    Raises:
        UserError: the number of frames or the pixels of a class have changed.
    """
    now = _data_facts(learn)
    for what, before in checkpoint.get("data", {}).items():
        if now.get(what, before) != before:  # another version may compare more
            raise UserError(
                f"--resume: {what} are {now[what]} now and were {before} when {folder} was started; for other data "
                f"start a new training with --init-from {folder}"
            )


def normalization_of(checkpoint: Mapping[str, Any]) -> Normalization:
    """Mean and standard deviation of the images that a run was started with: of earlier versions, ImageNet's."""
    mean, std = checkpoint.get("data", {}).get(NORMALIZATION, (IMAGENET_MEAN, IMAGENET_STD))
    return tuple(mean), tuple(std)


def _data_facts(learn: Learner) -> dict[str, Any]:
    """What is compared when a run is resumed."""
    return {
        "the frames to train on": len(learn.dls.train_ds),
        "the frames to validate on": len(learn.dls.valid_ds),
        "the classes' pixels": learn.dls.class_pixels.tolist(),
        NORMALIZATION: [[*learn.card.mean], [*learn.card.std]],
    }


class SkipDoneBatches(Callback):
    """Skips the batches of an epoch that were done before the training was interrupted.

    They are loaded and augmented nevertheless, so that the next one is as it would have been.
    """

    order = 5  # before all callbacks that look at a batch

    def before_batch(self) -> None:
        """End the batch before the network runs."""
        if self.learn.run_record.is_skipping:
            raise CancelBatchException

    def after_batch(self) -> None:
        """Count no loss."""
        if self.learn.run_record.is_skipping:
            leave_out_of_means(self.learn)
