"""What the readers return: an export of drawn regions, or a folder of label maps."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from linknet_fastai.config.classes import Color
from linknet_fastai.config.layouts import Layout
from linknet_fastai.labeling.shapes import LabeledImage, Region


@dataclass
class Export:
    """Images and the regions that were drawn on them.

    Attributes:
        tool: the name of the tool or format.
        evidence: how it was recognized.
        order: in which order the tool draws regions; later ones cover earlier ones.
        images: the labeled images.
        classes: the labels that the tool lists, in its order, with their colors.
        splits: the split of an image, where the tool has splits.
        missing: the names of images that are not there, each with the file that names it.
        skipped: how many of which things were left out.
    """

    tool: str
    evidence: str
    order: str
    images: list[LabeledImage] = field(default_factory=list)
    classes: dict[str, Color | None] = field(default_factory=dict)
    splits: dict[Path, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        image: Path | None,
        name: str,
        regions: list[Region],
        size: tuple[int, int] | None,
        origin: Path,
        split: str | None = None,
    ) -> None:
        """Add an image; without a file, `image` None, only its name."""
        if image is None:
            self.missing.append(f"{name[:200]} (in {origin})")
            return
        self.images.append(LabeledImage(image, regions, size, origin))
        if split:
            self.splits[image] = split


@dataclass
class MaskFolder:
    """Images and label maps that are there already.

    Attributes:
        tool: the name of the tool or format.
        evidence: how it was recognized.
        layout: the patterns of the files, without a mapping.
        splits: the folders or the lists of splits, by their names in the recipe; none if they are to be proposed.
        names: the label of each raw value, or of each color.
        by_color: whether label maps are in color, None if that is to be found out.
        legend: the file that `names` comes from.
        unlabeled: the label of the pixels that nobody labeled, as tools name it.
        rows: every name in the legend, in its order; of colors `names` has each color once.
        notes: what a person should look at.
    """

    tool: str
    evidence: str
    layout: Layout
    splits: dict[str, str | list[str]] = field(default_factory=dict)
    names: dict[int, str] | dict[Color, str] = field(default_factory=dict)
    by_color: bool | None = None
    legend: Path | None = None
    unlabeled: str | None = None
    rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
