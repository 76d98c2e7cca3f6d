"""Class maps as pictures: masks of ids, colors, overlays and their legend."""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from linknet_fastai.model.card import ModelCard


def color_mask(channels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Turn channels (HxW uint8, 255 for void) into the recipe's colors (HxWx3 uint8)."""
    colors = np.full((256, 3), card.void.color, np.uint8)
    colors[: len(card.classes)] = [entry.color for entry in card.classes]
    return colors[channels]


def overlay(
    image: Image.Image,
    channels: np.ndarray,
    card: ModelCard,
    opacity: float = 0.5,
    shown: Collection[int] | None = None,
) -> Image.Image:
    """Lay the classes' colors over a frame.

    Where two classes meet the color is twice as strong: poles and signs, which are little but border, stand out.

    Args:
        image: RGB, of the class map's size.
        channels: HxW uint8, 255 for void, which stays clear.
        card: the model's card, for the colors.
        opacity: of the colors, 0 to 1.
        shown: the channels that are colored; None is all.
    """
    strength = np.zeros(256, np.uint8)
    strength[list(range(len(card.classes)) if shown is None else shown)] = round(255 * opacity)
    border = np.zeros(channels.shape, bool)
    for here, beyond in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = channels[here] != channels[beyond]
        border[here] |= differs
        border[beyond] |= differs
    alpha = strength[channels]
    alpha[border] = np.minimum(2 * alpha[border].astype(np.uint16), 255)
    return Image.composite(Image.fromarray(color_mask(channels, card)), image, Image.fromarray(alpha))


def legend(card: ModelCard) -> Image.Image:
    """Draw the classes' colors and names, a row each, void last: what overlays are read with."""
    entries = [*((entry.color, entry.name) for entry in card.classes), (card.void.color, "void, left clear")]
    font, row = ImageFont.load_default(16), 26
    width = 60 + max(round(font.getlength(name)) for _, name in entries)
    drawn = Image.new("RGB", (width, row * len(entries) + 10), "white")
    pen = ImageDraw.Draw(drawn)
    for place, (color, name) in enumerate(entries):
        top = 8 + row * place
        pen.rectangle((10, top, 34, top + 18), tuple(color), outline="black")
        pen.text((46, top + 9), name, "black", font, anchor="lm")
    return drawn
