"""What an image looks like in a few bytes, to find equal and nearly equal images among thousands."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence

import numpy as np
from PIL import Image

SAMPLES, SIDE, DIGEST_BYTES = 128, 16, 8
LENGTH = 352  # of a look: the digest and SIDE x SIDE gray values in base64
# 1 - correlation of gray values. On CamVid copies as JPEG (quality 50 to 90, a third to 1.6 times the size) are up to
# 0.0045 from their original, the val frames at least 0.068 from the train frames of the same street.
NEARLY_EQUAL = 0.01
LEAST_CONTRAST = 3.0  # standard deviation of gray values: without any, all images correlate
ROWS = 1024  # compared at a time: 20,000 images with 20,000 would need 1.6 GB


def look_of(image: Image.Image) -> str:
    """The look of an image: a digest of some of its pixels, and a thumbnail.

    Pixels are sampled on a grid: averaging all of them would take as long as a fifth of the decoding.

    Args:
        image: RGB, of any size.

    Returns:
        `LENGTH` characters.

    Example:
        >>> len(look_of(Image.new("RGB", (640, 480))))
        352
    """
    samples = image.resize((SAMPLES, SAMPLES), Image.Resampling.NEAREST)
    digest = hashlib.blake2b(
        samples.tobytes(), digest_size=DIGEST_BYTES, salt=f"{image.width}x{image.height}".encode()
    )
    return b64encode(
        digest.digest() + samples.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L").tobytes()
    ).decode()


def equal_looks(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    """The images whose sampled pixels and sizes are the same.

    Args:
        first: looks of images; an empty one is equal to none.
        second: looks of other images.

    Returns:
        The position in `first` of an equal image by the position in `second`.

    Example:
        >>> look = look_of(Image.new("RGB", (640, 480)))
        >>> equal_looks(["", look], [look, ""])
        {0: 1}
    """
    end = LENGTH * DIGEST_BYTES // (DIGEST_BYTES + SIDE * SIDE)  # whole characters of the digest
    known = {look[:end]: position for position, look in enumerate(first) if look}
    return {position: known[look[:end]] for position, look in enumerate(second) if look and look[:end] in known}


def nearest_looks(first: Sequence[str], second: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The most similar image of another set for each image.

    Args:
        first: looks of N images.
        second: looks of M other images.

    Returns:
        M positions in `first`, and M distances from 0 to 2: 1 - the correlation of the thumbnails, infinity for an
        image without contrast. What is below `NEARLY_EQUAL` is the same picture in another file.
    """
    known, asked = _vectors(first), _vectors(second)
    nearest, correlation = np.zeros(len(asked), np.int64), np.full(len(asked), -np.inf, np.float32)
    for begin in range(0, len(asked) if len(known) else 0, ROWS):
        similar = asked[begin : begin + ROWS] @ known.T
        nearest[begin : begin + ROWS] = similar.argmax(axis=1)
        correlation[begin : begin + ROWS] = similar.max(axis=1)
    correlation[~asked.any(axis=1)] = -np.inf
    return nearest, 1 - correlation


def _vectors(looks: Sequence[str]) -> np.ndarray:
    """N x 256 float32 of length 1, whose products are correlations; of length 0 without contrast."""
    size = SIDE * SIDE
    data = b"".join(b64decode(look)[DIGEST_BYTES:] if look else bytes(size) for look in looks)
    gray = np.frombuffer(data, np.uint8).reshape(-1, size).astype(np.float32)
    gray -= gray.mean(axis=1, keepdims=True)
    gray[gray.std(axis=1) < LEAST_CONTRAST] = 0
    return gray / np.maximum(np.linalg.norm(gray, axis=1, keepdims=True), 1e-6)
