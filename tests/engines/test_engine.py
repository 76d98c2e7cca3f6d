"""An engine takes a path, a PIL image or an array and returns the recipe's class ids; anything else is one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.engines.engine import Engine, predict_file
from linknet_fastai.model.card import ModelCard

IDS = (7, 40)


class Bright(Engine):
    """Channel 1 where the red channel is bright."""

    name = "bright"

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return (pixels[..., 0] > 127).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> Engine:
    classes = [{"id": i, "name": f"c{i}", "color": (i, i, i)} for i in IDS]
    return Bright(ModelCard(recipe="own", classes=classes, void={"id": 9}, size=(64, 48)), "fp32", "native")


@pytest.fixture(scope="module")
def gray() -> np.ndarray:
    """HxW, of two values."""
    return np.where(np.arange(48 * 64).reshape(48, 64) % 5 == 0, 200, 20).astype(np.uint8)


def test_every_kind_of_image_gives_the_same_class_ids(engine: Engine, gray: np.ndarray, tmp_path: Path) -> None:
    expected = np.where(gray > 127, IDS[1], IDS[0])
    image = Image.fromarray(gray)
    image.save(file := tmp_path / "frame.png")
    images = {
        "path": file,
        "text": str(file),
        "HxW": gray,
        "HxWx3": np.stack([gray] * 3, -1),
        "a view": np.stack([gray] * 3, -1)[:, :, ::-1],
        "16 bits": Image.fromarray(gray.astype(np.uint16) * 257),
        **{mode: image.convert(mode) for mode in ("L", "RGB", "RGBA", "LA", "P", "CMYK")},
        "opened": Image.open(file),
    }
    for name, given in images.items():
        mask = engine(given)
        assert (mask.dtype, mask.shape) == (np.uint8, (48, 64)), name
        assert np.array_equal(mask, expected), name


def test_channels_are_indices_into_the_cards_classes(engine: Engine, gray: np.ndarray, tmp_path: Path) -> None:
    assert np.array_equal(engine.predict_channels(gray), gray > 127)
    Image.fromarray(gray).save(tmp_path / "frame.png")
    frame, channels = predict_file(engine, tmp_path / "frame.png")
    assert (frame.mode, frame.size) == ("RGB", (64, 48))
    assert np.array_equal(channels, gray > 127)


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (np.zeros((48, 64, 3), np.float32), r"float32 of shape \(48, 64, 3\)"),
        (np.zeros((48, 64, 4), np.uint8), r"uint8 of shape \(48, 64, 4\)"),
        (np.zeros((1, 48, 64, 3), np.uint8), r"uint8 of shape \(1, 48, 64, 3\)"),
        (np.zeros((3, 48, 64), np.uint8), r"uint8 of shape \(3, 48, 64\)"),
        (np.zeros((0, 64), np.uint8), r"uint8 of shape \(0, 64\)"),
        (np.zeros(3, np.uint8), r"uint8 of shape \(3,\)"),
        (None, "NoneType"),
        ([[0, 1]], "list"),
    ],
)
def test_what_is_no_image_is_refused_with_what_an_engine_takes(engine: Engine, image: object, given: str) -> None:
    with pytest.raises(UserError, match=rf"path of an image, a PIL image, or a uint8 array .*, not .*{given}"):
        engine(image)


def test_an_image_without_a_defined_white_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be converted to RGB"):
        engine(Image.new("F", (64, 48)))
    with pytest.raises(UserError, match=r"gone\.png"):
        engine(tmp_path / "gone.png")
