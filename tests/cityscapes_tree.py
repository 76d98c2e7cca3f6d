"""Draws Cityscapes trees in the official layout, with boxes for objects: small ones for tests, or full-size."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from linknet_fastai.scoring.cityscapes import LABELS, Label

CITIES = {"train": ("aachen", "bremen"), "val": ("lindau", "bad honnef-süd")}
FULL_SIZE = (2048, 1024)
LABEL_OF_NAME = {label.name: label for label in LABELS}


class Box(NamedTuple):
    """An annotated object; `name` is a label's, with "group" at its end for a group of what has instances."""

    name: str
    left: int
    top: int
    right: int  # exclusive, as is `bottom`
    bottom: int


def write_cityscapes(
    folder: Path,
    size: tuple[int, int] = (64, 48),
    seed: int = 0,
    cities: Mapping[str, Sequence[str]] = CITIES,
    frames: int = 1,
    plates_as_255: bool = False,
    extras: bool = False,
) -> Path:
    """Write `leftImg8bit/` and `gtFine/` as the two archives of the benchmark have them.

    Single instances have id * 1000 + n in `*_instanceIds.png` (16 bits), groups their plain id. Every frame has
    the borders of a car's camera as void; a split "test" has nothing else, as the published one. License plates
    lie on cars and are not drawn, as the official tools leave them out.

    Args:
        folder: where the tree goes.
        size: (width, height) of a frame, at least 64x48; Cityscapes has 2048x1024.
        seed: the same seed gives the same bytes.
        cities: the cities of each split.
        frames: frames of each city.
        plates_as_255: whether every other frame's label ids have the plates all the same, -1 as 255.
        extras: whether `*_color.png` and `*_polygons.json` are written too.

    Returns:
        The folder.
    """
    number = 0
    for split, names in cities.items():
        for city in names:
            for sequence in range(frames):
                rng = np.random.default_rng((seed, number))
                boxes = draw_borders(size) if split == "test" else draw_scene(rng, size)
                stem = f"{split}/{city}/{city}_{sequence:06}_000019"
                _write_frame(folder, stem, boxes, size, rng, plates=plates_as_255 and number % 2 == 0)
                if extras:
                    _write_extras(folder, stem, boxes, size)
                number += 1
    return folder


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> list[Box]:
    """A street with most labels somewhere, instances single and in groups; a later box covers an earlier one."""
    width, height = size
    boxes = [
        Box("sky", 0, 0, width, height // 3),
        Box("building", 0, height // 5, width, height // 2),
        Box("road", 0, height // 2, width, height),
        Box("sidewalk", 0, height // 2, width // 4, height),
    ]
    names = [label.name for label in LABELS if label.id == 0 or label.id >= 4]  # 1 to 3 are the borders
    instances = [label.name for label in LABELS if label.has_instances]
    names += [name for name in instances for _ in range(2)] + [f"{name}group" for name in instances]
    for name in rng.permutation(names).tolist():
        if rng.random() < 0.8:
            left, top = int(rng.integers(0, width * 9 // 10)), int(rng.integers(0, height * 8 // 10))
            right = min(left + int(rng.integers(width // 20, width // 5)), width)
            bottom = min(top + int(rng.integers(height // 16, height // 4)), height)
            boxes.append(Box(name, left, top, right, bottom))
            if name == "car":
                boxes.append(Box("license plate", left, (top + bottom) // 2, (left + right + 1) // 2, bottom))
    return boxes + draw_borders(size)


def draw_borders(size: tuple[int, int]) -> list[Box]:
    """The labels that every frame of Cityscapes has at its sides, and the bonnet of the car that took it."""
    width, height = size
    edge = max(height // 50, 1)
    return [
        Box("rectification border", 0, 0, 2 * edge, height),
        Box("rectification border", 0, 0, width, edge),
        Box("out of roi", 0, 0, edge, height),
        Box("out of roi", width - edge, 0, width, height),
        Box("out of roi", 0, height - edge, width, height),
        Box("ego vehicle", width // 5, height * 9 // 10, width * 4 // 5, height - edge),
    ]


def draw_ids(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The label ids (HxW uint8) and instance ids (HxW uint16) of a scene; license plates are not drawn."""
    label_ids = np.zeros(size[::-1], np.uint8)
    instance_ids = np.zeros(size[::-1], np.uint16)
    seen: Counter[str] = Counter()
    for name, left, top, right, bottom in boxes:
        label = label_of(name)
        if label.id < 0:
            continue
        label_ids[top:bottom, left:right] = label.id
        single = label.has_instances and name == label.name
        instance_ids[top:bottom, left:right] = label.id * 1000 + seen[name] if single else label.id
        seen[name] += single
    return label_ids, instance_ids


def label_of(name: str) -> Label:
    """The label of an object, also of a group ("cargroup")."""
    return LABEL_OF_NAME.get(name) or LABEL_OF_NAME[name.removesuffix("group")]


def _write_frame(
    folder: Path, stem: str, boxes: list[Box], size: tuple[int, int], rng: np.random.Generator, plates: bool
) -> None:
    label_ids, instance_ids = draw_ids(boxes, size)
    colors = np.array([label.color for label in LABELS if label.id >= 0], np.int16)
    # Two bits of noise: a full-size PNG takes about the 2.3 MB of a published one.
    photo = colors[label_ids] + rng.integers(0, 4, (*label_ids.shape, 3), np.int16)
    _save(photo.clip(0, 255).astype(np.uint8), folder / "leftImg8bit" / f"{stem}_leftImg8bit.png")
    if plates:
        for name, left, top, right, bottom in boxes:
            if name == "license plate":
                label_ids[top:bottom, left:right] = 255
    _save(label_ids, folder / "gtFine" / f"{stem}_gtFine_labelIds.png")
    _save(instance_ids, folder / "gtFine" / f"{stem}_gtFine_instanceIds.png")


def _write_extras(folder: Path, stem: str, boxes: list[Box], size: tuple[int, int]) -> None:
    colors = np.array([(*label.color, 255) for label in LABELS if label.id >= 0], np.uint8)
    _save(colors[draw_ids(boxes, size)[0]], folder / "gtFine" / f"{stem}_gtFine_color.png")
    objects = [
        {
            "label": name,
            "polygon": [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]],
        }
        for name, left, top, right, bottom in boxes
    ]
    text = json.dumps({"imgHeight": size[1], "imgWidth": size[0], "objects": objects})
    (folder / "gtFine" / f"{stem}_gtFine_polygons.json").write_text(text, encoding="utf-8")


def _save(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, compress_level=1)


def label_files(tree: Path, split: str = "val") -> list[Path]:
    """The label maps of a split, in the order of their names."""
    return sorted(tree.glob(f"gtFine/{split}/*/*_gtFine_labelIds.png"))


def save(array: np.ndarray, file: Path) -> Path:
    """Write a PNG; its file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return file
