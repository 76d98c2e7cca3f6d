"""Text that others may have written: how much of it is read, and what may stand in it."""

import errno
import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

LARGEST_TABLES = 1 << 20  # bytes of a recipe, a preset, a run.toml
LARGEST_LIST = 1 << 26  # bytes of a list of frames, of scores with one for each frame
DEEPEST = 32  # levels of lists and tables within each other
# A key of so many parts, as in a.b."c": tomllib takes time by the square of their number, hours for a file of a MiB.
DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""", re.ASCII)


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


def check_regular(file: Path) -> None:
    """Raise OSError unless there is such a file, and no folder, pipe or device, which may have no end."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(errno.EINVAL, "a folder, pipe or device, no regular file")


def read_text(file: Path, most: int = LARGEST_TABLES) -> str:
    """Read a text file in UTF-8.

    Args:
        file: its path.
        most: how many bytes it may have.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is larger than that, or no UTF-8.
    """
    check_regular(file)
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most >> 20} MiB")
    return content.decode("utf-8")


def read_tables(file: Path) -> dict[str, Any]:
    """Read a TOML file; raises as `read_text` does, ValueError also where it is no TOML or too deep."""
    text = read_text(file)
    if DEEP_KEY.search(text):
        raise ValueError("nested too deeply")
    return _parsed(tomllib.loads, text)


def parse_json(text: str) -> Any:
    """Parse JSON; raises ValueError where it is none, or too deep."""
    return _parsed(json.loads, text)


def _parsed(parse: Any, text: str) -> Any:
    try:
        value = parse(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
