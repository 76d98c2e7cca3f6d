"""Pictures of runs and data: curves, predictions beside the truth, a batch, a learning-rate search."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from linknet_fastai.model_card import ModelCard
from linknet_fastai.prediction import colour_mask, overlay, save_image
from linknet_fastai.recipe import VOID

if TYPE_CHECKING:
    from linknet_fastai.comparison import RunSummary

# Okabe and Ito: told apart by colour-blind readers too
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
BLUE, ORANGE, GREEN, PURPLE = SERIES[:4]


def save_figure(figure: Figure, file: Path) -> None:
    """Draw a figure, without pyplot and so without any window, and write it as a PNG."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_image(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), file)


def save_curves(rows: Sequence[Mapping[str, float]], file: Path) -> None:
    """Draw the losses, the scores and the learning rate over the epochs; `rows` are those of metrics.csv."""
    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    lines = (
        (losses, "train_loss", BLUE, "train"),
        (losses, "valid_loss", ORANGE, "validation"),
        (scores, "miou", BLUE, "mIoU"),
        (scores, "mean_accuracy", ORANGE, "mean accuracy"),
        (scores, "pixel_accuracy", GREEN, "pixel accuracy"),
        (rates, "lr", BLUE, "learning rate"),
    )
    for axes, column, colour, label in lines:
        marker = "o" if len(rows) < 3 else None
        axes.plot(epochs, [row[column] for row in rows], color=colour, label=label, marker=marker)
    best = max(rows, key=lambda row: row["miou"] if row["miou"] == row["miou"] else -1)
    scores.plot(best["epoch"], best["miou"], "o", color=BLUE)
    scores.annotate(
        f"best {best['miou']:.3f}",
        (best["epoch"], best["miou"]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
    )
    scores.set_ylim(0, 1)
    titles = ("weighted cross-entropy", "scores on validation", "learning rate at the epoch's end")
    for axes, title in zip((losses, scores, rates), titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=9)
    save_figure(figure, file)


def save_predictions(
    frames: Sequence[tuple[str, Image.Image, np.ndarray, np.ndarray]], card: ModelCard, file: Path
) -> None:
    """Draw frames, their truth, the prediction, and where it errs, a row a frame.

    Args:
        frames: name, RGB frame, true channels and predicted channels (HxW uint8, 255 for void) of each.
        card: the model's card, for colours and names.
        file: the PNG to write.
    """
    columns = ("frame", "truth", "prediction", "errors (red)")
    grid = _Grid(len(frames), len(columns), frames[0][1].size, card)
    for place, (name, image, truth, predicted) in enumerate(frames):
        wrong = (truth != predicted) & (truth != VOID)
        pictures = (image, colour_mask(truth, card), colour_mask(predicted, card), _errors(image, wrong))
        for axes, picture, title in zip(grid.axes[place], pictures, columns, strict=True):
            axes.imshow(picture)
            if place == 0:
                axes.set_title(title, fontsize=10)
        grid.axes[place][0].set_ylabel(name, fontsize=7)
    save_figure(grid.figure, file)


def save_comparison(runs: Sequence["RunSummary"], file: Path) -> None:
    """Draw runs side by side: mIoU over the epochs, and class IoU at the last one."""
    classes = list(dict.fromkeys(name for run in runs for name in run.ious))
    figure = Figure(figsize=(12, max(4.2, 0.05 * len(classes) * len(runs) + 3)), dpi=120, layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(1, 1.2))
    height = 0.8 / len(runs)
    for number, run in enumerate(runs):
        colour = f"C{number}" if number >= len(SERIES) else SERIES[number]
        epochs, mious = [row["epoch"] for row in run.rows], [row["miou"] for row in run.rows]
        marker = "o" if len(epochs) < 3 else None
        curves.plot(epochs, mious, color=colour, marker=marker, label=f"{run.name}  {mious[-1]:.3f}")
        places = np.arange(len(classes)) + (number - (len(runs) - 1) / 2) * height
        bars.barh(places, [run.ious.get(name, np.nan) for name in classes], height, color=colour)
    curves.set(title="mIoU on validation; in the legend the last epoch's", xlabel="epoch", ylim=(0, None))
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False, fontsize=9)
    bars.set_yticks(range(len(classes)), classes)
    bars.invert_yaxis()
    bars.set(title="class IoU at the last epoch", xlim=(0, 1))
    for axes in (curves, bars):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, file)


def save_confusion(counts: np.ndarray, class_names: Sequence[str], file: Path) -> None:
    """Draw a confusion matrix, each row as shares of the class's pixels in the truth.

    Args:
        counts: CxC integers, rows the truth, columns the prediction.
        class_names: the classes in that order.
        file: the PNG to write.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.5 * len(class_names)
    figure = Figure(figsize=(side, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(class_names))
    axes.set_xticks(places, class_names, rotation=90)
    axes.set_yticks(places, class_names)
    axes.set(xlabel="prediction", ylabel="truth", title="confusion matrix, % of the truth's pixels")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        colour = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{share:.0%}"[:-1], ha="center", va="center", fontsize=8, color=colour)
    save_figure(figure, file)


def save_batch(images: Tensor, labels: Tensor, card: ModelCard, file: Path, most: int = 8) -> None:
    """Draw what the network is given: images with their labels over them.

    Args:
        images: Bx3xHxW floats, normalised as the card says.
        labels: BxHxW integers, 255 for void.
        card: the model's card, or one made of the recipe.
        file: the PNG to write.
        most: how many of the batch to draw.
    """
    mean, std = np.array(card.mean), np.array(card.std)
    shown = min(len(images), most)
    columns = min(4, shown)
    size = (images.shape[-1], images.shape[-2])
    grid = _Grid(math.ceil(shown / columns), columns, size, card)
    for place, axes in enumerate(np.ravel(grid.axes)):
        if place >= shown:
            axes.set_visible(False)
            continue
        pixels = images[place].permute(1, 2, 0).cpu().numpy() * std + mean
        image = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
        axes.imshow(overlay(image, labels[place].cpu().numpy().astype(np.uint8), card, opacity=0.45))
    save_figure(grid.figure, file)


def save_lr_search(
    rates: Sequence[float], losses: Sequence[float], suggestions: Mapping[str, float], file: Path
) -> None:
    """Draw the loss over the learning rate, with the suggestions marked."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE)
    for (name, rate), colour in zip(suggestions.items(), (ORANGE, GREEN, PURPLE), strict=False):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name} {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    lowest, first = min(losses), losses[0]
    axes.set_ylim(lowest - 0.05 * abs(first), first + 0.5 * abs(first - lowest))  # the divergence dwarfs the valley
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, file)


class _Grid:
    """Axes without ticks for images of one shape, and the classes' names and colours below them."""

    def __init__(self, rows: int, columns: int, size: tuple[int, int], card: ModelCard) -> None:
        width = 12.0
        legend_rows = math.ceil((len(card.classes) + 1) / 8)
        height = width / columns * size[1] / size[0] * rows + 0.3 + 0.25 * legend_rows
        self.figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        self.axes = self.figure.subplots(rows, columns, squeeze=False)
        for axes in self.axes.ravel():
            axes.set_xticks([])
            axes.set_yticks([])
        entries = [*((entry.color, entry.name) for entry in card.classes), (card.void.color, "void")]
        handles = [Patch(facecolor=np.array(color) / 255, label=name) for color, name in entries]
        self.figure.legend(
            handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False, handlelength=1.2
        )


def _errors(image: Image.Image, wrong: np.ndarray) -> Image.Image:
    """The frame in pale grey, wrong pixels red."""
    grey = np.asarray(image.convert("L").convert("RGB")) // 2 + 120
    grey[wrong] = (213, 0, 0)
    return Image.fromarray(grey)
