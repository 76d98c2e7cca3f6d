"""The report of the folds of `fit --folds`: one page, which links to the report of each fold."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from linknet_fastai.core.files import write_text
from linknet_fastai.runs.charts import BLUE, GRAY, ORANGE, literal, simplify, subplots
from linknet_fastai.runs.compare import RunSummary, summarize
from linknet_fastai.runs.folds import read_folds
from linknet_fastai.runs.metrics import METRICS_FILE
from linknet_fastai.runs.report import REPORT, render_page
from linknet_fastai.scoring.scores import mean_score


class ClassRow(NamedTuple):
    """The IoU of a class at the last epoch: the mean over the folds, the lowest, and the fold that has it."""

    name: str
    mean: float
    lowest: float
    fold: str


def report_folds(folder: Path) -> Path:
    """Write `report.html` into a folder of folds, from its folds.json and the run folders in it.

    Args:
        folder: the folder of all folds, finished or not.

    Returns:
        The file.

    Raises:
        UserError: there are no folds, a file of a run is damaged, or the page cannot be written.

    Example:
        ::

            report_folds(Path("runs/drives"))
    """
    folds = read_folds(folder)
    runs = [summarize(folder / fold.name) for fold in folds.folds if (folder / fold.name / METRICS_FILE).is_file()]
    figures = {}
    if mious := {run.name: [row["miou"] for row in run.rows] for run in runs}:
        figures["mIoU of each fold"] = partial(fold_curves, mious, folds.worst)
    page = render_page(
        "folds.html",
        figures,
        name=folder.resolve().name,
        recipe=Path(folds.recipe).stem,
        folds=folds,
        last={run.name: run.last for run in runs},
        epochs={run.name: run.settings.get("epochs") for run in runs},
        linked={fold.name for fold in folds.folds if (folder / fold.name / REPORT).is_file()},
        classes=_class_rows([run for run in runs if run.result.get("finished")]),
        groups=any(fold.groups not in ([], [fold.name]) for fold in folds.folds),
        minutes=sum(run.seconds for run in runs) / 60,
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def fold_curves(mious: Mapping[str, Sequence[float]], worst: str | None = None) -> Figure:
    """Draw the mIoU of each fold over the epochs, with their mean and the worst fold.

    Args:
        mious: for each fold its mIoU after each epoch, from the first.
        worst: the fold to mark.

    Example:
        >>> fold_curves({"a": [0.2, 0.4], "b": [0.1, 0.3]}, "b").axes[0].get_ylabel()
        'mIoU on the frames left out'
    """
    figure, axes = subplots(8, 4)
    marker = "o" if max(map(len, mious.values())) < 3 else None

    def draw(values: Sequence[float], label: str | None, color: str, width: float) -> None:
        axes.plot(range(1, len(values) + 1), values, color=color, linewidth=width, label=label, marker=marker)

    others = [name for name in mious if name != worst]
    for number, name in enumerate(others):
        draw(mious[name], None if number else "folds", GRAY, 1)
    if worst and worst in mious:
        draw(mious[worst], f"worst: {literal(worst)}", ORANGE, 1.5)
    draw(np.mean([*zip(*mious.values(), strict=False)], 1), "mean", BLUE, 2.5)  # while all folds have the epoch
    axes.set(xlabel="epoch", ylabel="mIoU on the frames left out", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    simplify(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _class_rows(runs: Sequence[RunSummary]) -> list[ClassRow]:
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.ious):
        of_folds = {run.name: iou for run in runs if not math.isnan(iou := run.ious.get(name, math.nan))}
        if of_folds:  # of a class in neither truth nor prediction there is nothing to say
            lowest = min(of_folds, key=of_folds.__getitem__)
            rows.append(ClassRow(name, mean_score([*of_folds.values()]), of_folds[lowest], lowest))
    return rows
