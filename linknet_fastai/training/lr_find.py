"""`lr-find` as a plain function: fastai's learning rate finder, its suggestions, plot and points."""

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastai.callback.core import Callback
from fastai.callback.schedule import minimum, steep, valley
from fastai.learner import Learner, replacing_yield

from linknet_fastai.config.presets import settings_for
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import EmptySplitError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.learner.learner import learner_from_settings
from linknet_fastai.learner.schedules import group_rates
from linknet_fastai.runs.charts import lr_search_curve, save_figure
from linknet_fastai.runs.folder import new_folder
from linknet_fastai.runs.metrics import write_csv
from linknet_fastai.training.errors import explain_errors


@dataclass(frozen=True)
class LRSearch:
    """The result of the learning rate finder: suggestions by name, and the points (rate, loss) of its curve."""

    suggestions: dict[str, float]
    points: list[tuple[float, float]]


def search_lr(learn: Learner, steps: int = 100, progress: Progress | None = None) -> LRSearch:
    """Run fastai's learning rate finder; afterwards the learner has the weights that it had before.

    Its parameter groups have the rates that `fit_schedule` would give them; those reported are the highest.

    Args:
        learn: the learner.
        steps: how many batches to try.
        progress: called with the number of batches done.

    Raises:
        UserError: too few batches have a loss.

    Example::

        rate = search_lr(learn).suggestions["valley"]
    """

    def count(callback: Callback) -> None:
        if progress:
            progress("learning rate finder", callback.train_iter, steps)

    counter = Callback(after_batch=count)
    rates = (group_rates(learn, rate) for rate in (1e-7, 10))  # from, to; fastai's, but for a trained encoder
    with (
        TemporaryDirectory() as folder,
        contextmanager(replacing_yield)(learn, "path", Path(folder)),
        learn.added_cbs(counter),
    ):
        try:
            found = learn.lr_find(*rates, num_it=steps, show_plot=False, suggest_funcs=(valley, steep, minimum))
        except IndexError:  # fastai leaves out the first tenth and the last five
            raise UserError(
                f"the loss of {len(learn.recorder.losses)} batches, before it grows, is too little for a suggestion; "
                "try more --steps or a larger --bs, and look for frames that are all void"
            ) from None
    learn.opt = None  # the next training starts with a fresh optimizer, as without a search
    points = [(float(r), float(loss)) for r, loss in zip(learn.recorder.lrs, learn.recorder.losses, strict=False)]
    suggestions = {name: float(value) for name, value in found._asdict().items()}
    return LRSearch(suggestions, [(rate, loss) for rate, loss in points if math.isfinite(loss)])


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
        recipe: see `fit`.
        data: see `fit`.
        options: see `fit`.
        out: the folder for lr-find.png and lr-find.csv, by default `runs/RECIPE-lr-find-DATE-TIME`.
        steps: how many batches to try.
        progress: called with how far the check of the data and the search are.

    Returns:
        The result, and the folder.

    Raises:
        UsageError: a wrong argument; the folder is not empty.
        UserError: files are missing or damaged; memory runs out.

    Example::

        found, folder = find_lr("camvid", options={"size": "480x360"})
        fit("camvid", options={"size": "480x360", "lr": found.suggestions["valley"]})
    """
    dataset = open_dataset(recipe, data, progress)
    settings, _ = settings_for(dataset.recipe, dataset.layout, options or {})
    try:
        dataset.frames(settings.validate_on)
    except EmptySplitError:  # nothing is validated here
        settings = settings.model_copy(update={"validate_on": settings.train_on})
    folder = new_folder(out, f"{dataset.recipe.name}-lr-find")
    learn = learner_from_settings(dataset, settings, progress)
    with explain_errors(learn):
        found = search_lr(learn, steps, progress)
    rates, losses = zip(*found.points, strict=True)
    save_figure(lr_search_curve(rates, losses, found.suggestions), folder / "lr-find.png")
    write_csv(folder / "lr-find.csv", [{"lr": f"{rate:.6g}", "loss": f"{loss:.6g}"} for rate, loss in found.points])
    return found, folder
