"""What exported graphs and the engines that run them agree on: names, metadata, what a class map must be."""

import json
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from linknet_fastai.errors import UserError
from linknet_fastai.model_card import METADATA_KEY, ModelCard
from linknet_fastai.settings import explain

# The graph's inputs, its output, and the node that brings the logits to the frame's size.
IMAGE, SIZE, MASK, RESAMPLED = "image", "size", "mask", "linknet/resampled"
LONGEST_METADATA = 1 << 20  # 254 classes take a tenth of that


def parse_card(text: str | None, file: Path) -> ModelCard:
    """Read the card in an exported file's metadata.

    Raises:
        UserError: there is none, or it does not fit.
    """
    if text is None:
        raise UserError(f"{file}: its metadata has no {METADATA_KEY!r}; it was not written by linknet-fastai")
    if len(text) > LONGEST_METADATA:
        raise UserError(f"{file}: metadata: {len(text)} characters are no model card")
    try:
        return ModelCard(**json.loads(text))
    except ValidationError as error:
        raise UserError(f"{file}: metadata: {explain(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: metadata: no model card ({' '.join(str(error).split())[:200]})") from None


def checked_mask(mask: np.ndarray, size: tuple[int, int], card: ModelCard, file: Path) -> np.ndarray:
    """Check what a graph gave for a frame: a file with our metadata may hold another's network.

    Args:
        mask: 1xHxW uint8.
        size: the (height, width) asked for.
        card: the file's card.
        file: for the message.

    Returns:
        HxW uint8, each the channel of a class.

    Raises:
        UserError: another shape or type, or classes that the card does not name.
    """
    if mask.shape != (1, *size) or mask.dtype != np.uint8:
        raise UserError(f"{file}: its graph gives {mask.dtype} {mask.shape}, no class map of the frame's size")
    if mask.max(initial=0) >= len(card.classes):
        raise UserError(f"{file}: its graph gives classes beyond the {len(card.classes)} of its metadata")
    return mask[0]
