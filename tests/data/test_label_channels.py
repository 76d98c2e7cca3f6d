"""Label maps in color whose values are in one channel, of 8 and 16 bits."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.data.labels import LabelReader

LABELS = 'labels = "masks/{stem}.png"'


@pytest.fixture
def reader(own_recipe: Callable[..., Path]) -> Callable[[str], LabelReader]:
    """The reader of three values of a channel; 300 does not fit into 8 bits."""

    def read(channel: str) -> LabelReader:
        values = f'{LABELS}\nchannel = "{channel}"\nvalues = {{ 7 = "ground", 8 = "wall", 300 = "air", 0 = "void" }}'
        recipe = load_recipe(own_recipe((LABELS, values)))
        return LabelReader(recipe, recipe.layouts[0])

    return read


def write_16_bits(pixels: np.ndarray, file: Path) -> None:
    """A PNG of 16 bits a channel, which Pillow does not write; pixels are HxWx3 or HxWx4."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width, channels = pixels.shape
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, {3: 2, 4: 6}[channels], 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(("channel", "place"), [("red", 0), ("green", 1), ("blue", 2)])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_values_are_those_of_the_channel(
    reader: Callable[[str], LabelReader], tmp_path: Path, channel: str, place: int, channels: int
) -> None:
    pixels = np.full((2, 3, channels), 99, np.uint16)
    pixels[..., place] = [[7, 8, 0], [0, 7, 7]]
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "m.png")
    assert reader(channel)(tmp_path / "m.png").tolist() == [[0, 1, 255], [255, 0, 0]]
    pixels[1, 2, place] = 300
    write_16_bits(pixels, tmp_path / "m.png")
    assert reader(channel)(tmp_path / "m.png").tolist() == [[0, 1, 255], [255, 0, 2]]


def test_a_label_map_of_one_channel_is_refused(reader: Callable[[str], LabelReader], tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), 7, np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png.*expects a channel of red, green and blue"):
        reader("red")(tmp_path / "m.png")


def test_a_value_that_is_not_mapped_is_named(reader: Callable[[str], LabelReader], tmp_path: Path) -> None:
    write_16_bits(np.full((2, 3, 3), 301, np.uint16), tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: values outside the recipe's mapping: 301"):
        reader("red")(tmp_path / "m.png")
