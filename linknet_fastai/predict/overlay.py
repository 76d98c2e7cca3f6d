"""Class maps as pictures: masks of class ids, masks in colors, overlays and their legend."""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from linknet_fastai.model.card import ModelCard


def color_mask(channels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Convert channels (HxW uint8, 255 for void) to the recipe's colors (HxWx3 uint8).

    Example:
        >>> classes = [{"id": 7, "name": "road", "color": (9, 0, 9)}, {"id": 9, "name": "sky", "color": (0, 0, 250)}]
        >>> card = ModelCard(recipe="two", classes=classes, void={"id": 255}, size=(64, 48))
        >>> color_mask(np.array([[0, 1]], np.uint8), card).tolist()
        [[[9, 0, 9], [0, 0, 250]]]
    """
    colors = np.full((256, 3), card.void.color, np.uint8)
    colors[: len(card.classes)] = [entry.color for entry in card.classes]
    return colors[channels]


def id_palette(card: ModelCard) -> list[int]:
    """The palette of a mask of class ids: 256 times red, green and blue, black for what is no id.

    Example:
        >>> classes = [{"id": 0, "name": "road", "color": (9, 0, 9)}, {"id": 2, "name": "sky", "color": (0, 0, 250)}]
        >>> id_palette(ModelCard(recipe="two", classes=classes, void={"id": 255}, size=(64, 48)))[:9]
        [9, 0, 9, 0, 0, 0, 0, 0, 250]
    """
    colors = np.zeros((256, 3), np.uint8)
    colors[card.void.id] = card.void.color
    for entry in card.classes:
        colors[entry.id] = entry.color
    return colors.ravel().tolist()


def overlay(
    image: Image.Image,
    channels: np.ndarray,
    card: ModelCard,
    opacity: float = 0.5,
    shown: Collection[int] | None = None,
) -> Image.Image:
    """Draw the colors of the classes over a frame.

    Along the borders of classes the colors are twice as opaque: thin objects such as poles and signs stand out.

    Args:
        image: RGB, of the class map's size.
        channels: HxW uint8; void, 255, is not colored.
        card: the model's card, for the colors.
        opacity: opacity of the colors, 0 to 1.
        shown: the channels that are colored; all by default.

    Returns:
        An RGB image of the same size.

    Example:
        ::

            image = open_image(Path("frame.png"))
            overlay(image, engine.predict_channels(image), engine.card).save("overlay.png")
    """
    strength = np.zeros(256, np.uint8)
    strength[list(range(len(card.classes)) if shown is None else shown)] = round(255 * opacity)
    border = np.zeros(channels.shape, bool)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = channels[first] != channels[second]
        border[first] |= differs
        border[second] |= differs
    alpha = strength[channels]
    alpha[border] = np.minimum(2 * alpha[border].astype(np.uint16), 255)
    return Image.composite(Image.fromarray(color_mask(channels, card)), image, Image.fromarray(alpha))


def legend(card: ModelCard) -> Image.Image:
    """Draw the legend of overlays: one row per class with its color and name, void last.

    Example:
        ::

            legend(engine.card).save("legend.png")
    """
    entries = [*((entry.color, entry.name) for entry in card.classes), (card.void.color, "void, not colored")]
    font, row = ImageFont.load_default(16), 26
    width = 60 + max(round(font.getlength(name)) for _, name in entries)
    drawn = Image.new("RGB", (width, row * len(entries) + 10), "white")
    pen = ImageDraw.Draw(drawn)
    for number, (color, name) in enumerate(entries):
        top = 8 + row * number
        pen.rectangle((10, top, 34, top + 18), tuple(color), outline="black")
        pen.text((46, top + 9), name, "black", font, anchor="lm")
    return drawn
