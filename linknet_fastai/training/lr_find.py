"""`lr-find` as a plain function: fastai's learning rate finder, its suggestions, plot and points."""

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastai.callback.core import Callback
from fastai.callback.schedule import minimum, steep, valley
from fastai.learner import Learner, replacing_yield

from linknet_fastai.config.presets import settings_for
from linknet_fastai.core.files import write_text
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import EmptySplitError, open_dataset
from linknet_fastai.learner.learner import learner_from_settings
from linknet_fastai.runs.charts import lr_search_curve, save_figure
from linknet_fastai.runs.folder import refuse_used_folder
from linknet_fastai.training.out_of_memory import told_where_memory_ends


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
    with (
        TemporaryDirectory() as folder,
        contextmanager(replacing_yield)(learn, "path", Path(folder)),
        learn.added_cbs(counter),
    ):
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
    settings, _ = settings_for(dataset.recipe, dataset.layout, options or {})
    try:
        dataset.frames(settings.validate_on)
    except EmptySplitError:  # nothing is validated here
        settings = settings.model_copy(update={"validate_on": settings.train_on})
    folder = out or Path("runs") / f"{dataset.recipe.name}-lr-find-{datetime.now():%Y%m%d-%H%M%S}"
    refuse_used_folder(folder)
    learn = learner_from_settings(dataset, settings, progress)
    found = told_where_memory_ends(partial(search_lr, learn, steps, progress), learn, settings)
    save_figure(lr_search_curve(found.rates, found.losses, found.suggestions), folder / "lr-find.png")
    points = "".join(f"{rate:.6g},{loss:.6g}\n" for rate, loss in zip(found.rates, found.losses, strict=True))
    write_text(folder / "lr-find.csv", "lr,loss\n" + points)
    return found, folder
