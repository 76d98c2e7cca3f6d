"""Make the exports in tests/labeling/exports, and draw them by the label tools' own rasterizers.

Run by hand, with `pip install --no-deps --target tools labelme label-studio-sdk opencv-python-headless` and the
folder `tools` in PYTHONPATH. Made with labelme 6.3.1, label-studio-sdk 2.1.2 and pycocotools 2.0.11.
"""

import base64
import importlib.util
import io
import json
import sys
import zlib
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw

OUT = Path(__file__).parent / "exports"
SIZE = WIDTH, HEIGHT = 96, 72
ROAD = [[0.4, 71.2], [20.7, 30.1], [70.3, 28.9], [95.5, 71.5]]
CAR = [[30.2, 40.6], [55.9, 38.4], [60.1, 55.5], [44.0, 61.7], [28.3, 57.2]]
HOLE = [[38.2, 45.1], [48.7, 44.9], [47.5, 52.3], [39.1, 51.8]]


def load(path: str):
    """A module by its file in a distribution, without its package, which imports a GUI or a web client."""
    name, file = path.split(":")
    place = distribution(name).locate_file(file)
    spec = importlib.util.spec_from_file_location(Path(file).stem, place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def blob(seed: int) -> np.ndarray:
    """A region with a ragged border and holes, HxW booleans."""
    noise = np.random.default_rng(seed).random((9, 12))
    return np.asarray(Image.fromarray((noise * 255).astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)) > 150


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


def save(name: str, content: object, labels: np.ndarray) -> None:
    OUT.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (OUT / name).write_text(text, encoding="utf-8")
    Image.fromarray(labels.astype(np.uint8)).save(OUT / f"{Path(name).stem}-expected.png", optimize=True)


def labelme() -> None:
    sys.modules["labelme"] = ModuleType("labelme")
    sys.modules["labelme._label_file"] = SimpleNamespace(ShapeDict=dict)  # the type alone; the module imports a GUI
    shapes_to_label = load("labelme:labelme/utils/shape.py").shapes_to_label

    mask = blob(1)[20:50, 10:60]
    shapes = [
        ("road", "polygon", ROAD),
        ("pole", "rectangle", [[70.2, 5.5], [74.8, 40.1]]),
        ("sign", "circle", [[80.3, 12.4], [85.9, 14.2]]),
        ("line", "line", [[2.0, 60.0], [40.0, 66.5]]),
        ("line", "linestrip", [[5.0, 5.0], [20.0, 12.0], [33.5, 4.0]]),
        ("sign", "point", [[50.0, 10.0]]),
        ("tree", "mask", [[10.0, 20.0], [59.0, 49.0]]),
        ("car", "polygon", CAR),
    ]
    drawn = []
    for label, kind, points in shapes:
        entry = {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, "mask": None}
        drawn.append(entry | ({"mask": base64.b64encode(png(mask)).decode()} if kind == "mask" else {}))
    content = {
        "version": "5.8.1",
        "flags": {},
        "shapes": drawn,
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    numbers = {name: number for number, name in enumerate(sorted({label for label, _, _ in shapes}), 1)}
    decoded = [shape | ({"mask": mask} if shape["shape_type"] == "mask" else {}) for shape in drawn]
    labels, _ = shapes_to_label((HEIGHT, WIDTH), decoded, numbers)
    save("labelme.json", content, labels)


def coco() -> None:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    encoded = coco_mask.encode(np.asfortranarray(blob(2)))
    flat = blob(3).ravel("F").astype(int)
    changes = [*np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist(), flat.size]
    counts = np.diff([0, *changes]).tolist()
    tree = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    annotations = [
        (2, [np.ravel(ROAD).tolist()], 0),
        (1, [np.ravel(CAR).tolist(), [70.5, 5.5, 90.0, 6.0, 88.0, 25.5]], 0),
        (4, tree, 0),
        (3, {"size": [HEIGHT, WIDTH], "counts": counts}, 1),
    ]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("car", "road", "crowd", "tree"), 1)],
        "annotations": [
            {
                "id": n,
                "image_id": 7,
                "category_id": c,
                "segmentation": s,
                "iscrowd": crowd,
                "area": 1,
                "bbox": [0, 0, 1, 1],
            }
            for n, (c, s, crowd) in enumerate(annotations, 1)
        ],
    }
    (OUT / "coco.json").write_text(json.dumps(content))
    opened = COCO(str(OUT / "coco.json"))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for entry in sorted(opened.loadAnns(opened.getAnnIds()), key=lambda entry: -entry["iscrowd"]):
        labels[opened.annToMask(entry) > 0] = entry["category_id"]
    save("coco.json", content, labels)


def label_studio() -> None:
    brush = load("label-studio-sdk:label_studio_sdk/converter/brush.py")
    results, labels = [], np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (name, seed) in enumerate((("road", 4), ("tree", 5)), 1):
        rle = brush.mask2rle(blob(seed).astype(np.uint8) * 255)
        labels[brush.decode_rle(rle).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0] = number
        value = {"format": "rle", "rle": rle, "brushlabels": [name]}
        results.append({"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": value})
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in CAR]
    value = {"points": points, "polygonlabels": ["car"]}
    results.append({"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": value})
    drawn = Image.fromarray(labels)
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in CAR], fill=3, outline=3)
    for entry in results:
        entry |= {"id": "x", "from_name": "tag", "to_name": "image", "type": list(entry["value"])[-1]}
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"id": 3, "result": results}]}
    ]
    save("label_studio.json", tasks, np.asarray(drawn))


def cvat() -> None:
    """As CVAT 2 writes "CVAT for images 1.1"; drawn by pycocotools, with which CVAT makes its own masks."""
    from pycocotools import mask as coco_mask

    part = blob(6)[10:40, 30:80]
    flat = part.ravel().astype(int)
    changes = [*np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist(), flat.size]
    rle = ", ".join(map(str, np.diff([0, *changes])))

    def points(ring: list) -> str:
        return ";".join(f"{x:.2f},{y:.2f}" for x, y in ring)

    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels>
    <label><name>car</name><color>#fa3253</color><type>any</type></label>
    <label><name>road</name><color>#7f7f7f</color><type>any</type></label>
    <label><name>tree</name><color>#00ff00</color><type>any</type></label>
  </labels></task></meta>
  <image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">
    <polygon label="car" source="manual" occluded="0" points="{points(CAR)}" z_order="2"></polygon>
    <polygon label="road" source="manual" occluded="0" points="{points(ROAD)}" z_order="0"></polygon>
    <mask label="tree" source="manual" rle="{rle}" left="30" top="10" width="50" height="30" z_order="1"></mask>
    <tag label="car" source="manual"></tag>
  </image>
</annotations>
"""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    rings = [[[round(x, 2), round(y, 2)] for x, y in ring] for ring in (ROAD, CAR)]
    road, car = (
        coco_mask.decode(coco_mask.frPyObjects([np.ravel(r).tolist()], HEIGHT, WIDTH))[..., 0] for r in rings
    )
    labels[road > 0] = 2
    labels[10:40, 30:80][part] = 3
    labels[car > 0] = 1
    save("cvat.xml", text, labels)


def supervisely() -> None:
    """In Supervisely's JSON format; drawn by OpenCV's fillPoly of rounded points, as its SDK does."""
    import cv2

    mask = blob(7)[5:35, 50:90]
    data = base64.b64encode(zlib.compress(png(mask))).decode()
    content = {
        "description": "",
        "tags": [],
        "size": {"height": HEIGHT, "width": WIDTH},
        "objects": [
            {"classTitle": "road", "geometryType": "polygon", "points": {"exterior": ROAD, "interior": []}},
            {"classTitle": "tree", "geometryType": "bitmap", "bitmap": {"origin": [50, 5], "data": data}},
            {"classTitle": "car", "geometryType": "polygon", "points": {"exterior": CAR, "interior": [HOLE]}},
        ],
    }
    labels, car = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(labels, [np.rint(ROAD).astype(np.int32)], 2)
    labels[5:35, 50:90][mask] = 3
    cv2.fillPoly(car, [np.rint(CAR).astype(np.int32)], 1)
    cv2.fillPoly(car, [np.rint(HOLE).astype(np.int32)], 0)
    labels[car > 0] = 1
    save("supervisely.json", content, labels)


def yolo() -> None:
    """As ultralytics reads it; drawn by OpenCV's fillPoly of whole pixels, as its `polygon2mask` does."""
    import cv2

    lines, labels = [], np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, ring in ((0, CAR), (1, ROAD)):
        lines.append(" ".join([str(number), *(f"{v:.6f}" for x, y in ring for v in (x / WIDTH, y / HEIGHT))]))
    for number, ring in ((1, ROAD), (0, CAR)):
        scaled = np.array([[float(f"{x / WIDTH:.6f}") * WIDTH, float(f"{y / HEIGHT:.6f}") * HEIGHT] for x, y in ring])
        cv2.fillPoly(labels, [scaled.astype(np.int32)], number + 1)
    save("yolo.txt", "\n".join(lines) + "\n", labels)


if __name__ == "__main__":
    for make in (labelme, coco, label_studio, cvat, supervisely, yolo):
        make()
