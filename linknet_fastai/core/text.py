"""Text that others may have written: what may be shown of it, and what a line and a name may hold."""

from typing import Annotated

from pydantic import AfterValidator, Field


def printable(text: str, keep: str = "") -> str:
    """Spell out what would not show as a letter: terminal escapes, line ends, bytes of a name that are no UTF-8.

    Args:
        text: what is to be shown.
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode()
        for letter in text
    )


def check_printable(text: str) -> str:
    """Give the text back; raise ValueError if it holds what cannot be printed, such as a terminal's escapes."""
    if not text.isprintable():
        raise ValueError(f"'{printable(text[:50])}' holds a character that cannot be printed")
    return text


def _check_name(text: str) -> str:
    if text in (".", "..") or "/" in text or "\\" in text:
        raise ValueError(f"{text!r} is no name: it stands for a folder, or holds a slash")
    return check_printable(text)


Line = Annotated[str, Field(max_length=1000), AfterValidator(check_printable)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_name)]
