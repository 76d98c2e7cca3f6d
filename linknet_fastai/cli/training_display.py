"""Display of a training on the terminal: settings, a bar over all batches, a row per epoch."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

from fastai.learner import Learner
from rich.progress import TaskID, TextColumn

from linknet_fastai.cli.terminal import console, progress_columns, show_lines, show_note, show_table, styled
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.device import resolve_precision
from linknet_fastai.scoring.scores import OVERALL_SCORES
from linknet_fastai.training.run_record import Observer

COLUMNS = (
    ("epoch", "epoch", 9, ""),
    ("train loss", "train_loss", 11, ".4f"),
    ("valid loss", "valid_loss", 11, ".4f"),
    *((score.heading, score.name, max(7, len(score.heading) + 1), score.format) for score in OVERALL_SCORES),
    ("lr", "lr", 9, ".1e"),
    ("seconds", "seconds", 8, ".1f"),
)


class TrainingDisplay(Observer):
    """Shows the settings once, a bar over all batches, and a row per epoch.

    Attributes:
        folder: the run folder, once the training has started.
    """

    def __init__(self) -> None:
        self._bar = progress_columns(console, TextColumn("{task.fields[state]}"))
        self._task: TaskID | None = None
        self.progress = self._show_progress
        self._checks: dict[str, TaskID] = {}
        self._phase_start = time.perf_counter()
        self.folder: Path | None = None

    def __enter__(self) -> "TrainingDisplay":
        if console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if console.is_terminal:
            self._bar.stop()

    def _show_progress(self, what: str, done: int, total: int) -> None:
        """Show the progress of what happens before the training."""
        if what not in self._checks:
            self._checks[what] = self._bar.add_task(what, total=total, state="")
        self._bar.update(self._checks[what], completed=done, total=total, visible=done < total)

    def started(self, learn: Learner, settings: Settings, origins: Mapping[str, str], run: Mapping) -> None:
        """Show network, data and device, and every setting that is not a default with its origin."""
        dls = learn.dls
        processes, self.folder = run["processes"], run["folder"]
        self.bs, self.valid_bs, self.epochs = dls.train.bs * processes, dls.valid.bs * processes, settings.epochs
        precision = resolve_precision(settings.precision, dls.device)
        console.print(styled(f"{learn.card.recipe}: {len(learn.card.classes)} classes, {run['data']}", "bold"))
        console.print(
            f"LinkNet with {run['parameters'] / 1e6:.2f} M parameters on {dls.device} in {precision}"
            f"{f', {processes} processes' if processes > 1 else ''}"
        )
        console.print(f"{run['train_frames']} frames to train on, {run['validation_frames']} to validate on")
        values = settings.model_dump(mode="json", exclude_none=True)
        rows = [(name, value, origins[name]) for name, value in values.items() if origins[name] != "default"]
        show_table(("setting", "value", "from"), rows)
        defaults = ", ".join(f"{name} {value}" for name, value in values.items() if origins[name] == "default")
        console.print(styled(f"defaults: {defaults}", "dim"), soft_wrap=False)
        console.print(f"run folder {run['folder']}\n")
        show_lines(run["notes"], show_note)
        console.print(styled("".join(f"{title:>{width}}" for title, _, width, _ in COLUMNS), "bold"))
        self._per_epoch = math.ceil(len(dls.train) / processes) + math.ceil(len(dls.valid) / processes)
        self._task = self._bar.add_task("", total=settings.epochs * self._per_epoch, state="")

    def fold_started(self, number: int, folds: int, name: str) -> None:
        """Print a heading."""
        if self._task is not None:
            self._bar.remove_task(self._task)  # of the fold before
            self._task = None
        console.print(styled(f"\nfold {number} of {folds}: {name} is left out", "bold"))

    def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
        """Advance the bar by a batch."""
        if not console.is_terminal or self._task is None:
            return
        before = 0 if training else self._per_epoch - total
        if done == 1:
            self._phase_start = time.perf_counter()
        rate = (done - 1) * (self.bs if training else self.valid_bs) / (time.perf_counter() - self._phase_start)
        state = f"loss {loss:.3f}  lr {lr:.1e}  {rate:.0f} img/s" if training else f"validating  {rate:.0f} img/s"
        self._bar.update(
            self._task,
            completed=(epoch - 1) * self._per_epoch + before + done,
            description=f"epoch {epoch}/{self.epochs}",
            state=state,
        )

    def epoch_ended(self, row: Mapping[str, float]) -> None:
        """Print the row of an epoch."""
        cells = [
            f"{row['epoch']}/{self.epochs}" if key == "epoch" else f"{row[key]:{form}}" for _, key, _, form in COLUMNS
        ]
        console.print("".join(f"{cell:>{width}}" for cell, (_, _, width, _) in zip(cells, COLUMNS, strict=True)))
