"""Exports in JSON: labelme, COCO, Label Studio and Supervisely."""

import base64
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from linknet_fastai.config.classes import Color
from linknet_fastai.core.errors import UserError
from linknet_fastai.labeling.export import Export
from linknet_fastai.labeling.pairs import SPLITS
from linknet_fastai.labeling.shapes import (
    Bitmap,
    Brush,
    Figure,
    FigureKind,
    Outline,
    Polygons,
    Region,
    Runs,
)
from linknet_fastai.labeling.tree import Tree, first_json, read_json, reading

MAX_INFLATED = 1 << 26  # bytes of a compressed bitmap, which is itself a PNG
# Of labelme's shapes those that are figures; a circle is given by its center and a point of its border.
FIGURES: dict[str, FigureKind] = {"rectangle": "rectangle", "line": "line", "linestrip": "line", "point": "point"}


def labelme(tree: Tree) -> Export | None:
    """labelme: one JSON file for each image, beside it."""
    files = first_json(tree, lambda content: isinstance(content, dict) and "shapes" in content)
    if not files:
        return None
    export = Export("labelme", "JSON files with shapes", order="as in its file")
    for file in files:
        with reading(file, "labelme's JSON"):
            content = read_json(file)
            if not isinstance(content, dict) or "shapes" not in content:
                continue
            regions = []
            for shape in content["shapes"]:
                regions.append(Region(str(shape["label"]), _labelme_outline(shape)))
            name = str(content.get("imagePath") or file.with_suffix("").name)
            size = _size(content.get("imageWidth"), content.get("imageHeight"))
            export.add(tree.image(name, file), name, regions, size, file)
    return export


def _labelme_outline(shape: Mapping[str, Any]) -> Outline:
    kind, points = shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]]
    if kind == "mask":
        return Bitmap(base64.b64decode(shape["mask"]), int(points[0][0]), int(points[0][1]))
    if kind == "circle":
        (x, y), edge = points
        radius = ((edge[0] - x) ** 2 + (edge[1] - y) ** 2) ** 0.5
        return Figure("ellipse", [(x - radius, y - radius), (x + radius, y + radius)])
    if kind in FIGURES:
        return Figure(FIGURES[kind], points)
    if kind not in ("polygon", "oriented_rectangle"):
        raise ValueError(f"shape_type {kind[:40]!r} is unknown")
    return Polygons([points])


def coco(tree: Tree) -> Export | None:
    """COCO: one JSON file for many images."""
    files = first_json(tree, lambda content: isinstance(content, dict) and {"images", "annotations"} <= set(content))
    if not files:
        return None
    export = Export("COCO", "JSON with images, annotations and categories", order="as in the file, crowds first")
    for file in files:
        with reading(file, "COCO's JSON"):
            content = read_json(file)
            if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
                continue
            names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            export.classes |= dict.fromkeys(names.values())
            regions: dict[Any, list[tuple[bool, Region]]] = defaultdict(list)
            for entry in content["annotations"]:
                outline = _coco_outline(entry.get("segmentation"))
                if outline is None:
                    export.skipped["annotations with a box alone"] += 1
                else:
                    region = Region(names[entry["category_id"]], outline)
                    regions[entry["image_id"]].append((not entry.get("iscrowd"), region))
            for entry in content["images"]:
                drawn = [region for _, region in sorted(regions[entry["id"]], key=lambda pair: pair[0])]
                name, size = str(entry["file_name"]), _size(entry.get("width"), entry.get("height"))
                split = _split_in(file.stem) if len(files) > 1 else None
                export.add(tree.image(name, file), name, drawn, size, file, split)
    return export


def _coco_outline(segmentation: Any) -> Outline | None:
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        return Runs(counts if isinstance(counts, str) else list(counts), box=(0, 0, int(width), int(height)))
    rings = [list(zip(ring[::2], ring[1::2], strict=True)) for ring in segmentation]
    return Polygons([ring for ring in rings if len(ring) > 2], fill="coco") if rings else None


def supervisely(tree: Tree) -> Export | None:
    """Supervisely: meta.json with the classes, and ann/IMAGE.json beside img/IMAGE for each image."""
    metas = [file for file in tree.named("meta.json") if _is_supervisely(file)]
    if not metas:
        return None
    export = Export("Supervisely", f"{metas[0].name} with classes, ann/ beside img/", order="as in its file")
    with reading(metas[0], "Supervisely's meta.json"):
        for entry in read_json(metas[0])["classes"]:
            export.classes[str(entry["title"])] = _hex_color(entry.get("color"))
    for file in tree.files if tree.only is None else []:
        if file.suffix != ".json" or file.parent.name != "ann":
            continue
        with reading(file, "Supervisely's JSON"):
            content = read_json(file)
            regions = []
            for entry in content["objects"]:
                if (outline := _supervisely_outline(entry)) is None:
                    export.skipped[f"objects of the kind {entry.get('geometryType')}"] += 1
                else:
                    regions.append(Region(str(entry["classTitle"]), outline))
            size = _size(content["size"]["width"], content["size"]["height"])
            image = file.parent.with_name("img") / file.stem  # x.jpg.json; before 2019 x.json
            name = image.name if image.suffix else f"{image.name}.jpg"
            export.add(image if image.is_file() else tree.image(name, file), name, regions, size, file)
    return export


def _is_supervisely(file: Path) -> bool:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("classes"), list) and "tags" in content


def _supervisely_outline(entry: Mapping[str, Any]) -> Outline | None:
    kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
    if kind == "bitmap":
        left, top = entry["bitmap"]["origin"]
        packed, inflater = base64.b64decode(entry["bitmap"]["data"]), zlib.decompressobj()
        png = inflater.decompress(packed, MAX_INFLATED)
        if inflater.unconsumed_tail:
            raise ValueError("a bitmap of more than 64 MiB")
        return Bitmap(png, int(left), int(top))
    if kind not in ("polygon", "rectangle"):
        return None
    # Supervisely's SDK rounds points to whole pixels.
    points, *holes = (
        [(round(x), round(y)) for x, y in ring]
        for ring in (entry["points"]["exterior"], *entry["points"]["interior"])
    )
    if kind == "rectangle":
        return Figure("rectangle", points)
    return Polygons([points], holes, fill="opencv")


def label_studio(tree: Tree) -> Export | None:
    """Label Studio: JSON with a list of tasks, in full or "JSON-MIN"; or the PNGs of its brush beside that JSON."""

    def is_tasks(content: Any) -> bool:
        return isinstance(content, list) and any(isinstance(task, dict) and _results(task) for task in content[:1000])

    files, pngs = first_json(tree, is_tasks), _brush_pngs(tree)
    if not files:
        if pngs:
            raise UserError(
                f"{tree.root}: masks of Label Studio, which name no image; put its JSON export beside them"
            )
        return None
    export = Export("Label Studio", "JSON with a list of tasks", order="as in its task")
    if pngs:
        export.evidence += ", and a PNG for each label"
    for file in files:
        with reading(file, "Label Studio's JSON"):
            content = read_json(file)
            if not isinstance(content, list):
                continue
            for task in content:
                annotation, results = _annotation(task), _results(task)
                drawn = pngs.get((str(task.get("id")), str(annotation.get("id") or task.get("annotation_id"))))
                export.skipped["further annotations of a task"] += max(len(task.get("annotations") or ()) - 1, 0)
                if results or drawn:
                    name = _image_name(task)
                    regions = list(_label_studio_regions(results, export)) or drawn or []
                    size = next((_original_size(each) for each in results if "original_width" in each), None)
                    export.add(tree.image(name, file), name, regions, size, file)
    return export


def _annotation(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the first annotator that finished a task did."""
    done = task.get("annotations") or task.get("completions") or []
    return next((each for each in done if isinstance(each, dict) and not each.get("was_cancelled")), {})


def _results(task: Mapping[str, Any]) -> list[Any]:
    """The regions of a task; in JSON-MIN there is a list for each control."""
    if "annotations" in task or "completions" in task:
        return list(_annotation(task).get("result") or [])
    lists = [value for value in task.values() if isinstance(value, list)]
    return [each for value in lists for each in value if isinstance(each, dict) and "original_width" in each]


def _image_name(task: Mapping[str, Any]) -> str:
    data = task.get("data") or task
    named = [value for key, value in data.items() if isinstance(value, str) and re.search(r"\.\w{2,5}($|\?)", value)]
    if not named:
        raise ValueError(f"task {task.get('id')}: no image in its data")
    return str(named[0])


def _original_size(result: Mapping[str, Any]) -> tuple[int, int] | None:
    return _size(result.get("original_width"), result.get("original_height"))


def _label_studio_regions(results: list[Any], export: Export) -> Iterator[Region]:
    for result in results:
        value = result.get("value", result)
        labels = next((value[key] for key in value if key.endswith("labels") and value[key]), None)
        size = _original_size(result)
        if not labels or size is None or "original_width" not in result:
            continue  # a relation, a choice, a text
        outline = _label_studio_outline(value, size, float(result.get("image_rotation") or 0))
        if outline is None:
            export.skipped["regions that are no outline"] += 1
        else:
            yield Region(str(labels[0]), outline)


def _label_studio_outline(value: Mapping[str, Any], size: tuple[int, int], rotated: float) -> Outline | None:
    if rotated:
        raise ValueError("an image that was rotated in Label Studio: its coordinates are those of the rotated image")

    def pixels(x: float, y: float) -> tuple[float, float]:  # coordinates are percent
        return round(x * size[0] / 100, 6), round(y * size[1] / 100, 6)  # whole pixels stay whole

    if "rle" in value:
        return Brush(value["rle"])
    if "points" in value:
        return Polygons([[pixels(x, y) for x, y in value["points"]]])
    if "radiusX" in value:
        (x, y), (rx, ry) = pixels(value["x"], value["y"]), pixels(value["radiusX"], value["radiusY"])
        return Figure("ellipse", [(x - rx, y - ry), (x + rx, y + ry)], float(value.get("rotation") or 0), (x, y))
    if "width" in value and "height" in value:  # a point has a width alone
        corner = pixels(value["x"], value["y"])
        other = pixels(value["x"] + value["width"], value["y"] + value["height"])
        return Figure("rectangle", [corner, other], float(value.get("rotation") or 0), corner)
    return None


PNG_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-(.*)-(\d+)\.png", re.IGNORECASE)


def _brush_pngs(tree: Tree) -> dict[tuple[str, str], list[Region]]:
    """The regions by task and annotation of PNGs such as task-7-annotation-3-by-1-tag-Car-0.png."""
    found: dict[tuple[str, str], list[tuple[int, Region]]] = defaultdict(list)
    for file in tree.images:
        if match := PNG_NAME.fullmatch(file.name):
            label = match[3].split("-", 2)[-1]  # after the annotator and the control, which have no hyphen
            found[match[1], match[2]].append((int(match[4]), Region(label, Bitmap(file))))
    return {each: [region for _, region in sorted(pairs, key=lambda pair: pair[0])] for each, pairs in found.items()}


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    return (int(width), int(height)) if width and height else None


def _hex_color(text: Any) -> Color | None:
    match = re.fullmatch("#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", str(text).lower())
    return (int(match[1], 16), int(match[2], 16), int(match[3], 16)) if match else None


def _split_in(stem: str) -> str | None:
    """The split in a name such as instances_train2017."""
    match = re.search(rf"(?:^|[^a-z])({'|'.join(SPLITS)})(?:[^a-z]|$)", stem.lower())
    return match and SPLITS[match[1]]


JSON_READERS: tuple[Callable[[Tree], Export | None], ...] = (supervisely, coco, label_studio, labelme)
