"""Image files: reading images, resizing them, writing PNGs, and images as URLs."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import atomic_write, check_regular
from linknet_fastai.core.pillow_private import PNG

VOID = 255  # the value of void in every label map and label tensor of this package
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
SOFTWARE = ("Software", "linknet-fastai")  # a text chunk in every PNG written here
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
# Pillow recognizes a format by the content of a file, not by its name. These formats contain only pixels; for an EPS,
# whatever its name, Pillow would run Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
READERS = [PNG if name == "PNG" else name for name in FORMATS]
# Of camera raws, many of which are TIFFs, Pillow would take the small preview for the image.
_RAW = "3fr arw cr2 cr3 dcr dng erf gpr iiq kdc mef mrw nef nrw orf pef raf raw rw2 sr2 srw x3f"
RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW.split())
MAX_PIXELS = 89_478_485  # above this Pillow warns of a decompression bomb
_T = Image.Transpose
# How to turn an image upright, by its EXIF tag Orientation; from 5 on width and height change places.
TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM}
TURNS |= {5: _T.TRANSPOSE, 6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}


@contextmanager
def opened_image(path: Path, what: str, max_pixels: float | None = None) -> Iterator[Image.Image]:
    """Open an image file, and report any error while it is used as one line.

    Args:
        path: the file.
        what: the image's name in the message, as in "this image".
        max_pixels: a larger image is not decoded. By default Pillow's limit for a decompression bomb.

    Raises:
        UserError: the file is not a regular file, not an image, too large or damaged, or the code in the `with` block
            fails.

    Example:
        ::

            with opened_image(Path("frame.png"), "this image") as image:
                size = image.size
    """
    max_pixels = max_pixels or MAX_PIXELS
    try:
        check_regular(path)
        with Image.open(path, formats=READERS) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"{image.width}x{image.height} is more than {max_pixels / 1e6:g} million pixels")
            if image.format == "TIFF" and path.suffix.lower() in RAW_SUFFIXES:
                raise ValueError("only the preview in a camera raw; convert it to PNG or JPEG")
            yield image
    except Exception as error:  # Pillow's readers raise a dozen kinds of errors for damaged files
        why = f"none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise UserError(f"{path}: cannot read {what} ({why})") from None


def open_image(path: Path, max_pixels: float | None = None) -> Image.Image:
    """Open an image as RGB, turned upright by its EXIF orientation; for training and prediction.

    Of 16-bit values the upper 8 bits are used, an alpha channel is dropped, and the first frame of an animation is
    returned.

    Args:
        path: the file.
        max_pixels: a larger image is not decoded.

    Raises:
        UserError: the file cannot be read as an image, or is larger.

    Example:
        ::

            image = open_image(Path("frame.png"))
    """
    with opened_image(path, "this image", max_pixels) as image:
        return to_rgb(upright(image))


def orientation(image: Image.Image) -> int:
    """The EXIF tag Orientation of an opened image, 1 to 8; 1, which is upright, for none or one that cannot be read.

    Pillow turns a TIFF when it loads the pixels: from then on it is 1. A PNG can have the tag after its pixels, where
    it is found when they are loaded.
    """
    with suppress(Exception):  # of damaged EXIF data Pillow raises a dozen kinds of errors
        # Not the method of a PNG: that would load the pixels.
        tag = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        return tag if tag in TURNS else 1
    return 1


def upright(image: Image.Image) -> Image.Image:
    """An opened image, turned upright by its EXIF orientation."""
    if image.format == "TIFF" and orientation(image) > 4:
        image.filename = ""  # type: ignore[attr-defined] # Pillow 12 maps such a file into memory with the wrong width
    image.load()
    tag = orientation(image)
    return image if tag == 1 else image.transpose(TURNS[tag])


def upright_size(path: Path) -> tuple[tuple[int, int], int]:
    """The size that an image has when it is turned upright, and the tag that turns it, from the head of the file.

    Returns:
        (width, height), and 1 to 8, see `orientation`.

    Raises:
        UserError: the file cannot be read as an image.
    """
    with opened_image(path, "this image") as image:
        tag, size = orientation(image), image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # of which newer Pillows give the upright size
            size = image.tag_v2[256], image.tag_v2[257]
        return size[::-1] if tag > 4 else size, tag


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB: of 16 bits the upper 8 are kept, an alpha channel is left out.

    Raises:
        ValueError: which of its values is white is not defined, as in floats.
    """
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion turns all values above 255 to white
        pixels = np.asarray(image)
        # Old Pillows open 16-bit PNGs as "I".
        if image.mode == "F" or not 0 <= pixels.min() <= pixels.max() < 1 << 16:
            raise ValueError(f"mode {image.mode}: its value of white is unknown; save the image with 8 or 16 bits")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an image to (width, height) bilinearly, with antialiasing when it shrinks.

    Example:
        >>> resize_image(Image.new("RGB", (960, 720)), (480, 360)).size
        (480, 360)
    """
    return image if image.size == tuple(size) else image.resize(size, BILINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize HxW uint8 labels to (width, height) with the nearest pixel.

    Example:
        >>> resize_labels(np.zeros((720, 960), np.uint8), (480, 360)).shape
        (360, 480)
    """
    return labels if labels.shape[::-1] == tuple(size) else np.asarray(Image.fromarray(labels).resize(size, NEAREST))


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """An image as a data URL, for an HTML page.

    Args:
        image: the image.
        kind: "JPEG" or "PNG".
        options: Pillow's options for saving in that format.

    Example:
        >>> data_url(Image.new("L", (1, 1)), "PNG")[:22]
        'data:image/png;base64,'
    """
    content = io.BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def save_image(image: Image.Image, file: Path) -> None:
    """Write a PNG completely or not at all, marked as written by this package for `is_own_png`.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            save_image(Image.fromarray(mask), Path("out/mask.png"))
    """
    info = PngImagePlugin.PngInfo()
    info.add_text(*SOFTWARE)
    with atomic_write(file) as partial:
        image.save(partial, format="PNG", compress_level=1, pnginfo=info)


def is_own_png(file: Path) -> bool:
    """Whether `save_image` wrote the file and no other program has written it since."""
    with suppress(UserError), opened_image(file, "this image") as image:
        return SOFTWARE in image.info.items()
    return False
