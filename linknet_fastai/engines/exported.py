"""What exported graphs and the engines that run them agree on: names, metadata, what a class map must be."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from linknet_fastai.core.errors import UserError
from linknet_fastai.model.card import ModelCard

# The graph's inputs, its output, and the node that brings the logits to the frame's size.
IMAGE, SIZE, MASK, RESAMPLED = "image", "size", "mask", "linknet/resampled"


def check_interface(inputs: Iterable[str], outputs: int, file: Path) -> None:
    """Raise UserError unless a graph takes a frame and a size, and gives one thing."""
    if (sorted(inputs), outputs) != (sorted((IMAGE, SIZE)), 1):
        raise UserError(f"{file}: its graph takes no frame and size and gives no class map; was it exported here?")


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
