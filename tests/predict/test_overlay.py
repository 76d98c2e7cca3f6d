"""Class maps as pictures."""

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.overlay import color_mask, legend, overlay


@pytest.fixture(scope="module")
def card() -> ModelCard:
    classes = [
        {"id": 7, "name": "red", "color": (250, 0, 0)},
        {"id": 40, "name": "green", "color": (0, 250, 0)},
        {"id": 200, "name": "blue", "color": (0, 0, 250)},
    ]
    return ModelCard(recipe="colors", classes=classes, void={"id": 9}, size=(64, 48))


def test_a_class_has_its_own_color(card: ModelCard) -> None:
    channels = np.array([[0, 1], [2, 255]], np.uint8)
    assert color_mask(channels, card)[0, 1].tolist() == [0, 250, 0]


def test_an_overlay_is_stronger_along_borders_and_clear_where_void_or_not_shown(card: ModelCard) -> None:
    channels = np.repeat(np.array([[0, 0, 0, 1, 2, 2, 2, 255, 255]], np.uint8), 3, axis=0)
    frame = Image.fromarray(np.full((3, 9, 3), 100, np.uint8))
    drawn = np.asarray(overlay(frame, channels, card, opacity=0.4))[1]
    assert drawn[[0, 5, 8]].tolist() == [[160, 60, 60], [60, 60, 160], [100, 100, 100]]
    assert drawn[[2, 3, 4]].tolist() == [[220, 20, 20], [20, 220, 20], [20, 20, 220]]  # one pixel of green is seen
    assert drawn[7].tolist() == [100, 100, 100]
    some = np.asarray(overlay(frame, channels, card, opacity=0.4, shown=[1]))[1]
    assert some[3].tolist() == [20, 220, 20]
    assert (np.delete(some, 3, axis=0) == 100).all()
    assert overlay(frame, channels, card, opacity=0).tobytes() == frame.tobytes()


def test_the_legend_has_a_row_of_its_color_for_every_class_and_void(card: ModelCard) -> None:
    drawn = legend(card)
    rows = [drawn.getpixel((20, 17 + 26 * place)) for place in range(len(card.classes) + 1)]
    assert rows == [entry.color for entry in card.classes] + [card.void.color]
    names = np.asarray(drawn.convert("L"))[:, 46:] < 128
    assert all(names[8 + 26 * place : 26 + 26 * place].any() for place in range(len(rows)))
