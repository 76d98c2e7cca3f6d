"""`fit` and `lr-find` as plain functions: a recipe and settings in, a run folder out."""

import csv
import math
import resource
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import minimum, steep, valley
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastcore.basics import noop

from linknet_fastai.data import dls_from_settings, recipe_settings
from linknet_fastai.dataset import Dataset, Progress, open_dataset
from linknet_fastai.errors import UsageError
from linknet_fastai.export import export_model
from linknet_fastai.learner import fit_schedule, linknet_learner
from linknet_fastai.metrics import ForegroundIoU
from linknet_fastai.model_file import RUN_MODEL, load_model, save_model
from linknet_fastai.pictures import save_batch, save_curves, save_lr_search, save_predictions
from linknet_fastai.prediction import Predictor, open_image, resolve_device
from linknet_fastai.run_folder import (
    create_run_folder,
    plain_numbers,
    read_checkpoint,
    read_run,
    write_checkpoint,
    write_metrics,
    write_result,
    write_run,
)
from linknet_fastai.settings import Settings, resolve_settings

SHOWN_FRAMES = 4
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
        return max(self.rows, key=_rank)


def _rank(row: Row) -> float:
    return row["miou"] if row["miou"] == row["miou"] else -1.0


class RunRecord(Callback):
    """Keeps a run: a row, a checkpoint and the best weights after each epoch; tells the observer.

    Args:
        folder: the run folder.
        start_epoch: how many epochs were done before; fastai only passes through them.
        rows: their rows.
        observer: told of batches and epochs.
    """

    order = 70  # behind Recorder and ParamScheduler

    def __init__(self, folder: Path, start_epoch: int, rows: Sequence[Row], observer: Observer | None) -> None:
        self.folder, self.start_epoch, self.rows, self.observer = folder, start_epoch, list(rows), observer

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
        if not self.rows or _rank(row) > max(map(_rank, self.rows)):
            save_model(self.learn.model, self.learn.card, self.folder / RUN_MODEL)
        self.rows.append(row)
        state = {
            "model": self.learn.model.state_dict(),
            "optimizer": plain_numbers(self.opt.state_dict()),
            "rows": self.rows,
            "torch_rng": torch.get_rng_state(),
            "scaler": scaler.state_dict() if (scaler := self.learn.device_precision.scaler) else None,
        }
        write_checkpoint(self.folder, self.epoch + 1, state)
        write_metrics(self.folder, self.rows)
        if self.observer:
            self.observer.epoch_ended(row)

    def _row(self) -> Row:
        recorder, scores = self.learn.recorder, _counted(self.learn).scores()
        names = [entry.name for entry in self.learn.card.classes]
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


def fit(
    recipe: str | Path,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Train on a recipe and keep the run.

    Args:
        recipe: the name of a shipped recipe or the path of a TOML file.
        data: the data folder; None fetches or draws it.
        options: settings by name that go before the recipe's; None as a value says nothing.
        out: the run folder, by default `runs/RECIPE-DATE-TIME` in the current folder.
        observer: told how it goes.

    Returns:
        The result; not finished where Ctrl-C ended it.

    Raises:
        UsageError, UserError: see `segmentation_dls`, `linknet_learner` and `create_run_folder`.
    """
    progress = observer and observer.progress
    dataset = open_dataset(recipe, data, progress)
    settings, origins = resolve_settings(*recipe_settings(dataset), ("command line", options or {}))
    folder = out or Path("runs") / f"{dataset.recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out: {folder} is in use; name another folder, or go on with --resume {folder}")
    learn = build_learner(dataset, settings, progress)
    if settings.lr == "auto":
        found = search_lr(learn, progress=progress).suggestions["valley"]
        settings = settings.model_copy(update={"lr": found})
        origins["lr"] = "learning rate finder"
    create_run_folder(folder)
    run = {
        "recipe": str(recipe),
        "data": str(dataset.folder.absolute()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "device": str(learn.dls.device),
    }
    write_run(folder, settings, origins, run)
    images, labels = learn.dls.train.one_batch()
    save_batch(images, labels, learn.card, folder / "batch.png")
    if observer:
        observer.started(learn, settings, origins, {**run, "folder": folder})
    return _train(learn, dataset, settings, RunRecord(folder, 0, [], observer), observer)


def resume(
    folder: Path,
    recipe: str | None = None,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Go on with an interrupted run at the epoch it had reached.

    Args:
        folder: the run folder.
        recipe: None, or the run's own.
        data: where the data lies now, if it has moved.
        options: `device` and `workers` may differ from the run's; everything else is the run's own.
        observer: told how it goes.

    Raises:
        UsageError: the run is complete, or an option would make it another run.
        UserError: no run here, a damaged checkpoint, or the data is gone.
    """
    settings, origins, run = read_run(folder)
    if recipe not in (None, run["recipe"]):
        raise UsageError(f"--resume: {folder} trains on {run['recipe']}, not on {recipe}; leave RECIPE out")
    said = {name: value for name, value in (options or {}).items() if value is not None}
    if fixed := set(said) - {"device", "workers"}:
        raise UsageError(
            f"--{min(fixed).replace('_', '-')}: --resume goes on with the run's own settings; leave it out"
        )
    settings = settings.model_copy(update=said)
    progress = observer and observer.progress
    dataset = open_dataset(run["recipe"], data or Path(run["data"]), progress)
    checkpoint = read_checkpoint(folder)
    done = checkpoint["epochs_done"] if checkpoint else 0
    if done >= settings.epochs:
        raise UsageError(f"--resume: {folder} is complete, all {settings.epochs} epochs are done")
    start = settings.model_copy(update={"pretrained": False, "encoder_weights": None, "init_from": None})
    learn = build_learner(dataset, start if checkpoint else settings, progress)
    if observer:
        observer.started(learn, settings, origins, {**run, "folder": folder})
    if checkpoint:
        _restore(learn, checkpoint)
    record = RunRecord(folder, done, checkpoint["rows"] if checkpoint else [], observer)
    return _train(learn, dataset, settings, record, observer)


def build_learner(dataset: Dataset, settings: Settings, progress: Progress | None = None) -> Learner:
    """The learner of a run: seeded, quiet, saving nowhere by itself."""
    set_seed(settings.seed)
    device = resolve_device(settings.device)
    dls = dls_from_settings(dataset, settings, device, progress)
    learn = linknet_learner(
        dls,
        encoder=settings.encoder,
        decoder=settings.decoder,
        pretrained=settings.pretrained,
        encoder_weights=settings.encoder_weights,
        init_from=settings.init_from,
        class_weight_method=settings.class_weights,
        optimizer=settings.optimizer,
        precision=settings.precision,
    )
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


def _restore(learn: Learner, checkpoint: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights, optimizer and random state into a learner."""
    learn.model.load_state_dict(checkpoint["model"])
    learn.model.to(learn.dls.device)
    learn.create_opt()
    learn.opt.load_state_dict(checkpoint["optimizer"])
    torch.set_rng_state(checkpoint["torch_rng"])


def _train(
    learn: Learner, dataset: Dataset, settings: Settings, record: RunRecord, observer: Observer | None
) -> FitResult:
    finished = True
    try:
        fit_schedule(learn, settings.schedule, settings.epochs, settings.lr, record.start_epoch, [record])
    except KeyboardInterrupt:
        finished = False
    result = FitResult(record.folder, record.rows, finished)
    if result.rows:
        _finish(dataset, settings, result)
    return result


def _finish(dataset: Dataset, settings: Settings, result: FitResult) -> None:
    """Write what is made of the best weights: the exported learner, pictures, the result in run.toml."""
    model, card = load_model(result.folder)
    save_curves(result.rows, result.folder / "curves.png")
    predictor = Predictor(model, card, settings.device, settings.precision)
    shown = _shown_predictions(predictor, dataset, settings.validate_on)
    save_predictions(shown, card, result.folder / "predictions.png")
    export_model(model, card, result.folder / "export.pkl")
    last = result.rows[-1]
    write_result(
        result.folder,
        {
            "epochs_done": last["epoch"],
            "finished": result.finished,
            "best_epoch": result.best["epoch"],
            "best_miou": result.best["miou"],
            "last_miou": last["miou"],
            "seconds": sum(row["seconds"] for row in result.rows),
            "peak_memory_mib": peak_memory_mib(),
        },
    )


def _shown_predictions(predictor: Predictor, dataset: Dataset, split: str) -> list[tuple]:
    frames = dataset.frames(split)
    step = max(len(frames) // SHOWN_FRAMES, 1)
    shown = []
    for frame in frames[step // 2 :: step][:SHOWN_FRAMES]:
        image = open_image(frame.image)
        shown.append((frame.stem, image, dataset.read_label(frame.label), predictor(image)))
    return shown


def peak_memory_mib() -> int:
    """The most memory this process has held so far, in MiB; on CUDA that of the device."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # bytes on macOS, KiB elsewhere


@dataclass(frozen=True)
class LRSearch:
    """What the learning rate finder found: suggestions by name, and the points of its curve."""

    suggestions: dict[str, float]
    rates: list[float]
    losses: list[float]


def search_lr(learn: Learner, steps: int = 100, progress: Progress | None = None) -> LRSearch:
    """Run fastai's learning rate finder; the learner's weights are as before when it ends."""

    def count(callback: Callback) -> None:
        if progress:
            progress("learning rate finder", callback.train_iter, steps)

    counter = Callback(after_batch=count)
    with TemporaryDirectory() as folder, _replaced(learn, "path", Path(folder)), learn.added_cbs(counter):
        found = learn.lr_find(num_it=steps, show_plot=False, suggest_funcs=(valley, steep, minimum))
    learn.opt = None  # the next training starts with a fresh optimizer, as without a search
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    pairs = [(float(r), loss) for r, loss in zip(rates, losses, strict=False) if math.isfinite(loss)]
    return LRSearch(
        {name: float(value) for name, value in found._asdict().items()},
        [rate for rate, _ in pairs],
        [loss for _, loss in pairs],
    )


def find_lr(
    recipe: str | Path,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    steps: int = 100,
    progress: Progress | None = None,
) -> tuple[LRSearch, Path]:
    """Look for a learning rate: fastai's suggestions, a plot and the points as CSV.

    Args:
        recipe: as for `fit`, as are `data` and `options`.
        out: the folder for lr-find.png and lr-find.csv, by default `runs/RECIPE-lr-find-DATE-TIME`.
        steps: how many batches to try.
        progress: told how far the check of the data and the search are.

    Returns:
        What was found, and the folder.
    """
    dataset = open_dataset(recipe, data, progress)
    settings, _ = resolve_settings(*recipe_settings(dataset), ("command line", options or {}))
    folder = out or Path("runs") / f"{dataset.recipe.name}-lr-find-{datetime.now():%Y%m%d-%H%M%S}"
    learn = build_learner(dataset, settings, progress)
    found = search_lr(learn, steps, progress)
    folder.mkdir(parents=True, exist_ok=True)
    save_lr_search(found.rates, found.losses, found.suggestions, folder / "lr-find.png")
    with (folder / "lr-find.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("lr", "loss"))
        writer.writerows(zip(found.rates, found.losses, strict=True))
    return found, folder


@contextmanager
def _replaced(owner: object, name: str, value: object):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
