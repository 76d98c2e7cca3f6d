"""A recipe's data on disk: where it is or comes from, which layout it is in, the frames of a split."""

import glob
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from linknet_fastai.config.recipe import FIELD, Layout, Recipe, Split, load_recipe, read_stems
from linknet_fastai.config.settings import format_size
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.fetch import fetch
from linknet_fastai.data.labels import LabelReader

LONGEST_NAME = 255  # of a file: what a list has beyond that, no message says again


class EmptySplitError(UserError):
    """A split of the recipe has no frames in this data folder."""


@dataclass(frozen=True)
class Frame:
    """An image and its label map."""

    image: Path
    label: Path
    stem: str


@dataclass(frozen=True)
class Dataset:
    """A recipe, the folder its data lies in, and the layout found there."""

    recipe: Recipe
    folder: Path
    layout: Layout

    @property
    def read_label(self) -> LabelReader:
        """Reads this data set's label maps."""
        return LabelReader(self.recipe, self.layout)

    def name_of(self, frame: Frame) -> str:
        """The path of a frame's image below the data folder: no two have the same, as stems may."""
        return frame.image.relative_to(self.folder).as_posix()

    def frames(self, selection: str) -> list[Frame]:
        """The frames of a split, or those that a list names.

        Args:
            selection: the name of a split, or the path of a text file with a stem a line.

        Raises:
            UsageError: there is neither such a split nor such a file, or a listed stem is not there.
            EmptySplitError: the split has no frames here.
            UserError: a frame is missing, or its label map is.
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

    def note(self, selection: str) -> str | None:
        """What to say where a split's folder does not hold the published frames, so that scores do not compare."""
        split = self.recipe.splits.get(selection)
        if split is None or not self.layout.by_folder:
            return None
        if split.frames:
            here = len(self._split_frames(selection, split))
            if here == split.frames:
                return None
            return f"{selection}: {here} frames here, the published split has {split.frames}; scores do not compare"
        if not split.stems:
            return None
        here = {frame.stem for frame in self._split_frames(selection, split)}
        if here == set(split.stems):
            return None
        published = len(here & set(split.stems))
        return (
            f"{selection}: {len(here)} frames here, {published} of them among the {len(split.stems)} of the "
            "published split; scores do not compare with published ones"
        )

    def _split_folder(self, name: str) -> str:
        split = self.recipe.splits.get(name)
        return (split and split.folder) or name

    def _split_frames(self, name: str, split: Split) -> list[Frame]:
        if self.layout.by_folder:
            return match_frames(self.folder, self.layout, self._split_folder(name))
        frames = _by_stem(match_frames(self.folder, self.layout))
        if split.stems:
            absent = [stem for stem in split.stems if stem not in frames]
            if len(absent) == len(split.stems):
                return []
            if absent:
                raise UserError(
                    f"{self.folder}: {len(absent)} of the {len(split.stems)} frames of split {name!r} are missing "
                    f"(first {self.layout.images.replace('{stem}', absent[0][:LONGEST_NAME])})"
                )
            return [frames[stem] for stem in split.stems]
        return [frames[stem] for stem in self._fraction_stems(name, list(frames))]

    def _fraction_stems(self, name: str, stems: list[str]) -> list[str]:
        listed = {stem for split in self.recipe.splits.values() for stem in split.stems}
        stems = [stem for stem in stems if stem not in listed]
        # Ordered by digest: the same frames for everyone, and a frame more moves few others.
        shuffled = sorted(stems, key=lambda stem: hashlib.sha256(os.fsencode(stem)).digest())
        begin = 0.0
        for other, split in self.recipe.splits.items():
            end = begin + (split.fraction or 0)
            if other == name:
                return sorted(shuffled[round(begin * len(stems)) : round(end * len(stems))])
            begin = end
        return []

    def _listed_frames(self, file: Path) -> list[Frame]:
        # Two splits may be of one folder: where nobody has test frames, val stands for them.
        folders = {self._split_folder(name): None for name in self.recipe.splits} if self.layout.by_folder else [""]
        frames = _by_stem([f for folder in folders for f in match_frames(self.folder, self.layout, folder)])
        stems = read_stems(file)
        if absent := [stem for stem in stems if stem not in frames]:
            first = absent[0][:LONGEST_NAME]
            raise UsageError(f"{file}: no frame {first!r} in {self.folder} ({len(absent)} such lines)")
        return [frames[stem] for stem in dict.fromkeys(stems)]


def _by_stem(frames: list[Frame]) -> dict[str, Frame]:
    """Frames by stem; a list or a fraction cannot tell two frames of one stem apart."""
    by_stem: dict[str, Frame] = {}
    for frame in frames:
        if (other := by_stem.setdefault(frame.stem, frame)) is not frame:
            raise UserError(f"{other.image} and {frame.image}: two frames of one stem; rename one")
    return by_stem


def match_frames(folder: Path, layout: Layout, split: str = "") -> list[Frame]:
    """All images that match a layout's pattern, in the order of their names, with the label maps they should have."""
    expression, seen = "", {"split"}
    for place, part in enumerate(FIELD.split(layout.images)):  # text and the names of fields take turns
        if place % 2 == 0:
            expression += re.escape(part).replace(r"\*", "[^/]*")
        elif part == "split":
            expression += re.escape(split)
        else:
            expression += f"(?P={part})" if part in seen else f"(?P<{part}>[^/]+)"
            seen.add(part)
    matcher = re.compile(expression)
    frames = []
    for path in sorted(folder.glob(_glob(layout.images, split))):
        match = matcher.fullmatch(path.relative_to(folder).as_posix())
        if match and not os.path.isdir(path):  # what else is no image is said when it is read
            values = {**match.groupdict(), "split": split}
            label = FIELD.sub(lambda field, values=values: values[field[1]], layout.labels)
            frames.append(Frame(path, folder / label, match["stem"]))
    return frames


def _glob(pattern: str, split: str) -> str:
    """A layout's pattern as a glob: of all that stands there and in the split's name, '*' alone is special."""
    texts = FIELD.split(pattern)
    texts[::2] = [glob.escape(text).replace("[*]", "*") for text in texts[::2]]
    texts[1::2] = [glob.escape(split) if field == "split" else "*" for field in texts[1::2]]
    return "".join(texts)


def size_mismatch(frame: Frame, label_size: tuple[int, int], image_size: tuple[int, int]) -> str:
    """What to say of a frame whose label map has another size; sizes as (width, height)."""
    return (
        f"{frame.label}: this label map is {format_size(label_size)}, its image {frame.image} "
        f"{format_size(image_size)}; both must have one size"
    )


def open_dataset(
    recipe: Recipe | str | Path, folder: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """Find a recipe's data.

    Args:
        recipe: a recipe, or the name or path of one.
        folder: the data folder, or one that holds it; None fetches or draws the data, where the recipe says how.
        progress: told how far the drawing is.

    Raises:
        UsageError: no folder was given and the recipe cannot fetch.
        UserError: the folder is missing, holds none of the recipe's layouts, or the download failed.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    root = Path(folder) if folder is not None else fetch(recipe, progress)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such data folder; {recipe.name}: {recipe.source}")
    try:
        for candidate in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
            for layout in recipe.layouts:
                if _holds(candidate, layout, recipe):
                    return Dataset(recipe, candidate, layout)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be looked into ({reason(error)})") from None
    looked = "; ".join(f"{lay.images} with {lay.labels}" for lay in recipe.layouts)
    raise UserError(
        f"{root}: no {recipe.name} data here; looked for {looked}{_half_there(root, recipe)}. "
        f"Where it comes from: {recipe.source}"
    )


def _half_there(folder: Path, recipe: Recipe) -> str:
    """What can be said of a folder that holds a part of a layout, or archives that are still packed."""
    for layout in recipe.layouts:
        images, labels = (_any_match(folder, pattern, layout, recipe) for pattern in (layout.images, layout.labels))
        if images != labels:
            return f". Only the {'images are' if images else 'label maps are'} there"
    packed = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".zip", ".tar", ".tgz", ".gz")]
    return f". Still packed: {', '.join(packed[:3])}" if packed else ""


def _holds(folder: Path, layout: Layout, recipe: Recipe) -> bool:
    """Whether an image and a label map of this layout are there."""
    return all(_any_match(folder, pattern, layout, recipe) for pattern in (layout.images, layout.labels))


def _any_match(folder: Path, pattern: str, layout: Layout, recipe: Recipe) -> bool:
    names = [split.folder or name for name, split in recipe.splits.items()] if layout.by_folder else [""]
    return any(next(folder.glob(_glob(pattern, name)), None) for name in names)
