"""Text of unknown origin: how it is shown, and the types of a checked line and a checked name."""

from typing import Annotated

from pydantic import AfterValidator, Field


def printable(text: str, keep: str = "") -> str:
    r"""Escape unprintable characters: terminal escapes, line ends, bytes of file names that are not valid UTF-8.

    Args:
        text: the text to show.
        keep: unprintable characters that are not escaped.

    Example:
        >>> printable("\x1b[31mred")
        '\\x1b[31mred'
    """
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode()
        for letter in text
    )


def check_printable(text: str) -> str:
    """Return the text.

    Raises:
        ValueError: it contains an unprintable character, such as a terminal escape.

    Example:
        >>> check_printable("wall")
        'wall'
    """
    if not text.isprintable():
        raise ValueError(f"'{printable(text[:50])}' contains an unprintable character")
    return text


def _check_name(text: str) -> str:
    if text in (".", "..") or "/" in text or "\\" in text:
        raise ValueError(f"{text!r} is not a valid name: it may not be a folder or contain a slash")
    return check_printable(text)


Line = Annotated[str, Field(max_length=1000), AfterValidator(check_printable)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_name)]
