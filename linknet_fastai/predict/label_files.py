"""The texts of pre-annotations for label tools, from the pieces of a class map. Predicts and writes nothing."""

import base64
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.outlines import Piece, outline

LabelFormat = Literal["coco", "labelme", "cvat", "label-studio"]
# A file that begins with one of these was written here. What a label tool saves begins in another way, even where it
# keeps unknown keys, as labelme does: corrections of a person are never overwritten.
SIGNATURES = (
    '{"generator": "linknet-fastai"',
    '<?xml version="1.0" encoding="utf-8"?>\n<!-- linknet-fastai -->',
    '[{"predictions": [{"model_version": "linknet-fastai"',
    '[{"attributes": [], "name": ',
)
INSET = 0.25  # see `outline`: for tools that cut coordinates to whole pixels
LABELME_VERSION = "5.5.0"  # whose form this is; labelme asks for one
BRUSH_LENGTHS = (3, 4, 8, 16)  # bits of a length, as Label Studio's own encoder has them


@dataclass(frozen=True)
class LabeledFrame:
    """A predicted frame.

    Attributes:
        image: the file.
        name: its path below the folder that was predicted.
        size: (width, height), upright.
        pieces: in the order of drawing.
        score: the mean confidence of all pixels, None if it is unknown.
    """

    image: Path
    name: str
    size: tuple[int, int]
    pieces: Sequence[Piece]
    score: float | None


def run_lengths(mask: np.ndarray) -> list[int]:
    """The run lengths of a row of booleans, which begin with those of False.

    Example:
        >>> run_lengths(np.array([True, True, False])), run_lengths(np.array([False, True]))
        ([0, 2, 1], [1, 1])
    """
    changes = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0)).tolist()
    return np.diff([0, *changes, len(mask)]).tolist()


def brush(mask: np.ndarray) -> list[int]:
    """A mask as the run lengths of Label Studio's brush, see `linknet_fastai.labeling.runs.brush_values`.

    Args:
        mask: HxW booleans of the whole frame.

    Returns:
        The bytes.
    """
    bits = [f"{4 * mask.size:032b}{8 - 1:05b}", *(f"{length - 1:04b}" for length in BRUSH_LENGTHS)]
    for number, run in enumerate(run_lengths(mask.ravel())):
        values = 4 * run  # red, green, blue, alpha
        while values:
            count = min(values, 1 << BRUSH_LENGTHS[-1])
            size = next(n for n, length in enumerate(BRUSH_LENGTHS) if count <= 1 << length)
            bits.append(f"1{size:02b}{count - 1:0{BRUSH_LENGTHS[size]}b}{number % 2 * 255:08b}")
            values -= count
    digits = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    return np.packbits(digits).tolist()


def coco_frame(frame: LabeledFrame, labels: Sequence[str], tolerance: float) -> tuple[str, list[str]]:
    """The entry of an image in COCO's JSON and those of its annotations, each without their ids and first brace."""
    annotations = []
    for piece in frame.pieces:
        segmentation: Any
        if piece.has_holes:
            segmentation = {"counts": run_lengths(piece.whole(frame.size).ravel("F")), "size": frame.size[::-1]}
        else:
            segmentation = [outline(piece, tolerance).round(2).ravel().tolist()]
        height, width = piece.mask.shape
        entry = {
            "category_id": piece.channel + 1,  # some readers take 0 for no category
            "segmentation": segmentation,
            "area": piece.pixels,
            "bbox": [piece.left, piece.top, width, height],
            "iscrowd": 0,
            **_score(piece.score),
        }
        annotations.append(json.dumps(entry)[1:])
    width, height = frame.size
    return json.dumps({"file_name": frame.name, "width": width, "height": height})[1:], annotations


def coco_file(frames: Iterable[tuple[str, list[str]]], card: ModelCard) -> str:
    """COCO's JSON, from what `coco_frame` returned."""
    images: list[str] = []
    annotations: list[str] = []
    for number, (image, pieces) in enumerate(frames, 1):
        images.append(f'{{"id": {number}, {image}')
        for piece in pieces:
            annotations.append(f'{{"id": {len(annotations) + 1}, "image_id": {number}, {piece}')
    categories = [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(card.class_names, 1)]
    parts = (f'"images": {_lines(images)}', f'"annotations": {_lines(annotations)}')
    return f'{SIGNATURES[0]}, "categories": {json.dumps(categories)},\n' + ",\n".join(parts) + "}\n"


def labelme_file(frame: LabeledFrame, labels: Sequence[str], tolerance: float, folder: Path) -> str:
    """JSON of labelme for a frame, for a file in `folder`."""
    shapes: list[dict[str, Any]] = []
    for piece in frame.pieces:
        mask = None
        if piece.has_holes:
            height, width = piece.mask.shape
            points = [[piece.left, piece.top], [piece.left + width - 1, piece.top + height - 1]]
            content = io.BytesIO()
            Image.fromarray(piece.mask.astype(np.uint8)).save(content, "PNG")
            mask = base64.b64encode(content.getvalue()).decode()
        else:
            points = outline(piece, tolerance, INSET).round(2).tolist()
        kind = "mask" if mask else "polygon"
        shape = {"label": labels[piece.channel], "points": points, "group_id": None, "description": ""}
        shapes.append(shape | {"shape_type": kind, "flags": {}, "mask": mask})
    try:
        image = Path(os.path.relpath(frame.image, folder)).as_posix()
    except ValueError:  # another drive of Windows
        image = str(frame.image.absolute())
    width, height = frame.size
    content_of: dict[str, Any] = {"version": LABELME_VERSION, "flags": {}, "shapes": shapes, "imagePath": image}
    content_of |= {"imageData": None, "imageHeight": height, "imageWidth": width}
    return f"{SIGNATURES[0]}, {json.dumps(content_of)[1:]}\n"


def cvat_frame(frame: LabeledFrame, labels: Sequence[str], tolerance: float) -> str:
    """The element of an image in CVAT's XML, without its id and the first bracket."""
    shapes = []
    for piece in frame.pieces:
        common = f'label={quoteattr(labels[piece.channel])} source="auto" occluded="0" z_order="0"'
        if piece.has_holes:
            height, width = piece.mask.shape
            runs = ", ".join(map(str, run_lengths(piece.mask.ravel())))
            box = f'left="{piece.left}" top="{piece.top}" width="{width}" height="{height}"'
            shapes.append(f'    <mask {common} rle="{runs}" {box}/>')
        else:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline(piece, tolerance))
            shapes.append(f'    <polygon {common} points="{points}"/>')
    width, height = frame.size
    head = f'name={quoteattr(frame.name)} width="{width}" height="{height}">'
    return "\n".join([head, *shapes, "  </image>"])


def cvat_file(frames: Iterable[str], card: ModelCard) -> str:
    """CVAT's XML, from what `cvat_frame` returned."""
    labels = "".join(
        f"\n        <label><name>{quoteattr(entry.name)[1:-1]}</name><color>{_hex(entry.color)}</color></label>"
        for entry in card.classes
    )
    images = "\n".join(f'  <image id="{number}" {frame}' for number, frame in enumerate(frames))
    meta = f"  <version>1.1</version>\n  <meta>\n    <task>\n      <labels>{labels}\n      </labels>\n    </task>\n"
    return f"{SIGNATURES[1]}\n<annotations>\n{meta}  </meta>\n{images}\n</annotations>\n"


def cvat_labels(card: ModelCard) -> str:
    """The labels of a new project of CVAT, for its field "Raw"."""
    labels = [{"attributes": [], "name": entry.name, "color": _hex(entry.color)} for entry in card.classes]
    return json.dumps(labels) + "\n"


def label_studio_frame(frame: LabeledFrame, labels: Sequence[str], tolerance: float) -> str:
    """A task of Label Studio with a prediction."""
    width, height = frame.size
    results = []
    for number, piece in enumerate(frame.pieces):
        value: dict[str, Any]
        if piece.has_holes:
            kind = "brush"
            value = {"format": "rle", "rle": brush(piece.whole(frame.size))}
        else:
            kind = "polygon"
            percent = outline(piece, tolerance, INSET) * (100 / width, 100 / height)
            value = {"points": percent.round(5).tolist(), "closed": True}
        result: dict[str, Any] = {"id": f"piece-{number}", "type": f"{kind}labels", "from_name": kind}
        result |= {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
        value[f"{kind}labels"] = [labels[piece.channel]]
        results.append(result | {"value": value} | _score(piece.score))
    prediction = {"model_version": "linknet-fastai", "result": results} | _score(frame.score)
    # Local storage whose root is the folder above the one that was predicted.
    depth = frame.name.count("/") + 2
    path = quote("/".join(Path(os.path.abspath(frame.image)).parts[-depth:]))
    return json.dumps({"predictions": [prediction], "data": {"image": f"/data/local-files/?d={path}"}})


def label_studio_file(frames: Iterable[str], card: ModelCard) -> str:
    """Label Studio's JSON, from what `label_studio_frame` returned."""
    return _lines(list(frames)) + "\n"


def label_studio_labels(card: ModelCard) -> str:
    """The labeling interface of a project of Label Studio that shows the predictions."""
    labels = "".join(
        f'\n    <Label value={quoteattr(entry.name)} background="{_hex(entry.color)}"/>' for entry in card.classes
    )
    controls = "".join(
        f'  <{kind}Labels name="{kind.lower()}" toName="image">{labels}\n  </{kind}Labels>\n'
        for kind in ("Polygon", "Brush")
    )
    return f'{SIGNATURES[1]}\n<View>\n  <Image name="image" value="$image"/>\n{controls}</View>\n'


# What is written into the folder, and what makes the text of it of a card and of the frames.
FRAME_TEXTS: dict[str, Callable[[LabeledFrame, Sequence[str], float], Any]] = {
    "coco": coco_frame,
    "cvat": cvat_frame,
    "label-studio": label_studio_frame,
}
FILE_TEXTS: dict[str, tuple[str, Callable[[Any, ModelCard], str]]] = {
    "coco": ("coco.json", coco_file),
    "cvat": ("cvat.xml", cvat_file),
    "label-studio": ("label-studio.json", label_studio_file),
}
LABEL_TEXTS: dict[str, tuple[str, Callable[[ModelCard], str]]] = {
    "cvat": ("cvat-labels.json", cvat_labels),
    "label-studio": ("label-studio-labels.xml", label_studio_labels),
}


def _score(score: float | None) -> dict[str, float]:
    return {} if score is None else {"score": round(score, 4)}


def _lines(entries: Sequence[str]) -> str:
    return "[" + ",\n".join(entries) + "]"


def _hex(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
