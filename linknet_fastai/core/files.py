"""Writing files whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from linknet_fastai.core.errors import UserError, reason


@contextmanager
def written_whole(file: Path, durable: bool = False) -> Iterator[Path]:
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
    with written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8")
