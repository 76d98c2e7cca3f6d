"""Pictures of frames: predictions next to the ground truth, and a batch as the network receives it."""

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
from linknet_fastai.runs.charts import literal, save_figure, subplots


@dataclass(frozen=True)
class ShownFrame:
    """A labeled frame and its prediction.

    Attributes:
        stem: the file name without suffix.
        rank: "best", "median", "worst" or "only scored".
        miou: its own mIoU, 0 to 1.
        image: RGB.
        truth: true channels, HxW uint8, 255 for void.
        predicted: predicted channels, HxW uint8.
    """

    stem: str
    rank: str
    miou: float
    image: Image.Image
    truth: np.ndarray
    predicted: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """HxW booleans: where the prediction differs from a ground truth other than void."""
        return (self.truth != self.predicted) & (self.truth != VOID)


def save_predictions(frames: Sequence[ShownFrame], card: ModelCard, file: Path) -> None:
    """Draw one row per frame: the image, the ground truth, the prediction, and the errors.

    Args:
        frames: the frames, at least one.
        card: the model's card, for colors and names.
        file: the PNG to write.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            shown = representative_frames(evaluation.frame_mious, dataset, "val", engine)
            save_predictions(shown, engine.card, Path("predictions.png"))
    """
    columns = ("frame", "ground truth", "prediction", "errors (red)")
    figure, grid = _grid(len(frames), len(columns), frames[0].image.size, card)
    for row, frame in enumerate(frames):
        errors = np.asarray(frame.image.convert("L").convert("RGB")) // 2 + 120  # light gray
        errors[frame.wrong] = (213, 0, 0)
        pictures = (frame.image, color_mask(frame.truth, card), color_mask(frame.predicted, card), errors)
        for axes, picture, title in zip(grid[row], pictures, columns, strict=True):
            axes.imshow(picture)
            if row == 0:
                axes.set_title(title, fontsize=10)
        grid[row][0].set_ylabel(f"{frame.rank} frame, mIoU {frame.miou:.3f}\n{literal(frame.stem)}", fontsize=7)
    save_figure(figure, file)


def save_batch(images: Tensor, labels: Tensor, card: ModelCard, file: Path, max_frames: int = 8) -> None:
    """Draw a batch as the network receives it: images with their labels drawn over them.

    Args:
        images: Bx3xHxW floats, normalized with the card's mean and std.
        labels: BxHxW integers, 255 for void.
        card: the card of the model or of the recipe.
        file: the PNG to write.
        max_frames: how many frames of the batch are drawn.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            images, labels = dls.one_batch()
            save_batch(images, labels, ModelCard.of(dls.recipe, dls.size), Path("batch.png"))
    """
    pixels = images[:max_frames].permute(0, 2, 3, 1).cpu().numpy() * card.std + card.mean
    frames = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    columns = min(4, len(frames))
    figure, grid = _grid(math.ceil(len(frames) / columns), columns, (frames.shape[2], frames.shape[1]), card)
    for axes, frame, channels in zip(grid.flat, frames, labels.cpu().numpy().astype(np.uint8), strict=False):
        axes.imshow(overlay(Image.fromarray(frame), channels, card, opacity=0.45))
    for axes in grid.flat[len(frames) :]:
        axes.set_visible(False)
    save_figure(figure, file)


def _grid(rows: int, columns: int, size: tuple[int, int], card: ModelCard) -> tuple[Figure, np.ndarray]:
    """A figure with axes for rows x columns images of one size, and the names and colors of the classes below."""
    width = 12.0
    legend_rows = math.ceil((len(card.classes) + 1) / 8)
    height = width / columns * size[1] / size[0] * rows + 0.3 + 0.25 * legend_rows
    figure, grid = subplots(width, height, rows, columns, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    entries = [*((entry.color, entry.name) for entry in card.classes), (card.void.color, "void")]
    handles = [Patch(facecolor=tuple(np.divide(color, 255)), label=literal(name)) for color, name in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False, handlelength=1.2)
    return figure, grid
