"""A recipe for an export, with what a person needs to check it; and the parts that all exports share."""

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from linknet_fastai.config.layouts import FIELD
from linknet_fastai.config.size import SMALLEST_SIDE
from linknet_fastai.core.text import printable
from linknet_fastai.labeling.decide import BACKGROUND_NAMES, Unlabeled, class_name, decide_unlabeled
from linknet_fastai.labeling.groups import propose_split
from linknet_fastai.labeling.shapes import LabeledImage
from linknet_fastai.labeling.tree import Tree

LONGEST_SIDE = 768  # of the size to train at that is proposed
NO_LABEL = ""  # among labels: what nobody labeled
Splits = Mapping[str, str | Sequence[str]]  # of each split its folder, or its frames

Ask = Callable[[str], Unlabeled]


@dataclass(frozen=True)
class ClassRow:
    """A class as it was found.

    Attributes:
        name: in the recipe.
        id: in the recipe.
        pixels: in all frames.
        share: of the pixels of all classes.
        frames: in how many frames it is.
        of_split: its pixels by split.
    """

    name: str
    id: int
    pixels: int
    share: float
    frames: int
    of_split: dict[str, int]


@dataclass
class Proposal:
    """A recipe that can be written, with what was decided.

    Attributes:
        name: the name of the recipe.
        tool: the tool or format that was recognized.
        folder: the data folder of the recipe.
        table: the recipe, as in its file.
        lists: the frames of each list file, by its name.
        maps: the images whose label maps have to be drawn, each with the label map's path below the recipe's folder.
        number_of: the id of each label, for drawing.
        classes: the classes.
        decisions: what was decided and why, as pairs.
        notes: what a person should look at.
        labels: for each image, the pixels of each label.
    """

    name: str
    tool: str
    folder: Path
    table: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    maps: list[tuple[LabeledImage, PurePosixPath]] = field(default_factory=list)
    number_of: dict[str, int] = field(default_factory=dict)
    classes: list[ClassRow] = field(default_factory=list)
    decisions: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labels: dict[Path, Counter[str]] = field(default_factory=dict)

    @property
    def total(self) -> Counter[str]:
        """The pixels of each label in all images."""
        return sum(self.labels.values(), Counter())

    def note(self, what: str, things: Iterable[object]) -> None:
        """Add a note about things, if there are any: how many, and the first."""
        if listed := list(things):
            self.notes.append(f"{what}: {len(listed)}, first {listed[0]}")

    def decide_background(
        self, labels: Sequence[str], name: str, option: Unlabeled | None, ask: Ask | None
    ) -> str | None:
        """Decide what the pixels without a label are.

        Args:
            labels: the classes that were labeled.
            name: the label of these pixels in `labels` of the images.
            option: what the user chose.
            ask: asks the user; None where nobody can be asked.

        Returns:
            The class that they belong to, which may be a new one; None if they are void.

        Raises:
            UsageError: the user has to choose.
        """
        total = self.total
        share = total[name] / max(total.total(), 1)
        if not total[name]:
            self.decisions.append(("unlabeled", "no pixel"))
            return None
        choice, why = decide_unlabeled(share, labels, option, ask)
        self.decisions.append(("unlabeled", f"{share:.1%} of the pixels: {why}"))
        if choice == "void":
            return None
        return next((label for label in labels if label.lower() in BACKGROUND_NAMES), "background")

    def split_by(self, tree: Tree, images: str, splits: Splits, how: str) -> dict[Path, str]:
        """Describe the splits in the recipe, and propose them if there are none.

        Args:
            tree: the files.
            images: the pattern of the images.
            splits: of each split its folder or its frames; none if they are to be proposed.
            how: where these splits come from.

        Returns:
            The split of each image.
        """
        paths = {file: tree.relative(file) for file in self.labels}
        folders = {name: folder for name, folder in splits.items() if isinstance(folder, str)}
        of_image: dict[Path, str] = {}
        if folders:
            for name, folder in folders.items():
                matching = FIELD.sub("*", images.replace("{split}", glob.escape(folder)))
                of_image |= {file: name for file, path in paths.items() if fnmatchcase(str(path), matching)}
            self.table["splits"] = {name: {"folder": folder} for name, folder in folders.items()}
        else:
            frames: dict[str, list[PurePosixPath]] = {}
            recipe: dict[str, Any] = {}
            if splits:
                by_name = {path.stem: path for path in paths.values()}
                by_name |= {str(path): path for path in paths.values()}
                for name, entries in splits.items():
                    found = (by_name.get(entry) or by_name.get(entry.rsplit("/", 1)[-1]) for entry in entries)
                    frames[name] = [path for path in found if path is not None]
            else:
                frames, how, recipe = propose_split(list(paths.values()), images)
            for name, listed in frames.items():
                of_image |= {tree.root / path: name for path in listed}
            if recipe:
                self.table |= recipe
            else:
                self.lists |= {f"{self.name}-{name}.txt": list(map(str, listed)) for name, listed in frames.items()}
                self.table["splits"] = {name: {"list": f"{self.name}-{name}.txt"} for name in frames}
        names = list(self.table["splits"])
        counts = Counter(of_image.values())
        self.decisions.append(("split", f"{', '.join(f'{name} {counts[name]}' for name in names)}: {how}"))
        if "train" not in names or "val" not in names:
            training = {"train_on": "train" if "train" in names else names[0]}
            training["validate_on"] = next((n for n in ("val", "test") if n in names), names[-1])
            self.table["training"] |= training
            self.notes.append(f"validation is on {training['validate_on']}, as there is no other split for it")
        return of_image

    def add_rows(self, ids: Mapping[str, int], also: Mapping[str, str], of_image: Mapping[Path, str]) -> None:
        """Count classes.

        Args:
            ids: the id of each class, by its label.
            also: labels whose pixels belong to the class of another label.
            of_image: the split of each image.
        """
        pixels: dict[str, Counter[str]] = {label: Counter() for label in ids}
        frames: Counter[str] = Counter()
        for image, counted in self.labels.items():
            here: Counter[str] = Counter()
            for label, count in counted.items():
                if (target := also.get(label, label)) in ids and count:
                    here[target] += count
            for label, count in here.items():
                pixels[label][of_image.get(image, "")] += count
                frames[label] += 1
        total = sum(each.total() for each in pixels.values())
        for label, id_ in ids.items():
            counted = pixels[label]
            share = counted.total() / max(total, 1)
            of_split = {split: counted[split] for split in self.table["splits"]}
            self.classes.append(ClassRow(class_name(label), id_, counted.total(), share, frames[label], of_split))
        for split in self.table["splits"]:
            absent = [row.name for row in self.classes if not row.of_split.get(split)]
            if absent:
                self.notes.append(f"{split}: no pixel of {', '.join(absent)}")


def recipe_head(proposal: Proposal, sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    """The keys of a recipe that do not depend on its classes.

    Args:
        proposal: names the tool and the folder.
        sizes: how many frames have which (width, height).
    """
    width, height = sizes.most_common(1)[0][0]
    scale = min(1, LONGEST_SIDE / max(width, height))
    size = "x".join(str(max(round(side * scale), SMALLEST_SIDE)) for side in (width, height))
    return {
        "name": proposal.name,
        "title": proposal.name,
        "source": f"the folder {printable(proposal.folder.resolve().name)} ({proposal.tool})",
        "training": {"size": size},
    }


def files_decided(proposal: Proposal, pairs: int, without: Sequence[Path], missing: Sequence[object]) -> None:
    """Say how many images have labels, and what has no partner."""
    text = f"{pairs} images with labels"
    if without:
        text += f", {len(without)} without"
    if missing:
        text += f", {len(missing)} labels without an image"
    proposal.decisions.append(("files", text))
    proposal.note("images without labels, left out", without)
    proposal.note("labels without an image, left out", missing)
