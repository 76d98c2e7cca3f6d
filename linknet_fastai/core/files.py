"""Files written whole or not at all, and files from others read with limits."""

import errno
import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastcore.xdg import xdg_cache_home
from safetensors import SafetensorError

from linknet_fastai.core.errors import UserError, reason

LARGEST_TABLES = 1 << 20  # bytes of a recipe, a preset, a run.toml
LARGEST_LIST = 1 << 26  # bytes of a list of frames, of scores with one for each frame
DEEPEST = 32  # levels of lists and tables within each other
# A key of so many parts, as in a.b."c": tomllib takes time by the square of their number, hours for a file of a MiB.
DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""", re.ASCII)


@contextmanager
def atomic_write(file: Path, durable: bool = False) -> Iterator[Path]:
    """Give the path of a temporary file beside `file`; what was written there becomes `file` at the end.

    Missing folders are made. If anything fails, nothing is left.

    Args:
        file: the file to write.
        durable: whether to wait until it is on the disk, whole even after a power cut.

    Raises:
        UserError: the file cannot be written.
    """
    if not file.name:
        raise UserError(f"{file}: is a folder; name a file")
    # A digest stands for the name, which may be as long as the system allows already.
    digest = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:12]
    partial = file.with_name(f".{os.getpid()}-{digest}{file.suffix[:16]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            _sync(partial)
        partial.replace(file)
        if durable and os.name == "posix":  # elsewhere no folder can be opened
            with suppress(OSError):  # not every file system has it for folders
                _sync(file.parent)
    # torch says a full disk with a RuntimeError; a name that is no UTF-8 cannot stand in a text.
    except (OSError, RuntimeError, SafetensorError, UnicodeEncodeError) as error:
        raise UserError(f"{file}: cannot be written ({reason(error)})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")


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


def cache_folder() -> Path:
    """The folder `linknet-fastai` in the user's cache folder, for files that can be made again."""
    return Path(xdg_cache_home()) / "linknet-fastai"
