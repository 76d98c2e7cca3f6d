"""The files of a data folder that match a layout's patterns, paired to frames; and frames that a list names."""

import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from unicodedata import normalize

from linknet_fastai.config.groups import Group, group_of
from linknet_fastai.config.layouts import FIELD, Layout
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.files import is_system_file
from linknet_fastai.core.images import IMAGE_SUFFIXES

SAME_ENDINGS = {ending: group for group in ((".jpg", ".jpeg"), (".tif", ".tiff")) for ending in group}


@dataclass(frozen=True)
class Frame:
    """The files of an image and of its label map.

    Attributes:
        image: the image.
        label: its label map.
        stem: what `{stem}` matches in the recipe's patterns, in Unicode's form NFC; lists name frames by it.
        group: what the recipe says that the frame belongs to, as a drive; None for a frame on its own.
        part: of a recipe with `parts`, the index of the one that the frame belongs to.
    """

    image: Path
    label: Path
    stem: str
    group: str | None = None
    part: int = 0


@dataclass(frozen=True)
class Match:
    """The files that match a layout's patterns.

    Attributes:
        frames: images with a label map, sorted by path.
        unlabeled: images without one; `label` is where it would be.
        unused: label maps without an image.
        other_endings: images that match but for the ending of their names, of which no frame has the name.
    """

    frames: list[Frame]
    unlabeled: list[Frame]
    unused: list[Path]
    other_endings: list[Path]

    def notes(self, layout: Layout) -> list[str]:
        """A line for each kind of file that is left out."""
        any_ending = PurePosixPath(layout.images).with_suffix(".*")
        kinds = {
            "images without a label map": [frame.image for frame in self.unlabeled],
            "label maps without an image": self.unused,
            f'images with another ending than {layout.images} (to use them: images = "{any_ending}")': (
                self.other_endings
            ),
        }
        return [f"{what}, left out: {len(files)}, first {files[0]}" for what, files in kinds.items() if files]


def match_frames(folder: Path, layout: Layout, split: str = "", group: Group | None = None) -> Match:
    """Find the images and label maps of a layout.

    The ending of a name matches in capitals and small letters, `.jpg` also as `.jpeg` and `.tif` as `.tiff`. All
    names match in any Unicode form. Files that systems leave behind are skipped, and so are, in a folder of both,
    label maps that match the images' pattern.

    Args:
        folder: the data folder.
        layout: the patterns.
        split: what replaces `{split}` in them.
        group: the recipe's.

    Raises:
        UserError: there are two images of one name, with other endings.
    """
    known: dict[str, Path] = {}
    label_folder = layout.label_folder(folder)
    for path, text, _ in matching_files(label_folder, layout.labels, split):
        known.setdefault(_same_ending(text), path)
        known[text] = path  # of x.png and x.PNG the one that the recipe names
    candidates: list[tuple[str, Frame]] = []
    endings = _endings(layout.images)
    others: dict[str, Path] = {}
    for path, text, fields in sorted(matching_files(folder, layout.images, split, other_endings=True)):
        if not _has_ending(text, endings):
            others[_without_ending(text)] = path
        elif not os.path.isdir(path):  # other files that are no images are reported when they are read
            label = normalize("NFC", layout.labels.format(split=split, **fields))
            found = known.get(label) or known.get(_same_ending(label)) or label_folder / label
            frame = Frame(path, found, fields["stem"], group_of(group, fields))
            candidates.append((_without_ending(text), frame))
    label_maps = {frame.label for _, frame in candidates}
    images: dict[str, Frame] = {}
    for name, frame in candidates:
        if frame.image not in label_maps and (other := images.setdefault(name, frame)) is not frame:
            raise UserError(
                f"{other.image} and {frame.image}: two images of one frame; delete one, or name a single ending in "
                "the recipe's images"
            )
    labels = set(known.values())
    if len(FIELD.sub("", layout.images)) > len(FIELD.sub("", layout.labels)):
        labels -= {frame.image for _, frame in candidates}  # the labels' pattern matches all images too
    frames = [frame for frame in images.values() if frame.label in labels or os.path.isfile(frame.label)]
    used = {file for frame in frames for file in (frame.image, frame.label)}
    return Match(
        frames,
        [frame for frame in images.values() if frame.image not in used | labels],
        sorted(labels - used),
        [path for name, path in others.items() if name not in images and path not in labels],
    )


def matching_files(
    folder: Path, pattern: str, split: str, other_endings: bool = False
) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """The files and folders that match a pattern of a layout.

    Args:
        folder: the data folder.
        pattern: a layout's `images` or `labels`.
        split: what replaces `{split}` in it.
        other_endings: whether images with another ending than the pattern's match as well.

    Yields:
        The path, the path relative to the folder in Unicode's form NFC, and the text of each field but `split`.
    """
    suffix = PurePosixPath(pattern).suffix
    ends = bool(suffix) and (suffix == ".*" or not re.search(r"[*{]", suffix))
    body = pattern.removesuffix(suffix) if ends else pattern
    expression = re.escape(body).replace(r"\*", "[^/]*")
    for field in set(FIELD.findall(body)) - {"split"}:
        in_braces = re.escape(f"{{{field}}}")
        # Where a field occurs twice, the first place is a group, and the second matches the same text.
        expression = expression.replace(in_braces, f"(?P<{field}>[^/]+)", 1).replace(in_braces, f"(?P={field})")
    expression = expression.replace(re.escape("{split}"), re.escape(split))
    matcher = re.compile(expression + r"\.[^/.]*" * ends)
    parts, above = pattern.replace("{split}", split).split("/"), len(folder.parts)
    endings = (*_endings(pattern), *(IMAGE_SUFFIXES if other_endings else ()))
    for path in folder.glob(_glob(body, split) + ".*" * ends):
        text = normalize("NFC", "/".join(path.parts[above:]))
        # A hidden folder that the recipe names is no system's.
        found = [part for part, literal in zip(text.split("/"), parts, strict=True) if part != literal]
        if _has_ending(text, endings) and (match := matcher.fullmatch(text)) and not is_system_file(PurePath(*found)):
            yield path, text, match.groupdict()


def _glob(pattern: str, split: str) -> str:
    """A layout's pattern as a glob, in which only `*`, fields and what has several Unicode forms match anything."""
    with_fields = glob.escape(pattern).replace("[*]", "*")
    filled = FIELD.sub(lambda field: glob.escape(split) if field[1] == "split" else "*", with_fields)
    return re.sub(r"(?:[^\x00-\x7f]|\*)+", "*", filled)


def _endings(pattern: str) -> Sequence[str]:
    """The endings that match a pattern: those of images where it leaves them open, any where it has none."""
    ending = PurePosixPath(pattern).suffix.lower()
    return IMAGE_SUFFIXES if re.search(r"[*{]", ending) else SAME_ENDINGS.get(ending, (ending,))


def _has_ending(name: str, endings: Sequence[str]) -> bool:
    return endings[0] == "" or os.path.splitext(name)[1].lower() in endings


def _same_ending(name: str) -> str:
    """A name with the ending in small letters, and one ending for those of the same meaning."""
    start, ending = os.path.splitext(name)
    return start + SAME_ENDINGS.get(ending.lower(), (ending.lower(),))[0]


def _without_ending(name: str) -> str:
    """A name without the ending of an image."""
    start, ending = os.path.splitext(name)
    return start if ending.lower() in IMAGE_SUFFIXES else name


def find_listed(frames: Iterable[Frame], listed: Sequence[str]) -> tuple[list[Frame], list[str]]:
    """The frames that a list names.

    A frame is named by its stem or by its image. Folders before the name are compared only if a name occurs twice, in
    the data or in the list: with a folder of the data, it is the frame in this folder or none, however many others
    have its name.

    Args:
        frames: all frames.
        listed: what `read_stems` returned.

    Returns:
        The frames, each once, in the order of the list; and the entries that name no frame.

    Raises:
        UserError: an entry names two frames.
    """
    by_name: dict[str, list[Frame]] = defaultdict(list)
    ends: dict[tuple[str, ...], set[Path]] = defaultdict(set)  # the folders of images, by the end of their path
    for frame in frames:
        for name in {frame.stem, normalize("NFC", frame.image.stem)}:
            by_name[name].append(frame)
        if frame.image.parent not in ends[()]:
            folder = PurePath(normalize("NFC", str(frame.image.parent))).parts
            for begin in range(len(folder) + 1):
                ends[folder[begin:]].add(frame.image.parent)
    paths = [PurePosixPath(entry).parts or (entry,) for entry in listed]  # "." has none, as `find .` writes it
    uses = Counter(path[-1] for path in paths)
    numbered_alike = any(len(named) > 1 for named in by_name.values())
    found: dict[Frame, None] = {}
    absent = []
    for entry, (*folders, name) in zip(listed, paths, strict=True):
        named = by_name.get(name, [])
        if folders and (numbered_alike or uses[name] > 1):
            agreeing = next(
                end for begin in range(len(folders) + 1) if (end := tuple(folders[begin:])) in ends or not end
            )
            if agreeing or max(uses[name], len(named)) > 1:
                named = [frame for frame in named if agreeing and frame.image.parent in ends[agreeing]]
        if len(named) > 1:
            raise UserError(f"{named[0].image} and {named[1].image}: {entry!r} names both; list more of their paths")
        if named:
            found[named[0]] = None
        else:
            absent.append(entry)
    return list(found), absent
