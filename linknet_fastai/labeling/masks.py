"""Folders with label maps that need no drawing: CVAT's masks, Pascal VOC, Roboflow, and a plain folder of a user."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from linknet_fastai.config.classes import Color
from linknet_fastai.config.layouts import Layout
from linknet_fastai.config.recipe import read_stems
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.files import read_text
from linknet_fastai.core.images import opened_image, upright
from linknet_fastai.core.parallel import Progress, map_in_threads, usable_cores
from linknet_fastai.core.samples import check_lossless, palette_colors, read_samples
from linknet_fastai.labeling.decide import BACKGROUND_NAMES
from linknet_fastai.labeling.export import MaskFolder
from linknet_fastai.labeling.pairs import SPLITS, Pattern, checked_layout, find_pairs, find_pattern
from linknet_fastai.labeling.tree import MAX_SMALL, Tree, reading

_VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
)
VOC_CLASSES = _VOC.split()
NAME_LISTS = ("classes.txt", "codes.txt", "labels.txt", "class_names.txt", "names.txt", "obj.names")
COLOR_LISTS = ("class_dict.csv", "label_colors.txt", "labelmap.txt")
MOST_COLORS = 254


@dataclass
class Counts:
    """The raw values of label maps, or their colors.

    Attributes:
        by_color: whether they are colors.
        pixels: the pixels of each value, by label map.
        colors: the color of each value in the palettes of label maps.
    """

    by_color: bool
    pixels: dict[Path, Counter[int]] = field(default_factory=dict)
    colors: dict[int, Color] = field(default_factory=dict)

    @property
    def total(self) -> Counter[int]:
        """The pixels of each value in all label maps."""
        return sum(self.pixels.values(), Counter())


def cvat_masks(tree: Tree) -> MaskFolder | None:
    """CVAT, "Segmentation mask 1.1": labelmap.txt with the colors, and SegmentationClass/."""
    if not tree.named("labelmap.txt") or not any("SegmentationClass" in file.parts for file in tree.images):
        return None
    legend = tree.named("labelmap.txt")[0]
    names = _by_color(_color_legend(legend))
    layout, notes = _voc_layout(tree)
    lists, evidence = _voc_lists(tree), "labelmap.txt and SegmentationClass/"
    found = MaskFolder("CVAT masks", evidence, layout, lists, names, True, legend, notes=notes)
    found.unlabeled = "background" if "background" in names.values() else None
    return found


def voc(tree: Tree) -> MaskFolder | None:
    """Pascal VOC: JPEGImages/, SegmentationClass/ with VOC's palette, lists in ImageSets/Segmentation/.

    labelme and others write classes of their own in this form, and a list of their names.
    """
    if not any("SegmentationClass" in file.parts for file in tree.images):
        return None
    layout, notes = _voc_layout(tree)
    found = MaskFolder("Pascal VOC", "SegmentationClass/", layout, _voc_lists(tree), by_color=False, notes=notes)
    found.names = {255: "void"} | dict(enumerate(VOC_CLASSES))
    for legend in tree.named(*NAME_LISTS):
        if listed := _name_legend(legend, has_background=True):
            found.names, found.legend = {255: "void"} | listed, legend
            return found
    return found


def roboflow(tree: Tree) -> MaskFolder | None:
    """Roboflow, "Semantic Segmentation Masks": _classes.csv beside x.jpg and x_mask.png, in folders of splits."""
    legends = tree.named("_classes.csv")
    if not legends:
        return None
    names: dict[int, str] = {}
    for legend in legends:
        with reading(legend, "Roboflow's _classes.csv"):
            rows = list(csv.reader(read_text(legend, MAX_SMALL).splitlines()))
            named = {int(row[0]): row[1].strip() for row in rows[1:] if row}
        if any(names.get(value, name) != name for value, name in named.items()):
            raise UserError(f"{legend}: other values than in {legends[0]}")
        names |= named
    layout, pattern = _layout(tree, "roboflow")
    unlabeled = names.get(0) if names.get(0, "").lower() in ("background", "unlabeled", "unlabelled") else None
    found = MaskFolder(
        "Roboflow masks", "_classes.csv", layout, dict(pattern.split_folders), names, False, legends[0]
    )
    found.unlabeled, found.notes = unlabeled, pattern.left_out
    return found


def plain(tree: Tree) -> MaskFolder:
    """A folder with images and label maps.

    Raises:
        UserError: they are not there, or do not fit together by their names.
    """
    layout, pattern = _layout(tree, "plain")
    found = MaskFolder("images and label maps", "names and content of the files", layout, dict(pattern.split_folders))
    found.notes = pattern.left_out
    if not found.splits:
        found.splits = _lists(tree, *(f for f in tree.files if f.suffix == ".txt" and f.stem.lower() in SPLITS))
    for legend in tree.named(*COLOR_LISTS):
        if colors := _color_legend(legend):
            found.names, found.rows, found.legend = _by_color(colors), [name for _, name in colors], legend
            return found
    for legend in tree.named(*NAME_LISTS):
        if listed := _name_legend(legend):
            found.names, found.legend = listed, legend
            return found
    return found


def _layout(tree: Tree, name: str) -> tuple[Layout, Pattern]:
    """The layout of the pairs in a folder, and the pattern that it is made of."""
    pattern = find_pattern(find_pairs(tree), tree.root)
    return checked_layout(tree.root, name, pattern.images, pattern.labels), pattern


def _voc_layout(tree: Tree) -> tuple[Layout, list[str]]:
    """The layout of folders as Pascal VOC has them, and notes about what it leaves out."""
    layout, pattern = _layout(tree, "voc")
    if "SegmentationClass" not in layout.labels:
        raise UserError(f"{tree.root}: no images for SegmentationClass/; put them into JPEGImages/ beside it")
    return layout, pattern.left_out


def _voc_lists(tree: Tree) -> dict[str, str | list[str]]:
    return _lists(
        tree, *(f for f in tree.files if f.parent.name == "Segmentation" and f.stem in ("train", "val", "test"))
    )


def _lists(tree: Tree, *files: Path) -> dict[str, str | list[str]]:
    """The frames of lists of which each names images that are here; of two names for a split the first."""
    stems = {file.stem for file in tree.images}
    found: dict[str, str | list[str]] = {}
    for file in files:
        listed = read_stems(file)
        if listed and all(entry.rsplit("/", 1)[-1] in stems for entry in listed):
            found.setdefault(SPLITS[file.stem.lower()], listed)
    return found if {"train", "val"} <= set(found) else {}


def _name_legend(file: Path, has_background: bool = False) -> dict[int, str]:
    """The names in a list: a line is a name, of the value that is its place from 0, or a value and a name.

    Args:
        file: the list.
        has_background: whether 0 is background, though a list without values may begin with 1.
    """
    with reading(file, "a list of names"):
        lines = [line.strip() for line in read_text(file, MAX_SMALL).splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if lines[:1] == ["__ignore__"]:  # labelme's list begins with -1
            return {255: "void", **dict(enumerate(lines[1:]))}
        numbered = [re.fullmatch(r"(\d{1,5})[\s:,;=]+(.+)", line) for line in lines]
        if lines and all(numbered):
            return {int(match[1]): match[2].strip() for match in numbered if match}
        if has_background and lines and lines[0].lower() not in BACKGROUND_NAMES:
            lines = ["background", *lines]
        return dict(enumerate(lines))


def _by_color(rows: list[tuple[Color, str]]) -> dict[Color, str]:
    """The name of each color; of two names for one the first."""
    names: dict[Color, str] = {}
    for color, name in rows:
        names.setdefault(color, name)
    return names


def _color_legend(file: Path) -> list[tuple[Color, str]]:
    """The colors in a class_dict.csv (name,r,g,b), a label_colors.txt (r g b name) or CVAT's labelmap.txt."""
    rows: list[tuple[Color, str]] = []
    with reading(file, "a list of colors"):
        for line in read_text(file, MAX_SMALL).splitlines():
            color = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
            if line.startswith("#"):
                continue
            if match := re.match(rf"\s*{color}[\s,;:]+(\S.*)", line):
                *rgb, name = match.groups()
            elif match := re.match(rf"\s*(.+?)[\s,;:]+{color}(?:\D.*)?$", line):
                name, *rgb = match.groups()
            else:
                continue  # a heading
            red, green, blue = map(int, rgb)
            if max(red, green, blue) > 255:
                raise ValueError(f"{line[:80]!r} has a number above 255")
            rows.append(((red, green, blue), name.strip().strip('"')))
    return rows


def count_values(found: MaskFolder, masks: list[Path], progress: Progress | None = None) -> Counts:
    """Count the raw values or colors in label maps.

    Args:
        found: the folder; its `by_color` is filled in.
        masks: the label maps.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UserError: a label map cannot be read, is lossy, or has too many colors.
    """
    if found.by_color is None:
        found.by_color = any(_is_colored(mask, found.names) for mask in masks[:20])  # one may have only grays
    counts = Counts(bool(found.by_color))

    of_one_bit: set[Path] = set()

    def count(mask: Path) -> tuple[Counter[int], dict[int, Color]]:
        with opened_image(mask, "this label map") as image:
            if not counts.by_color:
                if image.mode == "1":
                    of_one_bit.add(mask)
                values = read_samples(mask, image)
                colors = dict(enumerate(palette_colors(image))) if image.mode == "P" else {}
                return _counted(values), colors
            check_lossless(mask, image)
            rgb = np.asarray(upright(image).convert("RGB")).astype(np.uint32)
            return _counted(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]), {}

    for done, (pixels, colors) in enumerate(map_in_threads(count, masks, usable_cores()), 1):
        counts.pixels[masks[done - 1]] = pixels
        counts.colors |= {value: color for value, color in colors.items() if value in pixels}
        many = len(pixels) if counts.by_color else 0
        if many > MOST_COLORS:
            raise UserError(
                f"{masks[done - 1]}: {many} colors, as if its edges were smoothed; export it without antialiasing"
            )
        if progress:
            progress("counting pixels", done, len(masks))
    others = {value for mask, pixels in counts.pixels.items() if mask not in of_one_bit for value in pixels}
    if of_one_bit and 255 in others <= {0, 255}:  # white is one class in both forms, which a recipe reads as 255
        for mask in of_one_bit:
            counts.pixels[mask] = Counter({255 * value: pixels for value, pixels in counts.pixels[mask].items()})
    return counts


def _counted(values: np.ndarray) -> Counter[int]:
    return Counter(
        {int(value): int(pixels) for value, pixels in zip(*np.unique(values, return_counts=True), strict=True)}
    )


def _is_colored(mask: Path, names: Mapping) -> bool:
    """Whether label maps are in color: with other colors than grays, or with a palette of the legend's colors."""
    with opened_image(mask, "this label map") as image:
        image = upright(image)
        if image.mode == "P":
            used = np.unique(np.asarray(image))
            colors = palette_colors(image)
            return (
                bool(names) and all(isinstance(n, tuple) for n in names) and {colors[i] for i in used} <= set(names)
            )
        pixels = np.asarray(image if image.mode in ("1", "L", "I", "I;16", "I;16B") else image.convert("RGB"))
        return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


def name_values(found: MaskFolder, counts: Counts) -> dict[int, str]:
    """The label of each raw value that occurs, colors packed into 24 bits; "void" for what is void.

    Raises:
        UserError: the legend lacks a value.
    """
    used = sorted(counts.total)
    legend: dict[int, str] = {}
    for raw, name in found.names.items():
        if isinstance(raw, int):
            legend[raw] = name
        elif counts.by_color:
            legend[raw[0] << 16 | raw[1] << 8 | raw[2]] = name
    if not legend:  # a list of colors for label maps of values: the value is the place in the list
        legend = dict(enumerate(found.rows))
    if not legend:
        return _made_up(used, counts.by_color)
    without = [value for value in used if value not in legend]
    if without == [255] and not counts.by_color:
        legend[255] = "void"
    elif without == [max(legend, default=0) + 1] and 0 in used and not counts.by_color:
        legend = {0: "background"} | {value + 1: name for value, name in legend.items()}
        found.notes.append(f"one value more than names: 0 is taken as background, and 1 as {legend[1]}")
    elif without:
        what = ", ".join(map(_shown_color, without[:5]) if counts.by_color else map(str, without[:5]))
        where = next(mask for mask, pixels in counts.pixels.items() if without[0] in pixels)
        raise UserError(f"{found.legend or where}: no name for {what} (in {where}); add it")
    return {value: legend[value] for value in used}


def _made_up(used: list[int], by_color: bool) -> dict[int, str]:
    """Names where there is no legend: class_N, background for 0 of two values and for black, void for a far 255."""
    if by_color:
        others = [value for value in used if value]
        return (
            {0: "background"} | {value: f"class_{n}" for n, value in enumerate(others, 1)}
            if 0 in used
            else {value: f"class_{n}" for n, value in enumerate(others, 1)}
        )
    if len(used) == 2 and used[0] == 0:
        return {0: "background", used[1]: "class_1"}
    gaps = np.diff(used).tolist()
    # Of classes drawn as grays for viewing, as 0, 128 and 255 or 0, 85, 170 and 255, 255 is one.
    has_void = used[-1] == 255 and (len(gaps) < 2 or gaps[-1] > 2 * max(gaps[:-1]))
    return {value: "void" if value == 255 and has_void else f"class_{value}" for value in used}


def _shown_color(value: int) -> str:
    return f"({value >> 16}, {value >> 8 & 255}, {value & 255})"


MASK_READERS: tuple[Callable[[Tree], MaskFolder | None], ...] = (roboflow, cvat_masks, voc)
