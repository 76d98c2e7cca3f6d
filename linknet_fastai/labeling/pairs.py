"""Images and label maps that are there already, paired by their names, and the patterns of a recipe that say so."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from linknet_fastai.config.layouts import Layout
from linknet_fastai.core.errors import UserError, explain
from linknet_fastai.core.images import opened_image
from linknet_fastai.core.samples import check_lossless
from linknet_fastai.labeling.tree import Tree

# In names of folders and files, in small letters.
_MASKS = (
    "mask masks label labels labelids labeltrainids gt gts gtfine groundtruth truth annot annots annotation "
    "annotations anno ann seg segs segm segmap segmentation segmentations segmentationclass target targets semantic "
    "semantics labeled labelled matte mattes manual manual1 indexmask indexmasks"
)
_IMAGES = (
    "image images img imgs im rgb frame frames photo photos picture pictures input inputs raw leftimg8bit jpegimages "
    "original originals sat camera"
)
_PICTURES = (
    "color colors colour instance instances instanceids instanceid object objects vis visual overlay overlays "
    "polygons depth"
)
MASK_WORDS, IMAGE_WORDS, PICTURES = set(_MASKS.split()), set(_IMAGES.split()), set(_PICTURES.split())
LETTERS = {"l", "p"}  # after the name of a label map of CamVid: x_L.png, x_P.png
SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
MOST_VALUES = 64  # of a label map: a photo has more
SAMPLED = 3  # files of a folder that are looked into


@dataclass(frozen=True)
class Named:
    """An image file by the parts of its name.

    Attributes:
        file: the file.
        parts: the folders below the root.
        stem: the name without its ending.
        core: what it has in common with its partner.
    """

    file: Path
    parts: tuple[str, ...]
    stem: str
    core: str

    @property
    def affixes(self) -> tuple[str, str, str]:
        """What is before and after the core, and the ending."""
        before, _, after = self.stem.partition(self.core)
        return before, after, self.file.suffix


@dataclass(frozen=True)
class Pattern:
    """Patterns for pairs of files.

    Attributes:
        images: as in a recipe.
        labels: as in a recipe.
        split_folders: the folder by the name of the split, if there is `{split}`.
        left_out: a line for each group of files that they do not match.
    """

    images: str
    labels: str
    split_folders: dict[str, str]
    left_out: list[str]


def find_pairs(tree: Tree) -> list[tuple[Named, Named]]:
    """Pair images and label maps by their names.

    Raises:
        UserError: there are no images, no label maps, or no pair.
    """
    folders: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for file in tree.images:
        folders[tree.relative(file).parts[:-1]].append(file)
    images: list[tuple[Path, tuple[str, ...]]] = []
    masks: list[tuple[Path, tuple[str, ...]]] = []
    for parts, files in folders.items():
        of_folder = _masks_in(parts, files)
        masks += [(file, parts) for file in files if file in of_folder]
        images += [(file, parts) for file in files if file not in of_folder]
    if not images or not masks:
        what = "no images" if masks else f"no label maps among {len(images)} images" if images else "no images"
        raise UserError(
            f"{tree.root}: {what}; looked for label maps by names (as in x_mask.png, labels/x.png) and by content "
            "(few values or colors, lossless)"
        )
    best: list[tuple[Named, Named]] = []
    for strip_image, strip_mask in product((False, True), repeat=2):  # as few changes of names as give the most pairs
        pairs = _paired(images, masks, strip_image, strip_mask)
        if len(pairs) > len(best):
            best = pairs
    if not best:
        raise UserError(
            f"{tree.root}: no image has a label map of its name: as in {tree.relative(images[0][0])} and "
            f"{tree.relative(masks[0][0])}; name both alike, but for an ending such as _mask"
        )
    return best


def _masks_in(parts: tuple[str, ...], files: list[Path]) -> set[Path]:
    """Which files of a folder are label maps."""
    for part in reversed(parts):
        words = _words(part)
        if words & PICTURES and not words & MASK_WORDS:
            return set()
        if words & MASK_WORDS or re.search(r"(?:annot|annotations?|labels?|masks?)$", part.lower()):
            return set(files)
        if words & IMAGE_WORDS:
            return set()
    stems = defaultdict(list)
    for file in files:
        stems[file.stem].append(file)
    beside = {
        f for f in files if (core := _stripped(f.stem, MASK_WORDS | LETTERS)) != f.stem and _other(core, stems, f)
    }
    if beside:
        return beside
    photos = {file.stem for file in files if file.suffix.lower() in (".jpg", ".jpeg")}
    beside = {
        file for file in files if file.stem in photos and file.suffix.lower() in (".png", ".bmp", ".tif", ".tiff")
    }
    if beside:
        return beside
    return set(files) if all(map(_has_few_values, files[:SAMPLED])) else set()


def _other(core: str, stems: dict[str, list[Path]], file: Path) -> bool:
    """Whether another file in the folder has the name, with or without a word for images."""
    return core in stems or any(_stripped(stem, IMAGE_WORDS) == core for stem in stems if stem != file.stem)


def _has_few_values(file: Path) -> bool:
    try:
        with opened_image(file, "this image") as image:
            check_lossless(file, image)
            if image.mode.startswith(("I", "F")):  # Pillow counts the values of bytes alone
                return len(np.unique(np.asarray(image))) <= MOST_VALUES
            return image.mode == "P" or image.getcolors(MOST_VALUES) is not None
    except UserError:
        return False


def _paired(
    images: Sequence[tuple[Path, tuple[str, ...]]],
    masks: Sequence[tuple[Path, tuple[str, ...]]],
    strip_image: bool,
    strip_mask: bool,
) -> list[tuple[Named, Named]]:
    by_key: dict[tuple[tuple[str, ...], str], list[Named]] = defaultdict(list)
    by_core: dict[str, list[Named]] = defaultdict(list)
    for file, parts in images:
        core = _stripped(file.stem, IMAGE_WORDS) if strip_image else file.stem
        named = Named(file, parts, file.stem, core)
        by_key[_key(parts), core].append(named)
        by_core[core].append(named)
    found: dict[Path, list[tuple[Named, Named]]] = defaultdict(list)
    for file, parts in masks:
        core = _stripped(file.stem, MASK_WORDS | LETTERS | PICTURES) if strip_mask else file.stem
        partners = by_key.get((_key(parts), core)) or by_core.get(core, [])
        if len(partners) == 1:
            found[partners[0].file].append((partners[0], Named(file, parts, file.stem, core)))
    return [min(candidates, key=lambda pair: _is_picture(pair[1])) for candidates in found.values()]


def _is_picture(mask: Named) -> tuple[bool, bool, str]:
    """Sorts label maps of one image: those with ids first, then those in color, then those of instances."""
    words = _words(mask.stem).union(*map(_words, mask.parts))
    return bool(words & (PICTURES - {"color", "colors", "colour"})), bool(words & PICTURES), mask.stem


def _words(text: str) -> set[str]:
    """The words in a name, split at capitals, digits and everything else."""
    whole = re.split(r"[^a-zA-Z0-9]+", text.lower())
    return {*whole, *(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text))}


def _stripped(stem: str, words: set[str]) -> str:
    """A name without such words at its end or its beginning."""
    for _ in range(2):  # as in x_gtFine_labelIds
        end = re.fullmatch(r"(.+?)[-_. ]([a-zA-Z0-9]+)", stem)
        begin = re.fullmatch(r"([a-zA-Z]+?)[-_. ]?((?<=[-_. ]).+|\d.*)", stem)
        if end and end[2].lower() in words:
            stem = end[1]
        elif begin and begin[1].lower() in words - LETTERS:
            stem = begin[2]
    return stem


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The folders of a file without those, or those parts of them, that say whether it is an image or a label map."""
    key = []
    for part in parts:
        rest = re.sub(r"(?i)(?:annotations?|annot|labels?|masks?|images?|imgs?)$", "", part).rstrip("-_. ")
        for words in (MASK_WORDS, IMAGE_WORDS):
            rest = "" if rest.lower() in words else _stripped(rest, words)
        if rest:
            key.append(rest.lower())
    return tuple(key)


def find_pattern(pairs: Sequence[tuple[Named, Named]], root: Path) -> Pattern:
    """The patterns of a recipe that match most of the pairs.

    Raises:
        UserError: the folders of the label maps do not follow from those of the images.
    """
    kinds = Counter(_kind(*pair) for pair in pairs)
    kind, _ = kinds.most_common(1)[0]
    chosen = [pair for pair in pairs if _kind(*pair) == kind]
    left_out = [
        f"pairs named otherwise, left out: {len(pairs) - len(chosen)}, first {pair[0].file}"
        for pair in pairs
        if _kind(*pair) != kind
    ][:1]
    _, _, image_affixes, mask_affixes, mask_ending = kind
    folders = [image.parts for image, _ in chosen]
    image_pattern, fields = folder_pattern(folders)
    mask_pattern = []
    for texts in zip(*(mask.parts for _, mask in chosen), strict=True):
        mask_pattern.append(_as_template(texts, fields, root))
    endings = {image.file.suffix for image, _ in chosen}
    ending = endings.pop() if len(endings) == 1 else ".*"
    images = "/".join([*image_pattern, f"{image_affixes[0]}{{stem}}{image_affixes[1]}{ending}"])
    labels = "/".join([*mask_pattern, f"{mask_affixes[0]}{{stem}}{mask_affixes[1]}{mask_ending}"])
    return Pattern(images, labels, split_folders(fields), left_out)


def checked_layout(root: Path, name: str, images: str, labels: str) -> Layout:
    """The layout with these patterns; raises UserError where a folder has a name that no recipe can have."""
    try:
        return Layout(name=name, images=images, labels=labels)
    except ValidationError as error:
        raise UserError(
            f"{root}: {images} with {labels} cannot be written into a recipe ({explain(error)}); rename the folders"
        ) from None


def _kind(image: Named, mask: Named) -> tuple[int, int, tuple[str, str], tuple[str, str], str]:
    """What pairs must have in common to be named by one pattern: depths, affixes and the ending of label maps."""
    return len(image.parts), len(mask.parts), image.affixes[:2], mask.affixes[:2], mask.file.suffix.lower()


def folder_pattern(folders: Iterable[tuple[str, ...]]) -> tuple[list[str], dict[str, list[str]]]:
    """Folders of one depth as parts of a pattern.

    Returns:
        The parts, and for each field its value in each of the folders. The field `split` is used where the parts
        differ in the names of splits alone.

    Example:
        >>> folder_pattern([("data", "train_a"), ("data", "val_a")])
        (['data', '{split}_a'], {'split': ['train', 'val']})
    """
    pattern: list[str] = []
    fields: dict[str, list[str]] = {}
    for texts in zip(*folders, strict=True):
        if len(set(texts)) == 1:
            pattern.append(texts[0])
            continue
        before, after = _common_ends(texts)
        values = [text[len(before) : len(text) - len(after)] for text in texts]
        if "split" not in fields and all(value.lower() in SPLITS for value in values):
            name = "split"
        else:
            name, before, after, values = f"folder{len(fields) + 1}", "", "", list(texts)
        fields[name] = values
        pattern.append(f"{before}{{{name}}}{after}")
    return pattern, fields


def split_folders(fields: dict[str, list[str]]) -> dict[str, str]:
    """The folder of each split by its name in recipes."""
    found = {SPLITS[folder.lower()]: folder for folder in fields.get("split", ())}
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _common_ends(texts: Sequence[str]) -> tuple[str, str]:
    """What texts begin and end with, for the rest to be names of splits."""
    for before_length, after_length in product(range(min(map(len, texts))), repeat=2):
        first = texts[0]
        before, after = first[:before_length], first[len(first) - after_length :]
        rest = [text[before_length : len(text) - after_length] for text in texts]
        same = all(text.startswith(before) and text.endswith(after) for text in texts)
        if same and all(value.lower() in SPLITS for value in rest):
            return before, after
    return "", ""


def _as_template(texts: tuple[str, ...], fields: dict[str, list[str]], root: Path) -> str:
    """One folder of label maps as text with the fields of the images' folders."""
    if len(set(texts)) == 1:
        return texts[0]
    for name, values in fields.items():
        before, found, after = texts[0].partition(values[0])
        if found and all(text == before + value + after for text, value in zip(texts, values, strict=True)):
            return f"{before}{{{name}}}{after}"
    raise UserError(
        f"{root}: the folders of the label maps, {' and '.join(sorted(set(texts))[:2])}, do not follow from those of "
        "the images; give one of them"
    )
