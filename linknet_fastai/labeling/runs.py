"""Run lengths as COCO and Label Studio store them: decoded, and refused where they are damaged."""

from collections.abc import Sequence

import numpy as np


def uncompressed(counts: str) -> list[int]:
    """The run lengths in COCO's compressed text.

    Each number is a row of groups of five bits from the lowest, with a sixth bit where more follow; from the fourth
    on it is the difference to the last but one.

    Raises:
        ValueError: the text is damaged.

    Example:
        >>> uncompressed("52203")
        [5, 2, 2, 2, 5]
    """
    found: list[int] = []
    value = shift = 0
    for letter in counts.encode("ascii"):
        group = letter - 48
        if not 0 <= group < 64 or shift > 40:
            raise ValueError("its compressed run lengths are damaged")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths end in a number")
    return found


def brush_values(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Decode the run lengths of Label Studio's brush, which are those of @thi.ng/rle-pack.

    32 bits are the number of values, 5 the bits of a value, 4 times 4 the bits of a length; then, for each run, a bit
    that says whether one value is repeated or each is there, 2 bits for the length of the length, the length, values.

    Args:
        rle: the bytes.
        size: (width, height) of the image.

    Returns:
        HxWx4 uint32, red, green, blue and alpha.

    Raises:
        ValueError: they are damaged, or of an image of another size.
    """
    bits = np.unpackbits(np.array(rle, np.uint8))
    text = (bits + ord("0")).tobytes().decode()

    def number(place: int, length: int) -> int:
        if place + length > len(text):
            raise ValueError("its brush ends too early")
        return int(text[place : place + length], 2)

    total, word, place = number(0, 32), number(32, 5) + 1, 53
    lengths = [number(37 + 4 * each, 4) + 1 for each in range(4)]
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"its brush is of {total // 4} pixels, the image of {size[0]}x{size[1]}")
    values, filled = np.zeros(total, np.uint32), 0
    weights = 1 << np.arange(word)[::-1]
    while filled < total:
        repeated, length = number(place, 1) == 1, lengths[number(place + 1, 2)]
        count = number(place + 3, length) + 1
        place += 3 + length
        words = 1 if repeated else count
        if filled + count > total or place + words * word > len(bits):
            raise ValueError("its brush ends too early, or has more pixels than the image")
        read = bits[place : place + words * word].reshape(words, word) @ weights
        values[filled : filled + count] = read
        place, filled = place + words * word, filled + count
    return values.reshape(*size[::-1], 4)
