"""Pictures of frames: predictions beside the truth, a batch as the network gets it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from linknet_fastai.core.images import VOID
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.overlay import color_mask, overlay
from linknet_fastai.runs.charts import literal, save_figure


@dataclass(frozen=True)
class ShownFrame:
    """A labelled frame and what was predicted: RGB image, true and predicted channels (HxW uint8, 255 for void)."""

    stem: str
    rank: str  # best, median or worst
    miou: float
    image: Image.Image
    truth: np.ndarray
    predicted: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """HxW booleans: where the prediction errs. It cannot where the truth is void."""
        return (self.truth != self.predicted) & (self.truth != VOID)


def save_predictions(frames: Sequence[ShownFrame], card: ModelCard, file: Path) -> None:
    """Draw frames, their truth, the prediction, and where it errs, a row a frame.

    Args:
        frames: what is shown.
        card: the model's card, for colors and names.
        file: the PNG to write.
    """
    columns = ("frame", "truth", "prediction", "errors (red)")
    grid = _Grid(len(frames), len(columns), frames[0].image.size, card)
    for place, frame in enumerate(frames):
        masks = (color_mask(channels, card) for channels in (frame.truth, frame.predicted))
        pictures = (frame.image, *masks, _errors(frame.image, frame.wrong))
        for axes, picture, title in zip(grid.axes[place], pictures, columns, strict=True):
            axes.imshow(picture)
            if place == 0:
                axes.set_title(title, fontsize=10)
        grid.axes[place][0].set_ylabel(f"{frame.rank}, mIoU {frame.miou:.3f}\n{literal(frame.stem)}", fontsize=7)
    save_figure(grid.figure, file)


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


class _Grid:
    """Axes without ticks for images of one shape, and the classes' names and colors below them."""

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
        handles = [Patch(facecolor=np.array(color) / 255, label=literal(name)) for color, name in entries]
        self.figure.legend(
            handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False, handlelength=1.2
        )


def _errors(image: Image.Image, wrong: np.ndarray) -> Image.Image:
    """The frame in pale grey, wrong pixels red."""
    grey = np.asarray(image.convert("L").convert("RGB")) // 2 + 120
    grey[wrong] = (213, 0, 0)
    return Image.fromarray(grey)
