"""The data of a recipe that joins others: each part is found, split and read as its own recipe says."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from linknet_fastai.config.recipe import Recipe
from linknet_fastai.config.selection import selection_parts
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.core.text import printable
from linknet_fastai.data.dataset import Dataset, EmptySplitError
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.match import Frame


class PartsReader(LabelReader):
    """Reads the label maps of several data sets as the channels of one.

    Args:
        recipe: the recipe that joins them.
        parts: the data sets. A class that the recipe does not have is void.
    """

    def __init__(self, recipe: Recipe, parts: Sequence[Dataset]) -> None:
        self.readers = [part.read_label for part in parts]
        for part, reader in zip(parts, self.readers, strict=True):
            targets = map(recipe.class_for, part.recipe.class_names)
            channels = {i: VOID if name is None else recipe.class_names.index(name) for i, name in enumerate(targets)}
            channels[VOID] = VOID
            if {*channels.values()} == {VOID}:
                raise UsageError(
                    f"parts: no class of {part.recipe.name} ({', '.join(part.recipe.class_names)}) is one of "
                    f"{recipe.name} ({', '.join(recipe.class_names)}); say which are the same in a table [map]"
                )
            reader.raw = {raw: channels[channel] for raw, channel in reader.raw.items()}
            for color, known in reader.colors.items():
                reader.colors[color] = {channels[channel] for channel in known}

    @property
    def mapping(self) -> list[Any]:
        """What label maps are decoded by; see `LabelReader.mapping`."""
        return [reader.mapping for reader in self.readers]

    def __getstate__(self) -> dict:
        return vars(self)

    def __call__(self, path: Path) -> np.ndarray:
        """Not possible: a path does not say to which part it belongs."""
        raise TypeError("of a recipe with parts, read_label.of_frame(frame) reads the label map of a frame")

    def of_frame(self, frame: Frame, size: tuple[int, int] | None = None) -> np.ndarray:
        """Read the label map of a frame; see `LabelReader.of_frame`."""
        return self.readers[frame.part].of_frame(frame, size)


@dataclass(frozen=True)
class JoinedDataset(Dataset):
    """Several data sets as one. Paths and groups of frames begin with the name of their part's recipe.

    Attributes:
        parts: the data sets.
    """

    parts: tuple[Dataset, ...] = ()

    @property
    def read_label(self) -> LabelReader:
        """The reader of the label maps of all parts."""
        return PartsReader(self.recipe, self.parts)

    @property
    def places(self) -> dict[str, str]:
        """The layout and the folder of each part, by its name."""
        return {part.recipe.name: place for part in self.parts for place in part.places.values()}

    def relative_path(self, frame: Frame) -> str:
        """The path of a frame's image relative to its part's data folder, below the part's name."""
        part = self.parts[frame.part]
        return f"{part.recipe.name}/{part.relative_path(frame)}"

    @property
    def selectable(self) -> Collection[str]:
        """The names of splits that `frames` takes: of all parts, and of each."""
        own = [f"{part.recipe.name}:{split}" for part in self.parts for split in part.recipe.splits]
        return {*self.recipe.splits, *own}

    def frames(self, selection: str) -> list[Frame]:
        """The frames of a split of all parts, of a split of one (`PART:SPLIT`), or of what `Dataset.frames` takes."""
        if selection_parts(selection, self.selectable) == [selection]:  # what is joined by + comes in its parts
            name, _, split = selection.partition(":")
            for index, part in enumerate(self.parts):
                if split and name == part.recipe.name:
                    return self._of_part(index, part.frames(split))
        return super().frames(selection)

    def notes(self, *selections: str) -> list[str]:
        """What may be wrong with splits of each part, and which splits share frames; see `Dataset.notes`."""
        chosen = {part for each in selections for part in selection_parts(each, self.selectable)}
        notes = []
        for part in self.parts:
            own = [split for split in part.recipe.splits if chosen & {split, f"{part.recipe.name}:{split}"}]
            notes += [f"{part.recipe.name}: {note}" for note in part.notes(*own)]
            for split in own:
                try:
                    part.frames(split)
                except EmptySplitError as error:
                    notes.append(f"{part.recipe.name}: {printable(str(error))}")
        shared = [self._shared_note(*pair) for pair in combinations(dict.fromkeys(selections), 2)]
        return [*notes, *(printable(note) for note in shared if note)]

    def _of_part(self, index: int, frames: Iterable[Frame]) -> list[Frame]:
        name = self.parts[index].recipe.name
        return [replace(each, part=index, group=each.group and f"{name}/{each.group}") for each in frames]

    def _all_frames(self, unlabeled: bool = False) -> list[Frame]:
        frames = (self._of_part(i, part._all_frames(unlabeled)) for i, part in enumerate(self.parts))  # noqa: SLF001
        return [frame for of_part in frames for frame in of_part]

    def _split_frames(self, name: str) -> list[Frame]:
        found: list[Frame] = []
        absent: list[EmptySplitError] = []
        for index, part in enumerate(self.parts):
            try:
                found += self._of_part(index, part.frames(name) if name in part.recipe.splits else ())
            except EmptySplitError as error:
                absent.append(error)
        if not found:
            raise absent[0]
        return found
