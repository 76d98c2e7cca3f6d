"""The TOML files that come with the program, and those of users: found by name or path, and read."""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linknet_fastai.core.errors import UsageError, reason
from linknet_fastai.core.files import LARGEST_TABLES, read_tables, read_text


def recipe_folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "data_recipes"
    return installed if installed.is_dir() else package.parent / "data_recipes"


def find_shipped(name_or_path: str | Path, folder: Path, what: str) -> Path:
    """The TOML file behind a name that stands for one in `folder`, or behind a path.

    Raises:
        UsageError: there is neither; the message says `what` was looked for and what there is.
    """
    text, names = str(name_or_path), toml_names(folder)
    if text in names:
        return folder / f"{text}.toml"
    if (file := Path(text)).suffix == ".toml" or os.path.isfile(file):
        if not os.path.isfile(file):
            raise UsageError(f"{file}: no such {what} file")
        return file
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(names)};"
    raise UsageError(f"no {what} {text!r}: {hint} a {what} of your own is the path of a .toml file")


def toml_names(folder: Path) -> list[str]:
    """The names of the TOML files in a folder."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def read_toml(file: Path, what: str) -> dict[str, Any]:
    """Read a TOML file that somebody wrote; `what` says in the message what it should be."""
    with _reported_as(file, what):
        return read_tables(file)


def read_source(file: Path, what: str, most: int = LARGEST_TABLES) -> str:
    """Read a text file of up to `most` bytes that somebody wrote, as `read_toml` does."""
    with _reported_as(file, what):
        return read_text(file, most)


@contextmanager
def _reported_as(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot read this {what} ({reason(error)})") from None
