"""The page of `data --suspects`: labels that a model contradicts, with pictures, in one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from linknet_fastai.core.files import write_text
from linknet_fastai.core.images import data_url, resize_labels
from linknet_fastai.core.text import printable
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.overlay import overlay
from linknet_fastai.runs.report import render_page
from linknet_fastai.scoring.suspects import JudgedFrame

WIDTH = 400  # pixels, of each picture at most
RED = (230, 0, 0)


def suspect_parts(
    row: Mapping[str, Any], judged: JudgedFrame, contradicted: np.ndarray, card: ModelCard
) -> dict[str, str]:
    """The texts and pictures of a suspect on the page, by their names in the template.

    Args:
        row: the suspect as plain values, see `linknet_fastai.training.suspects.SuspectsResult.row`.
        judged: its frame.
        contradicted: HxW booleans: its contradicted pixels.
        card: the model's card, for the colors.
    """
    whole = judged.image
    scale = min(1, WIDTH / whole.width)
    size = (max(round(whole.width * scale), 1), max(round(whole.height * scale), 1))
    image = whole.resize(size, Image.Resampling.BOX)
    marked = np.asarray(image.convert("L").convert("RGB")) // 2 + 64
    marked[resize_labels(contradicted.astype(np.uint8), size) == 1] = RED
    pictures = {
        "image": image,
        "labels": overlay(image, resize_labels(judged.labels, size), card),
        "predicted": overlay(image, resize_labels(judged.predicted, size), card),
        "contradicted": Image.fromarray(marked),
    }
    return {
        "title": printable(f"{row['frame']}: {row['label']}, the model says {row['predicted']}"),
        "detail": f"{row['pixels']:,} contradicted pixels, {row['share']:.0%} of the frame's {row['label']}; mean "
        f"confidence {row['confidence']:.2f}; score {row['score']:.0f}; label map {printable(row['label_map'])}",
        **{name: data_url(picture, "JPEG", quality=85) for name, picture in pictures.items()},
    }


def is_own_page(file: Path) -> bool:
    """Whether `write_suspects_page` wrote a file."""
    with suppress(OSError), file.open("rb") as opened:
        return b'content="linknet-fastai data --suspects"' in opened.read(300)
    return False


def write_suspects_page(
    file: Path, shown: Sequence[Mapping[str, str]], found: int, frames: int, model: Path, card: ModelCard
) -> None:
    """Write the page.

    Args:
        file: the HTML file.
        shown: what `suspect_parts` returned, the most suspect first.
        found: how many there are in all.
        frames: how many frames were judged.
        model: what judged them.
        card: its card, for names and colors.

    Raises:
        UserError: the file cannot be written.
    """
    page = render_page(
        "suspects.html",
        {},
        recipe=card.recipe,
        shown=shown,
        found=found,
        frames=frames,
        model=printable(str(model)),
        classes=card.classes,
    )
    write_text(file, page)
