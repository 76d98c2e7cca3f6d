"""Files written completely or not at all, and files of unknown origin read with limits on size and nesting."""

import codecs
import errno
import hashlib
import json
import os
import re
import stat
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from tempfile import TemporaryFile
from typing import Any

from filelock import lock_descriptor

from linknet_fastai.core.errors import Note, UsageError, UserError, reason

MAX_TOML_BYTES = 1 << 20  # of a recipe, a preset, a run.toml
MAX_LIST_BYTES = 1 << 26  # of a list of frames, or of scores with an entry for each frame
MAX_DEPTH = 32  # of nested lists and tables
# In lower case; what macOS, Windows, network drives and file systems put beside the files of a user.
SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin"}
# A dotted key of MAX_DEPTH parts, as in a.b."c": tomllib's time grows with the square of their number, to hours for a
# file of 1 MiB.
DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""", re.ASCII)


@contextmanager
def atomic_write(file: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `file`, and rename it to `file` at the end.

    Missing folders are created. If anything fails, the temporary file is deleted and `file` stays as it was.

    Args:
        file: the file to write.
        durable: whether to wait until the content is on the disk, so that it survives a power cut.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            with atomic_write(Path("runs/first/points.npy")) as partial, partial.open("wb") as opened:
                np.save(opened, points)
    """
    if not file.name:
        raise UserError(f"{file}: is a folder; name a file")
    # A digest in place of the name, which may already be as long as the file system allows.
    digest = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:12]
    partial = file.with_name(f".{os.getpid()}-{digest}{file.suffix[:16]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            _sync(partial)
        partial.replace(file)
        if durable and os.name == "posix":  # other systems cannot open a folder
            with suppress(OSError):  # some file systems cannot sync one
                _sync(file.parent)
    # A file name that is not valid UTF-8 cannot be written in a text.
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        cause = _cause(error, partial)
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; free some space" if full else ""
        raise UserError(f"{file}: cannot be written ({reason(cause)}){hint}") from cause
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _cause(error: Exception, partial: Path) -> Exception:
    """The system's own error where a library reports another: for torch a full disk is an "unexpected pos"."""
    if isinstance(error, RuntimeError):
        try:
            with partial.open("ab") as opened:
                opened.write(bytes(1 << 20))
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as cause:
            return cause
    return error


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def file_lock(file: Path, waiting: Callable[[int, int], None]) -> Iterator[bool]:
    """Run a block that no other process runs at the same time with a lock on the same file.

    Some network file systems have no locks, and report that in different ways: the block runs without one, after a
    `Note`. The system releases the lock of a process that was killed.

    Args:
        file: the file to lock, which is created, in a folder that exists; its content does not matter.
        waiting: called with 0, 1 if another process has the lock, where it may raise an error, and with 1, 1 when the
            wait is over.

    Yields:
        Whether the file is locked.

    Raises:
        OSError: the file cannot be created.

    Example:
        ::

            with file_lock(Path("cache/.lock"), waiting=lambda done, total: print(done, "of", total)):
                build_cache()
    """
    with file.open("ab") as opened:  # NFS locks only what is open for writing
        try:
            locked = lock_descriptor(opened.fileno(), blocking=False)
            if not locked:
                waiting(0, 1)
                locked = lock_descriptor(opened.fileno())
                waiting(1, 1)
        except OSError as error:
            locked = False
            what = f"{file.parent}: the file system cannot lock files ({reason(error)})"
            warnings.warn(f"{what}; do not write into it from two runs at once", Note, stacklevel=3)
        yield locked


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            write_text(Path("runs/first/notes.txt"), "a first try")
    """
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")


def check_writable(folder: Path) -> None:
    """Raise UserError unless files can be written into a folder, which is created.

    Example:
        ::

            check_writable(Path("predicted"))  # before hours of work whose result is one file
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written into ({reason(error)})") from None


def check_own(file: Path, is_own: Callable[[Path], bool]) -> None:
    """Raise UsageError if a file exists that this program did not write: such a file is never overwritten.

    This holds for every name that the program chooses; a file that the user names is replaced.

    Args:
        file: the file to be written.
        is_own: whether this program wrote it, called if it exists.

    Example:
        ::

            check_own(Path("predicted/legend.png"), is_own_png)
    """
    if os.path.lexists(file) and not is_own(file):
        raise UsageError(
            f"{file}: already exists and was not written by linknet-fastai; choose another --out to keep it"
        )


def check_regular(file: Path) -> None:
    """Raise OSError unless `file` exists and is a regular file: a pipe or a device may have no end.

    Example:
        >>> check_regular(Path("/dev/null"))
        Traceback (most recent call last):
            ...
        OSError: [Errno 22] not a regular file (a folder, pipe or device)
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file (a folder, pipe or device)")


def read_text(file: Path, max_bytes: int = MAX_TOML_BYTES) -> str:
    """Read a text file in UTF-8, or in UTF-16 if it begins with a byte order mark, as programs on Windows write them.

    Args:
        file: its path.
        max_bytes: the largest size that is read.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: the file is larger, or in another encoding.

    Example:
        ::

            tables = parse_toml(read_text(Path("own.toml")))
    """
    check_regular(file)
    with file.open("rb") as opened:
        content = opened.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"larger than {max_bytes >> 20} MiB")
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"its encoding is not UTF-8 (line {line}); save it as UTF-8") from None
    if "\0" in text:  # of UTF-16 without a byte order mark, and of UTF-32
        raise ValueError("it is no text, or its encoding is not UTF-8; save it as UTF-8")
    return text


def is_system_file(path: PurePath) -> bool:
    """Whether a system or a program left the file, or a folder above it, behind: the file is no data of the user.

    These are hidden files and folders (`._0001.png` and `.DS_Store` of macOS, `.ipynb_checkpoints` of notebooks) and
    the names in `SYSTEM_NAMES`.

    Args:
        path: relative to the folder that the user named, which may itself be below a hidden folder.

    Example:
        >>> [is_system_file(PurePath(path)) for path in ("images/._1.png", "__MACOSX/images/1.png", "images/1.png")]
        [True, True, False]
    """
    return any(part.startswith(".") or part.lower() in SYSTEM_NAMES for part in path.parts)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: the text is not TOML, or nested too deeply.

    Example:
        >>> parse_toml('size = "480x360"')
        {'size': '480x360'}
    """
    if DEEP_KEY.search(text):
        raise ValueError("nested too deeply")
    return _parse(tomllib.loads, text)


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the text is not JSON, or nested too deeply.

    Example:
        >>> parse_json('{"miou": null}')
        {'miou': None}
    """
    return _parse(json.loads, text)


def _parse(parser: Callable[[str], Any], text: str) -> Any:
    """The parsed value; raises ValueError if lists and tables are nested deeper than `MAX_DEPTH`."""
    with suppress(RecursionError):  # of the parser
        value = parser(text)
        level = [value]
        for _ in range(MAX_DEPTH):
            level = [child for parent in level for child in _children(parent)]
            if not level:
                return value
    raise ValueError("nested too deeply")


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def cache_folder() -> Path:
    """The folder `linknet-fastai` in the user's cache folder, for files that can be made again.

    Raises:
        UserError: there is none, as in a container whose user has neither a home nor an entry in /etc/passwd.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:  # fastcore's `xdg_cache_home` needs a home even where the variable is set
        caches = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError:
        raise UserError("this user has no home folder: set XDG_CACHE_HOME (or HOME) to a writable folder") from None
    return caches / "linknet-fastai"
