"""Text of unknown origin: how it is shown, which name was meant, and the types of a checked line and name."""

from collections.abc import Iterable
from difflib import get_close_matches
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a hint at the most similar known one, or nothing.

    Example:
        >>> did_you_mean("epoch", ["epochs", "seed"])
        "; did you mean 'epochs'?"
    """
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
