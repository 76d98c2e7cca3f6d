"""TOML files, shipped or written by users: found by name or path, and read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linknet_fastai.core.errors import UsageError, reason
from linknet_fastai.core.files import MAX_TOML_BYTES, parse_toml, read_text
from linknet_fastai.core.text import did_you_mean


def recipe_folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, or at the top of a checkout.

    Example:
        >>> (recipe_folder() / "camvid.toml").is_file()
        True
    """
    package = Path(__file__).parents[1]
    installed = package / "data_recipes"
    return installed if installed.is_dir() else package.parent / "data_recipes"


def find_shipped(name_or_path: str | Path, folder: Path, what: str) -> Path:
    """Find a TOML file by the name of one in a folder, or by its path.

    Args:
        name_or_path: the file's stem, or a path.
        folder: the folder of the shipped files.
        what: what the file is, for the message.

    Raises:
        UsageError: there is no such file; the message names the most similar one.

    Example:
        >>> find_shipped("camvid", recipe_folder(), "recipe").name
        'camvid.toml'
    """
    text, names = str(name_or_path), toml_names(folder)
    if text in names:
        return folder / f"{text}.toml"
    file = Path(text)
    if os.path.isfile(file):
        return file
    if file.suffix == ".toml":
        raise UsageError(f"{file}: no such {what} file")
    hint = did_you_mean(text, names).removeprefix("; ") or f"shipped are {', '.join(names)};"
    raise UsageError(f"no {what} {text!r}: {hint} a {what} of your own is the path of a .toml file")


def toml_names(folder: Path) -> list[str]:
    """The names of the TOML files in a folder, without the suffix.

    Example:
        >>> toml_names(recipe_folder() / "presets")
        ['best', 'course', 'course-modified', 'paper']
    """
    return sorted(file.stem for file in folder.glob("*.toml"))


def read_toml(file: Path, folder: Path, what: str) -> tuple[dict[str, Any], str | None]:
    """Read a TOML file written by a user, which may build on a shipped one.

    Args:
        file: its path.
        folder: the folder of the shipped files.
        what: what the file is, for the message.

    Returns:
        The file's table without `base`, and `base`: the name of a shipped file, or None.

    Raises:
        UsageError: the file cannot be read, or is not TOML, or its `base` is no shipped file or the file itself.

    Example:
        >>> table, base = read_toml(recipe_folder() / "street.toml", recipe_folder(), "recipe")
        >>> table["fetch"], base
        ('street-240', 'camvid')
    """
    with _reported_as(file, what):
        table = parse_toml(read_text(file))
    base, names = table.pop("base", None), toml_names(folder)
    if base is not None and (base not in names or file.samefile(folder / f"{base}.toml")):
        raise UsageError(f"{file}: base: {str(base)[:50]!r} is not a shipped {what} ({', '.join(names)})")
    return table, base


def read_source(file: Path, what: str, max_bytes: int = MAX_TOML_BYTES) -> str:
    """Read a text file written by a user.

    Args:
        file: its path.
        what: what the file is, for the message.
        max_bytes: the largest size that is read.

    Raises:
        UsageError: the file cannot be read, or is larger.

    Example:
        >>> read_source(recipe_folder() / "camvid" / "val.txt", "list of frames").split()[0]
        '0016E5_07959'
    """
    with _reported_as(file, what):
        return read_text(file, max_bytes)


@contextmanager
def _reported_as(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot read this {what} ({reason(error)})") from None
