"""Charts of numbers as matplotlib figures: curves, class IoU, confusion matrix, learning rate search, runs."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from linknet_fastai.core.images import save_image
from linknet_fastai.core.text import printable
from linknet_fastai.runs.metrics import best_row
from linknet_fastai.scoring.scores import OVERALL_SCORES

if TYPE_CHECKING:
    from linknet_fastai.runs.compare import RunSummary

# The palette of Okabe and Ito, which color-blind readers can distinguish
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
BLUE, ORANGE, GREEN, PURPLE = SERIES[:4]
GRAY = "#9aa4b0"  # readable on both
INK = {False: "#1b1f24", True: "#e6e9ed"}  # color of text and lines, on a dark page or not


def literal(text: str) -> str:
    """Escape a text for matplotlib, which reads what is between two dollar signs as a formula.

    Example:
        >>> len(literal("$5 and $6")) - len("$5 and $6")  # a backslash before each dollar sign
        2
    """
    return printable(text).replace("$", r"\$")


def save_figure(figure: Figure, file: Path) -> None:
    """Draw a figure and write it as a PNG. It needs no pyplot, and so no display.

    Example:
        ::

            save_figure(training_curves(read_metrics(Path("runs/camvid"))), Path("curves.png"))
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_image(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), file)


def svg(draw: Callable[[], Figure], dark: bool = False) -> str:
    """Draw a figure as a transparent SVG element for an HTML page.

    Args:
        draw: makes the figure, with the colors of text and lines that are set for it.
        dark: whether the page is dark.

    Returns:
        The element; the same for the same figure.

    Example:
        >>> svg(lambda: class_bars({"road": 0.9, "sky": 0.8}))[:4]
        '<svg'
    """
    colored = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    # Text stays text, in the font of the page.
    fixed = {"svg.hashsalt": "linknet-fastai", "svg.fonttype": "none", "font.family": "sans-serif"}
    parameters: dict[Any, Any] = dict.fromkeys(colored, INK[dark]) | fixed
    text = io.StringIO()
    with mpl.rc_context(parameters):
        draw().savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Make a figure of a size in inches, and its axes, with matplotlib's options for `Figure.subplots`.

    Example:
        >>> figure, axes = subplots(6, 4)
        >>> figure.axes == [axes]
        True
    """
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


CURVES = {
    "cross-entropy": {"train_loss": "train", "valid_loss": "validation"},
    "scores on validation": {score.name: score.label for score in OVERALL_SCORES},
    "learning rate, end of epoch": {"lr": "learning rate"},
}


def training_curves(rows: Sequence[Mapping[str, float]], titles: Sequence[str] = tuple(CURVES)) -> Figure:
    """Draw losses, scores and learning rate over the epochs, side by side.

    Args:
        rows: the rows of metrics.csv, see `read_metrics`.
        titles: which charts, keys of `CURVES`; all by default.

    Example:
        ::

            save_figure(training_curves(read_metrics(Path("runs/camvid"))), Path("curves.png"))
    """
    figure, grid = subplots(4 * len(titles), 3.6, columns=len(titles), squeeze=False)
    epochs = [row["epoch"] for row in rows]
    best = best_row(rows)
    for axes, title in zip(grid[0], titles, strict=True):
        for (column, label), color in zip(CURVES[title].items(), SERIES, strict=False):
            marker = "o" if len(rows) < 3 else None
            axes.plot(epochs, [row.get(column, np.nan) for row in rows], color=color, label=label, marker=marker)
        if "miou" in CURVES[title]:
            label = f"best mIoU {best['miou']:.3f}, epoch {best['epoch']:.0f}"
            axes.plot(best["epoch"], best["miou"], "o", color=BLUE, label=label)
            axes.set_ylim(0, 1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        simplify(axes)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=9)
    return figure


def class_bars(scores: Mapping[str, float]) -> Figure:
    """Draw class IoU as bars, the best class on top.

    Args:
        scores: class IoU, 0 to 1, by class; nan for a class without one.

    Example:
        >>> class_bars({"road": 0.9, "pole": 0.3, "car": float("nan")}).axes[0].get_xlabel()
        'class IoU'
    """
    ranked = dict(sorted(scores.items(), key=lambda item: np.nan_to_num(item[1], nan=-1)))
    figure, axes = subplots(6, 0.6 + 0.3 * len(ranked))
    bars = axes.barh([literal(name) for name in ranked], np.nan_to_num(list(ranked.values())), color=BLUE)
    labels = ["-" if math.isnan(iou) else f"{iou:.3f}" for iou in ranked.values()]
    axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.set(xlim=(0, 1.1), xlabel="class IoU", xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    return figure


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, each row in percent of the pixels of its class in the ground truth.

    Args:
        counts: CxC integers, pixels by ground truth (rows) and prediction (columns); a further column is of other
            classes.
        class_names: the names of the C classes.

    Example:
        >>> confusion_matrix(np.array([[90, 10], [5, 95]]), ["road", "sky"]).axes[0].get_xlabel()
        'prediction'
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.5 * len(class_names)
    figure, axes = subplots(side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [literal(name) for name in class_names]
    columns = [*names, "other"][: counts.shape[1]]
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="ground truth", title="confusion matrix, % of the class's pixels")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        color = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{share:.0%}"[:-1], ha="center", va="center", fontsize=8, color=color)
    return figure


def reliability_diagram(bins: Sequence[Mapping[str, float]]) -> Figure:
    """Draw accuracy over confidence: on the diagonal a confidence is the probability that a pixel is correct.

    Args:
        bins: see `ConfidenceScores.reliability`.

    Example:
        >>> reliability_diagram([{"confidence": 0.9, "accuracy": 0.8, "share": 1.0}]).axes[0].get_xlabel()
        'confidence'
    """
    figure, axes = subplots(5, 4)
    confidences = [row["confidence"] for row in bins]
    axes.bar(confidences, [row["share"] for row in bins], 0.045, color=GRAY, label="share of the pixels")
    axes.plot([0, 1], [0, 1], color=ORANGE, linestyle="--", label="calibrated")
    axes.plot(confidences, [row["accuracy"] for row in bins], "o-", color=BLUE, label="accuracy")
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy, share")
    simplify(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def risk_coverage_curves(points: Sequence[Mapping[str, float | None]]) -> Figure:
    """Draw the share of wrong pixels, and mIoU, over the share of pixels that are kept, the most certain first.

    Args:
        points: see `ConfidenceScores.as_json`; an mIoU of None is left out.

    Example:
        >>> risk_coverage_curves([{"coverage": 1.0, "risk": 0.1, "miou": 0.7}]).axes[1].get_xlabel()
        'share of the pixels kept, the most certain first'
    """
    figure, (risks, mious) = subplots(5, 4, rows=2, sharex=True)
    coverages = [point["coverage"] for point in points]
    for axes, name, label, color in ((risks, "risk", "wrong pixels", ORANGE), (mious, "miou", "mIoU", BLUE)):
        axes.plot(coverages, [math.nan if (value := point[name]) is None else value for point in points], color=color)
        axes.set(ylabel=label, xlim=(0, 1.03))
        simplify(axes)
    risks.set_ylim(0, None)
    mious.set_xlabel("share of the pixels kept, the most certain first")
    return figure


def lr_search_curve(rates: Sequence[float], losses: Sequence[float], suggestions: Mapping[str, float]) -> Figure:
    """Draw the loss over the learning rate, with suggestions as lines.

    Args:
        rates: learning rates, ascending.
        losses: the smoothed training loss at each of them.
        suggestions: learning rates by the name of the method that suggests them.

    Example:
        >>> lr_search_curve([1e-4, 1e-3, 1e-2], [2.0, 1.2, 3.0], {"valley": 1e-3}).axes[0].get_xscale()
        'log'
    """
    figure, axes = subplots(7, 4)
    axes.plot(rates, losses, color=BLUE)
    for (name, rate), color in zip(suggestions.items(), (ORANGE, GREEN, PURPLE), strict=False):
        axes.axvline(rate, color=color, linestyle="--", label=f"{name} {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    lowest, first = min(losses), losses[0]
    # At the end the loss diverges: what is far above its start is not shown.
    axes.set_ylim(lowest - 0.05 * abs(first), first + 0.5 * abs(first - lowest))
    simplify(axes)
    axes.legend(frameon=False)
    return figure


def run_comparison(runs: Sequence["RunSummary"]) -> Figure:
    """Draw runs side by side: mIoU over the epochs, and class IoU at the last epoch.

    Example:
        ::

            runs = [summarize(folder) for folder in Path("runs").iterdir()]
            save_figure(run_comparison(runs), Path("runs.png"))
    """
    classes = list(dict.fromkeys(name for run in runs for name in run.ious))
    inches = max(4.2, 0.05 * len(classes) * len(runs) + 3)
    figure, (curves, bars) = subplots(12, inches, columns=2, width_ratios=(1, 1.2))
    height = 0.8 / len(runs)
    for number, run in enumerate(runs):
        color = f"C{number}" if number >= len(SERIES) else SERIES[number]
        epochs, mious = [row["epoch"] for row in run.rows], [row["miou"] for row in run.rows]
        marker = "o" if len(epochs) < 3 else None
        curves.plot(epochs, mious, color=color, marker=marker, label=f"{literal(run.name)}  {mious[-1]:.3f}")
        centers = np.arange(len(classes)) + (number - (len(runs) - 1) / 2) * height
        bars.barh(centers, [run.ious.get(name, np.nan) for name in classes], height, color=color)
    curves.set(title="mIoU on validation (legend: last epoch)", xlabel="epoch", ylim=(0, None))
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False, fontsize=9)
    bars.set_yticks(range(len(classes)), [literal(name) for name in classes])
    bars.invert_yaxis()
    bars.set(title="class IoU at the last epoch", xlim=(0, 1))
    for axes in (curves, bars):
        simplify(axes)
    return figure


def simplify(axes: Axes) -> None:
    """Draw a light grid and no frame at the top and right.

    Example:
        >>> figure, axes = subplots(6, 4)
        >>> simplify(axes)
    """
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
