"""The files of an export: listed once, found by the names that tools write, read with limits."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import is_system_file, parse_json, read_text
from linknet_fastai.core.images import IMAGE_SUFFIXES

MAX_FILES = 1_000_000
MAX_BYTES = 1 << 29  # of an annotation file: that of COCO's 118,000 images has 448 MB
MAX_SMALL = 1 << 20  # of a file of names or classes
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file


class Tree:
    """The files below a folder that a user named, or one file of it.

    Args:
        path: the folder, or a file in it, which then is the only one that is read besides images.

    Attributes:
        root: the folder.
        only: the file that the user named, or None.

    Raises:
        UsageError: there is no such file or folder.
        UserError: it cannot be read, or has too many files.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"--from: {path}: no such file or folder")
        self.only: Path | None = None if path.is_dir() else path
        self.root = path if path.is_dir() else path.parent
        self.files = sorted(_listed(self.root))

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of these endings; if the user named a file, only that one."""
        files = [self.only] if self.only else self.files
        return [file for file in files if file.suffix.lower() in suffixes]

    def named(self, *names: str) -> list[Path]:
        """The files with one of these names, those of the upper folders first."""
        files = [self.only] if self.only else self.files
        return sorted((f for f in files if f.name.lower() in names), key=lambda file: len(file.parts))

    @cached_property
    def images(self) -> list[Path]:
        """All images, label maps among them."""
        return [file for file in self.files if file.suffix.lower() in IMAGE_SUFFIXES]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for file in self.images:
            found[normalize("NFC", file.name).lower()].append(file)
        return found

    def image(self, name: str, near: Path) -> Path | None:
        """The image that a tool means.

        Args:
            name: a name, a path of any system relative to anything, or a URL.
            near: the file that names it.

        Returns:
            The image below the root with this name, of several the one whose folders agree best; None without one.

        Raises:
            UserError: several agree as well.
        """
        parts = normalize("NFC", _local(name)).split("/")
        candidates = self._by_name.get(parts[-1].lower()) or self._by_name.get(
            UPLOADED.sub("", parts[-1].lower()), []
        )
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        beside = Path(os.path.normpath(near.parent / "/".join(parts)))

        def agreement(file: Path) -> tuple[bool, int, int]:
            tail = zip(reversed(file.parts), reversed(parts), strict=False)
            shared = list(takewhile(lambda pair: pair[0] == pair[1], zip(file.parts, near.parts, strict=False)))
            return file == beside, [a == b for a, b in tail][:32].count(True), len(shared)

        best, other = sorted(candidates, key=agreement)[:-3:-1]
        if agreement(best) == agreement(other):
            raise UserError(f"{near}: {name[:200]!r} can be {best} or {other}; name the folder of one of them")
        return best

    def relative(self, file: Path) -> PurePosixPath:
        """A file's path below the root."""
        return PurePosixPath(file.relative_to(self.root).as_posix())


def _listed(root: Path) -> Iterator[Path]:
    """The files below a folder, but for those of systems; links are followed, each folder once."""
    seen, count = set(), 0

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename or root}: cannot be read ({reason(error)})")

    for folder, folders, names in os.walk(root, followlinks=True, onerror=fail):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below = Path(folder)
        folders[:] = [name for name in folders if not is_system_file(PurePosixPath(name))]
        for name in names:
            count += 1
            if count > MAX_FILES:
                raise UserError(f"{root}: more than {MAX_FILES:,} files; name the folder of one data set")
            if not is_system_file(PurePosixPath(name)):
                yield below / name


def _local(name: str) -> str:
    """The path in a URL or a path of Windows, with slashes."""
    if "://" in name or name.startswith("/data/"):
        url = urlsplit(name)
        name = unquote(url.query.removeprefix("d=") if url.path.endswith("/local-files/") else url.path)
    return name.replace("\\", "/")


@contextmanager
def reading(file: Path, tool: str) -> Iterator[None]:
    """Report what is wrong with an annotation file as one line.

    Raises:
        UserError: the block raises what damaged content leads to.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else reason(error)
        raise UserError(f"{file}: not {tool} as the tool writes it ({what})") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as {tool} ({reason(error)})") from None


def read_json(file: Path) -> Any:
    """Read a JSON file of at most `MAX_BYTES`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, too large, or nested too deeply.
    """
    return parse_json(read_text(file, MAX_BYTES))


def read_xml(file: Path) -> ElementTree.Element:
    """Read an XML file of at most `MAX_BYTES`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not XML, too large, or has a DTD, which could define entities that grow without end.
    """
    text = read_text(file, MAX_BYTES)
    # Without a DTD there are no entities but XML's own five: nothing to expand or fetch. No label tool writes one.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it has a DTD, which no label tool writes")
    try:
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None


def first_json(tree: Tree, fits: Callable[[Any], bool]) -> list[Path]:
    """The JSON files of a tree, if the first one that can be read fits.

    Args:
        tree: the files.
        fits: looks at the content.
    """
    files = tree.with_suffix(".json")
    for file in files[:8]:  # others may lie there: settings of an editor, statistics
        try:
            if fits(read_json(file)):
                return files
        except (OSError, ValueError, TypeError, AttributeError):
            if tree.only:
                raise UserError(f"{file}: is no JSON that can be read") from None
    return []
