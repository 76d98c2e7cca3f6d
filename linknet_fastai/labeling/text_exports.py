"""Exports in XML and plain text: CVAT's XML and YOLO's polygons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import yaml

from linknet_fastai.config.classes import Color
from linknet_fastai.core.files import read_text
from linknet_fastai.core.images import upright_size
from linknet_fastai.labeling.export import Export
from linknet_fastai.labeling.pairs import SPLITS
from linknet_fastai.labeling.shapes import Figure, Outline, Polygons, Region, Runs
from linknet_fastai.labeling.tree import MAX_SMALL, Tree, read_xml, reading


def cvat(tree: Tree) -> Export | None:
    """CVAT for images 1.1: one XML file with polygons, masks, boxes and ellipses."""
    files = [file for file in tree.with_suffix(".xml") if _is_cvat(file)]
    if not files:
        return None
    export = Export("CVAT", "XML with <annotations>", order="by z_order, then as in the file")
    for file in files:
        with reading(file, "CVAT's XML"):
            root = read_xml(file)
            if root.find("track") is not None:
                raise ValueError('it has tracks of a video; export the task as "CVAT for images 1.1"')
            for label in root.iterfind(".//labels/label"):
                export.classes[label.findtext("name", "").strip()] = _hex(label.findtext("color", ""))
            for entry in root.iterfind("image"):
                shapes = []
                for place, shape in enumerate(entry):
                    if (outline := _cvat_outline(shape)) is not None:
                        region = Region(shape.attrib["label"], outline)
                        shapes.append((int(shape.get("z_order", 0)), place, region))
                    elif shape.tag != "tag":
                        export.skipped[f"shapes of the kind {shape.tag[:40]}"] += 1
                shapes.sort(key=lambda shape: shape[:2])
                name, size = entry.attrib["name"], (int(entry.attrib["width"]), int(entry.attrib["height"]))
                split = SPLITS.get(entry.get("subset", "").lower())
                export.add(tree.image(name, file), name, [shape[2] for shape in shapes], size, file, split)
    return export


def _is_cvat(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return b"<annotations" in opened.read(4096)
    except OSError:
        return False


def _cvat_outline(shape: Element) -> Outline | None:
    get = shape.attrib
    if shape.tag == "polygon":
        points = [(float(x), float(y)) for x, y in (pair.split(",") for pair in get["points"].split(";"))]
        return Polygons([points], fill="coco") if len(points) > 2 else None
    if shape.tag == "mask":
        counts = [int(count) for count in get["rle"].split(",")]
        left, top, width, height = (int(get[key]) for key in ("left", "top", "width", "height"))
        return Runs(counts, by_column=False, box=(left, top, width, height))
    if shape.tag == "box":
        corners = [(float(get["xtl"]), float(get["ytl"])), (float(get["xbr"]), float(get["ybr"]))]
        middle = (corners[0][0] + corners[1][0]) / 2, (corners[0][1] + corners[1][1]) / 2
        return Figure("rectangle", corners, float(get.get("rotation", 0)), middle)
    if shape.tag == "ellipse":
        x, y, rx, ry = (float(get[key]) for key in ("cx", "cy", "rx", "ry"))
        return Figure("ellipse", [(x - rx, y - ry), (x + rx, y + ry)], float(get.get("rotation", 0)), (x, y))
    return None


def _hex(text: str) -> Color | None:
    digits = text.strip().removeprefix("#")
    try:
        return (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)) if len(digits) == 6 else None
    except ValueError:
        return None


def yolo(tree: Tree) -> Export | None:
    """YOLO segmentation: data.yaml with the names, and labels/X.txt with polygons for images/X.jpg."""
    settings = next((file for file in tree.with_suffix(".yaml", ".yml") if _yolo_names(file)), None)
    if settings is None:
        return None
    names = _yolo_names(settings)
    export = Export(
        "YOLO", f"{settings.name} with names, labels/*.txt", order="the largest first, as ultralytics does"
    )
    export.classes |= dict.fromkeys(names.values())
    by_place = {_label_place(file): file for file in tree.files if file.suffix == ".txt"}
    for image in tree.images:
        file = by_place.get(_label_place(image, "images"))
        if file is None:
            continue
        with reading(file, "YOLO's polygons"):
            size = upright_size(image)[0]
            regions = [(area, Region(names[label], outline)) for label, area, outline in _yolo_outlines(file, size)]
            folders = map(str.lower, tree.relative(image).parts)
            split = next((SPLITS[folder] for folder in folders if folder in SPLITS), None)
            regions.sort(key=lambda pair: -pair[0])
            export.add(image, image.name, [region for _, region in regions], size, file, split)
    return export if export.images else None


def _yolo_outlines(file: Path, size: tuple[int, int]) -> list[tuple[int, float, Outline]]:
    found: list[tuple[int, float, Outline]] = []
    for number, line in enumerate(read_text(file, 64 * MAX_SMALL).splitlines(), 1):
        if not line.strip():
            continue
        label, *values = line.split()
        if len(values) == 4:
            raise ValueError(f"line {number} is a box; boxes cannot be trained on as pixels")
        if len(values) < 6 or len(values) % 2:
            raise ValueError(f"line {number}: {len(values)} coordinates")
        # ultralytics cuts coordinates to whole pixels before it fills.
        ring = [
            (int(float(x) * size[0]), int(float(y) * size[1])) for x, y in zip(values[::2], values[1::2], strict=True)
        ]
        found.append((int(label), _area(ring), Polygons([ring], fill="opencv")))
    return found


def _area(ring: list[tuple[int, int]]) -> float:
    turned = [*ring[1:], ring[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(ring, turned, strict=True))) / 2


def _label_place(file: Path, folder: str = "labels") -> tuple[str, ...]:
    """A path without its ending and without its last folder of this name, which image and labels have in common."""
    parts = list(file.with_suffix("").parts)
    if folder in parts:
        parts.pop(len(parts) - 1 - parts[::-1].index(folder))
    return tuple(parts)


def _yolo_names(file: Path) -> dict[int, str]:
    """The names of the classes in a data.yaml, by number; none if it is something else."""
    try:
        text = read_text(file, MAX_SMALL)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            return {}  # aliases of aliases grow without end
        content: Any = yaml.safe_load(text)
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        return {int(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {}
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError):
        return {}


TEXT_READERS: tuple[Callable[[Tree], Export | None], ...] = (yolo, cvat)
