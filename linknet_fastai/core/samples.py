"""The samples of label maps as their files have them; Pillow scales, inverts or cuts some, as a viewer does."""

import re
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from linknet_fastai.core.images import upright

SCALES = {"1": 255, "L2": 85, "L4": 17}  # what Pillow multiplies gray samples of 1, 2 and 4 bits by


def read_samples(file: Path, image: Image.Image, expected: Collection[int] = (1,)) -> np.ndarray:
    """The value of each pixel of a label map, turned upright by its EXIF orientation.

    It is the sample in the file: 0 to 15 of 4 bits, 0 to 65535 of 16. Of three equal channels it is the one that they
    have in common. Of a palette it is the index, unless the palette is entirely gray: optimizers store gray images
    with such palettes, in any order, so the gray is the value.

    Args:
        file: the file.
        image: the file, opened but not loaded.
        expected: the values of classes. Where all of them are multiples of what viewers scale samples of 1, 2 or 4
            bits by, as 0 and 255 are, the scaled values are returned: optimizers store such images in few bits.

    Returns:
        HxW uint8 or uint16.

    Raises:
        ValueError: the format is lossy, or it is not clear which value a pixel has.

    Example:
        ::

            with opened_image(file, "this label map") as image:
                values = read_samples(file, image)
    """
    check_lossless(file, image)
    decoder, _, _, args = image.tile[0] if image.tile else ("", None, 0, "")  # type: ignore[attr-defined]
    rawmode, *options = (args,) if isinstance(args, str) else args
    few_bits = re.fullmatch(r"([1L]);?([24]?)(I?)R?", str(rawmode))
    if few_bits and few_bits[3]:
        raise ValueError("its white is 0, so its values may be inverted; export it as PNG")
    if few_bits and image.format == "BMP" and decoder == "raw" and _bmp_bits(file) != (1 if image.mode == "1" else 8):
        raise ValueError("Pillow cannot read this kind of BMP; export it as PNG")
    image = upright(image)
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if values.ndim == 3:
        if ";16" in str(rawmode) or (decoder.startswith("ppm") and options[0] > 255):
            raise ValueError("several channels of 16 bits; export it with one channel")
        values = _common_channel(values, image.mode)
    elif image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise ValueError(f"mode {image.mode}, but its recipe expects one channel of ids")
    if image.mode == "P":
        grays = np.array(palette_colors(image), np.uint8)
        if (grays == grays[:, :1]).all():
            values = grays[:, 0][values]  # raises IndexError for an index without a color
    elif decoder.startswith("ppm"):  # scaled from 0..maxval
        values = np.rint(values * (options[0] / (65535 if image.mode == "I" else 255)))
    elif few_bits and any(value % SCALES.get(few_bits[1] + few_bits[2], 1) for value in expected):
        values = values // SCALES[few_bits[1] + few_bits[2]]
    if values.dtype == np.uint8:
        return values
    if values.size and not 0 <= values.min() <= values.max() < 1 << 16:
        raise ValueError("values outside 0..65535")
    return values.astype(np.uint16)


def read_channel(file: Path, image: Image.Image, channel: int) -> np.ndarray:
    """One channel of a label map in color, turned upright by its EXIF orientation.

    Args:
        file: the file.
        image: the file, opened but not loaded.
        channel: 0 for red, 1 for green, 2 for blue.

    Returns:
        HxW uint8 or, of a PNG of 16 bits, uint16.

    Raises:
        ValueError: the format is lossy, or it has a single channel.

    Example:
        ::

            with opened_image(file, "this label map") as image:
                values = read_channel(file, image, 0)
    """
    check_lossless(file, image)
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"mode {image.mode}, but its recipe expects a channel of red, green and blue")
    _, _, _, args = image.tile[0] if image.tile else ("", None, 0, "")  # type: ignore[attr-defined]
    rawmode = args if isinstance(args, str) else args[0]
    values = np.asarray(upright(image))[..., channel]
    if not str(rawmode).endswith(";16B"):
        return values
    with Image.open(file) as again:  # Pillow keeps the upper byte, of the other order of bytes it is the lower
        again.tile = [(*tile[:3], rawmode.replace("16B", "16L")) for tile in again.tile]  # type: ignore[misc]
        return values.astype(np.uint16) << 8 | np.asarray(upright(again))[..., channel]


def palette_colors(image: Image.Image) -> list[tuple[int, int, int]]:
    """The colors of the palette of a loaded image of mode P, (red, green, blue) by index."""
    palette = image.getpalette() or []
    return list(zip(palette[::3], palette[1::3], palette[2::3], strict=True))


def _common_channel(pixels: np.ndarray, mode: str) -> np.ndarray:
    """HxW of HxWxC pixels whose channels are the same; raises ValueError if they are not, or some are transparent."""
    if mode.endswith("A"):
        if pixels[..., -1].min(initial=255) < 255:
            raise ValueError("it has transparent pixels; export it without an alpha channel")
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        raise ValueError(
            f"mode {mode}, but its recipe expects one channel of ids; [layouts.colors] reads colors, "
            'and channel = "red" in the layout one channel of several'
        )
    return pixels[..., 0]


def _bmp_bits(file: Path) -> int:
    """The bits of a pixel of a BMP: Pillow takes another number for some gray palettes."""
    with file.open("rb") as opened:
        head = opened.read(30)
    return int.from_bytes(head[24:26] if head[14] == 12 else head[28:30], "little")


def check_lossless(file: Path, image: Image.Image) -> None:
    """Raise ValueError for a label map in a format that changes values, as JPEG does.

    Args:
        file: the file.
        image: the file, opened.
    """
    lossy = image.format in ("JPEG", "MPO")
    if image.format == "TIFF":
        lossy = image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    elif image.format == "WEBP":
        lossy = _is_lossy_webp(file.read_bytes())
    elif image.format == "JPEG2000":
        lossy = _is_lossy_jpeg_2000(file.read_bytes())
    if lossy:
        raise ValueError(f"{image.format} may have changed its values: label maps must be lossless; export it as PNG")


def _is_lossy_webp(content: bytes) -> bool:
    """Whether the first image in a WebP file is a `VP8 ` chunk; lossless ones are `VP8L`."""
    place = len("RIFF....WEBP")
    while (kind := content[place : place + 4]) not in (b"VP8 ", b"VP8L", b""):
        (length,) = struct.unpack_from("<I", content, place + 4)
        place += 8 + (16 if kind == b"ANMF" else length + length % 2)  # a frame of an animation has chunks itself
    return kind != b"VP8L"


def _is_lossy_jpeg_2000(content: bytes) -> bool:
    """Whether a JPEG 2000 file uses the irreversible wavelet, or samples that Pillow scales to 8 or 16 bits."""
    place = content.index(b"\xff\x4f\xff\x51") + 2  # the marker SIZ, first in the code stream
    depth = (content[place + 40] & 127) + 1
    while content[place : place + 2] != b"\xff\x52":  # the marker COD; others have their length in two bytes
        (length,) = struct.unpack_from(">H", content, place + 2)
        place += 2 + length
    return depth not in (8, 16) or content[place + 13] == 0
