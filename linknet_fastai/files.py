"""Writing files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from linknet_fastai.errors import UserError


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside `file`; what was written there becomes `file` at the end.

    Missing folders are made. If anything fails, nothing is left.

    Raises:
        UserError: the file cannot be written.
    """
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(file)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch says a full disk with a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(f"{file}: cannot be written ({reason})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8")
