"""`recipes --from` on exports of label tools: the label maps are those that the tools' own rasterizers draw.

The exports and what the tools draw of them are made by make_exports.py.
"""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import png, save
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.labeling.look import propose, write_proposal
from linknet_fastai.labeling.runs import uncompressed
from linknet_fastai.labeling.shapes import (
    Bitmap,
    Brush,
    LabeledImage,
    Outline,
    Polygons,
    Region,
    Runs,
    draw,
)
from linknet_fastai.labeling.tree import Tree

EXPORTS = Path(__file__).parent / "exports"
SIZE = WIDTH, HEIGHT = 96, 72
NAMES = {  # the classes by their value in the expected label maps
    "labelme": ["car", "line", "pole", "road", "sign", "tree"],
    "coco": ["car", "road", "crowd", "tree"],
    "label_studio": ["road", "tree", "car"],
    "cvat": ["car", "road", "tree"],
    "supervisely": ["car", "road", "tree"],
    "yolo": ["car", "road"],
}


def place(tool: str, folder: Path, images: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """An export with images of the same labels, in the folders of the tool."""
    for number, stem in enumerate(images):
        photo = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        if tool == "supervisely":
            save(photo, folder / f"ds0/img/{stem}.png")
            (folder / "ds0/ann").mkdir(exist_ok=True)
            (folder / f"ds0/ann/{stem}.png.json").write_text((EXPORTS / "supervisely.json").read_text())
        elif tool == "yolo":
            save(photo, folder / f"train/images/{stem}.png")
            (folder / "train/labels").mkdir(exist_ok=True)
            (folder / f"train/labels/{stem}.txt").write_text((EXPORTS / "yolo.txt").read_text())
        else:
            save(photo, folder / f"images/{stem}.png")
    if tool == "labelme":
        for stem in images:
            text = (EXPORTS / "labelme.json").read_text().replace('"a.png"', f'"..\\\\images\\\\{stem}.png"')
            (folder / "labels").mkdir(exist_ok=True)
            (folder / f"labels/{stem}.json").write_text(text)
    elif tool == "coco":
        content = json.loads((EXPORTS / "coco.json").read_text())
        image, annotations = content["images"][0], content["annotations"]
        content["images"] = [image | {"id": n, "file_name": f"{stem}.png"} for n, stem in enumerate(images)]
        content["annotations"] = [entry | {"image_id": n} for n in range(len(images)) for entry in annotations]
        (folder / "instances.json").write_text(json.dumps(content))
    elif tool == "label_studio":
        (task,) = json.loads((EXPORTS / "label_studio.json").read_text())
        tasks = [
            task | {"id": n, "data": {"image": f"/data/upload/1/0a1b2c3d-{s}.png"}} for n, s in enumerate(images)
        ]
        (folder / "project-1.json").write_text(json.dumps(tasks))
    elif tool == "cvat":
        head, _, rest = (EXPORTS / "cvat.xml").read_text().partition("  <image")
        image, end = "  <image" + rest.removesuffix("</annotations>\n"), "</annotations>\n"
        (folder / "annotations.xml").write_text(
            head + "".join(image.replace('"a.png"', f'"{stem}.png"') for stem in images) + end
        )
    elif tool == "supervisely":
        titles = [{"title": name, "shape": "any", "color": "#FF0000", "id": n} for n, name in enumerate(NAMES[tool])]
        (folder / "meta.json").write_text(json.dumps({"classes": titles, "tags": [], "projectType": "images"}))
    elif tool == "yolo":
        (folder / "data.yaml").write_text("train: train/images\nnc: 2\nnames: ['car', 'road']\n")
    return folder


@pytest.mark.parametrize("tool", NAMES)
def test_label_maps_are_those_of_the_tool(tool: str, tmp_path: Path) -> None:
    proposal = propose(place(tool, tmp_path / "data"), "own", "void")
    write_proposal(proposal, file := tmp_path / "own.toml")
    dataset = open_dataset(file, tmp_path / "data")
    frames = [frame for split in dataset.recipe.splits for frame in dataset.frames(split)]
    assert sorted(frame.image.stem for frame in frames) == ["a", "b", "c"]
    expected = np.asarray(Image.open(EXPORTS / f"{tool}-expected.png"))
    numbers = [255] + [dataset.recipe.class_names.index(name) for name in NAMES[tool]]
    labels = dataset.read_label(frames[0].label)
    same = labels == np.array(numbers, np.uint8)[expected]
    # OpenCV cuts lines at the border of an image in another way than Pillow.
    assert same.mean() >= (0.995 if tool == "supervisely" else 1)


def test_unlabeled_pixels_are_asked_for_and_can_be_a_class(tmp_path: Path) -> None:
    folder = place("coco", tmp_path / "data")
    with pytest.raises(UsageError, match=r"--unlabelled is needed: [0-9.]+% of the pixels have no label"):
        propose(folder, "own")
    proposal = propose(folder, "own", "background")
    assert (proposal.classes[0].id, proposal.classes[0].name) == (0, "background")
    asked = []
    propose(folder, "own", ask=lambda question: asked.append(question) or "void")
    assert "have no label" in asked[0]


def test_one_class_alone_gets_a_background(tmp_path: Path) -> None:
    folder = place("yolo", tmp_path / "data")
    for file in (folder / "train/labels").iterdir():
        file.write_text(file.read_text().splitlines()[0])
    assert [row.name for row in propose(folder, "own").classes] == ["background", "car"]


def test_overlaps_are_counted_and_the_later_region_wins(tmp_path: Path) -> None:
    decisions = dict(propose(place("cvat", tmp_path / "data"), "own", "void").decisions)
    assert decisions["overlaps"].startswith("CVAT draws by z_order, then as in the file, later over earlier; ")
    assert "car over road" in decisions["overlaps"]


def test_a_json_min_and_pngs_of_label_studio_are_read(tmp_path: Path) -> None:
    full = json.loads((EXPORTS / "label_studio.json").read_text())[0]["annotations"][0]["result"]
    controls = [entry["value"] | {"original_width": WIDTH, "original_height": HEIGHT} for entry in full]
    save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "a.png")
    (tmp_path / "min.json").write_text(json.dumps([{"id": 1, "image": "http://host/x/a.png", "tag": controls}]))
    proposal = propose(tmp_path, "own", "void")
    assert sorted(row.name for row in proposal.classes) == ["car", "road", "tree"]
    bare = [{"id": 7, "data": {"image": "a.png"}, "annotations": [{"id": 3, "result": [{"type": "choices"}]}]}]
    (tmp_path / "min.json").write_text(json.dumps(bare))
    for name, rows in (("sky", slice(0, 30)), ("road", slice(30, 72))):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[rows] = 255
        save(mask, tmp_path / f"task-7-annotation-3-by-1-tag-{name}-0.png")
    proposal = propose(tmp_path, "own")
    assert {row.name: row.pixels for row in proposal.classes} == {"road": 42 * WIDTH, "sky": 30 * WIDTH}


def test_images_are_found_by_paths_of_other_machines(tmp_path: Path) -> None:
    for name in ("one/a.png", "two/a.png", "b.png"):
        save(np.zeros((4, 4, 3), np.uint8), tmp_path / name)
    tree = Tree(tmp_path)
    near = tmp_path / "labels.json"
    assert tree.image("C:\\work\\two\\a.png", near) == tmp_path / "two/a.png"
    assert tree.image("/data/local-files/?d=one/a.png", near) == tmp_path / "one/a.png"
    assert tree.image("https://host/upload/01234567-b.png?x=1", near) == tmp_path / "b.png"
    assert tree.image("../../etc/passwd.png", near) is None
    with pytest.raises(UserError, match=r"labels\.json: 'a\.png' can be .* or .*; name the folder"):
        tree.image("a.png", near)


def test_coco_runs_are_decoded_as_pycocotools_does() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for seed in range(20):
        mask = np.asfortranarray(np.random.default_rng(seed).random((17, 23)) > 0.1 * (seed % 10)).astype(np.uint8)
        counts = coco.encode(mask)["counts"].decode()
        np.testing.assert_array_equal(Runs(counts).mask((23, 17)), mask > 0)


# Files made to harm

OUTLINES: dict[str, tuple[Outline, str]] = {
    "runs too long": (Runs([5, 10**12]), "do not add up to 8x6 pixels"),
    "runs below zero": (Runs([-5, 53]), "do not add up"),
    "a number in the text without an end": (Runs("ooo"), "end in a number"),
    "other letters": (Runs("\x7f\x01"), "damaged"),
    "a box outside": (Runs([0, 100], box=(0, 0, 10, 10)), "outside of the image"),
    "far outside": (Polygons([[(0, 0), (1e9, 0), (0, 1e9)]]), "far outside"),
    "far outside, coco": (Polygons([[(0, 0), (1e9, 0), (0, 1e9)]], fill="coco"), "far outside"),
    "not a number": (Polygons([[(0, 0), (float("nan"), 0), (0, 1)]]), "far outside"),
    "two points": (Polygons([[(0, 0), (1, 1)]]), "2 points"),
    "too many points": (Polygons([[(0, 0)] * 200_000]), "200000 points"),
    "a brush of another image": (Brush([255] * 40), "brush is of"),
    "a brush that ends": (Brush([0, 0, 0, 192, 57, 55, 31]), "ends too early"),
    "no PNG": (Bitmap(b"GIF89a"), "damaged"),
}


@pytest.mark.parametrize("case", OUTLINES)
def test_an_outline_that_cannot_be_is_one_line(case: str) -> None:
    outline, message = OUTLINES[case]
    image = LabeledImage(Path("a.png"), [Region("wall", outline)], None, Path("a.json"))
    with pytest.raises(ValueError, match=message) as caught:
        draw(image, (8, 6), {"wall": 0})
    assert "'wall'" in str(caught.value)


def test_compressed_numbers_do_not_grow_without_end() -> None:
    with pytest.raises(ValueError, match="damaged"):
        uncompressed("o" * 100)


HOSTILE: dict[str, tuple[str, str, str]] = {
    "deep": ("a.json", '{"shapes": ' + "[" * 100_000, "no label maps|no images"),
    "no list": ("a.json", '{"shapes": 3, "imagePath": "a.png"}', r"a\.json: not labelme's JSON"),
    "keys missing": ("a.json", '{"shapes": [{"label": "x"}], "imagePath": "a.png"}', r"a\.json: .*no 'points'"),
    "no image": ("a.json", '{"shapes": [], "imagePath": "../../etc/x.png"}', "none of their images"),
    "images missing": ("a.json", '{"images": [], "annotations": 1, "categories": []}', r"a\.json: not COCO's JSON"),
    "category missing": (
        "a.json",
        '{"images": [], "annotations": [{"category_id": 9, "image_id": 1, "segmentation": [[1,1,2,2,3,1]]}], '
        '"categories": []}',
        r"a\.json: not COCO's JSON as the tool writes it \(no 9\)",
    ),
    "entities": (
        "a.xml",
        '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotations><image name="&b;"/></annotations>',
        r"a\.xml: cannot be read as CVAT's XML \(it has a DTD",
    ),
    "external entity": (
        "a.xml",
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotations>&a;</annotations>',
        "it has a DTD",
    ),
    "damaged xml": ("a.xml", "<annotations><image", r"a\.xml: cannot be read as CVAT's XML"),
    "deep xml": ("a.xml", "<annotations>" + "<a>" * 200_000, r"a\.xml: cannot be read as CVAT's XML"),
    "yaml aliases": ("data.yaml", "a: &a [1]\nb: &b [*a, *a]\nnames: *b\n", "no label maps|no images"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_export_is_one_line(case: str, tmp_path: Path) -> None:
    name, text, message = HOSTILE[case]
    (tmp_path / name).write_text(text)
    save(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png")
    with pytest.raises(UserError, match=message) as caught:
        propose(tmp_path, "own")
    assert "\n" not in str(caught.value)


def test_a_bitmap_that_grows_is_refused(tmp_path: Path) -> None:
    folder = place("supervisely", tmp_path / "data")
    content = json.loads((EXPORTS / "supervisely.json").read_text())
    content["objects"][1]["bitmap"]["data"] = base64.b64encode(zlib.compress(bytes(1 << 27))).decode()
    (folder / "ds0/ann/a.png.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="a bitmap of more than 64 MiB"):
        propose(folder, "own", "void")


def test_labels_for_another_size_are_refused(tmp_path: Path) -> None:
    folder = place("cvat", tmp_path / "data")
    save(np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8), folder / "images/a.png")
    with pytest.raises(UserError, match=r"annotations\.xml: labels for 96x72, but .*a\.png is 192x144"):
        propose(folder, "own", "void")


def test_labels_in_the_recipes_folder_only_where_it_says_so(tmp_path: Path, command: Callable[..., int]) -> None:
    write_proposal(propose(place("coco", tmp_path / "data"), "own", "void"), file := tmp_path / "recipe/own.toml")
    layout = load_recipe(file).layouts[0]
    assert layout.labels_in == "recipe"
    assert layout.label_folder(tmp_path / "data") == tmp_path / "recipe"
    assert command("data", file, "--data", tmp_path / "data") == 0
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(file.read_text().replace('"recipe"', '"/etc"'))
    with pytest.raises(UsageError, match="labels_in"):
        load_recipe(elsewhere)


def test_label_maps_of_frames_that_are_left_out_now_are_deleted(tmp_path: Path) -> None:
    folder, file = place("labelme", tmp_path / "data"), tmp_path / "own.toml"
    write_proposal(propose(folder, "own", "void"), file)
    maps = tmp_path / "own-labels/images"
    assert {path.name for path in maps.iterdir()} == {"a.png", "b.png", "c.png"}
    for path in (file, folder / "labels/b.json", *tmp_path.glob("own-*.txt")):
        path.unlink()
    (mine := maps / "mine.png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(UsageError, match=r"mine\.png was not written by linknet-fastai"):
        write_proposal(propose(folder, "own", "void"), file)
    assert (maps / "b.png").is_file()
    mine.unlink()
    write_proposal(propose(folder, "own", "void"), file)
    assert {path.name for path in maps.iterdir()} == {"a.png", "c.png"}
    file.rename(tmp_path / "round1.toml")
    for path in tmp_path.glob("own-*.txt"):
        path.unlink()
    with pytest.raises(UsageError, match=r"round1\.toml reads the label maps in own-labels/; name another"):
        write_proposal(propose(folder, "own", "void"), file)


def test_a_rectangle_may_have_four_corners(tmp_path: Path) -> None:
    """As X-AnyLabeling writes them since its version 2.2."""
    save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "a.png")
    corners = [[10, 10], [50, 10], [50, 40], [10, 40]]
    pixels = {}
    for points in (corners, corners[::2]):
        shape = {"label": "car", "shape_type": "rectangle", "points": points}
        (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
        pixels[len(points)] = {row.name: row.pixels for row in propose(tmp_path, "own").classes}["car"]
    assert pixels[4] == pixels[2] == 41 * 31


@pytest.mark.parametrize("val", ["valid", "instances_validation", "val2017"])
def test_files_of_splits_are_the_splits_whatever_they_are_called(val: str, tmp_path: Path) -> None:
    folder = place("coco", tmp_path / "data")
    content = json.loads((folder / "instances.json").read_text())
    (folder / "instances.json").unlink()
    for name, image in zip(("instances_training", val, "test"), content["images"], strict=True):
        own = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        (folder / f"{name}.json").write_text(json.dumps(content | {"images": [image], "annotations": own}))
    proposal = propose(folder, "own", "void")
    assert proposal.lists == {
        f"own-{split}.txt": [f"images/{stem}.png"] for split, stem in (("train", "a"), ("val", "b"), ("test", "c"))
    }
    assert "validate_on" not in proposal.table["training"]


def test_a_keypoint_of_label_studio_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = place("label_studio", tmp_path / "data")
    file = folder / "project-1.json"
    tasks = json.loads(file.read_text())
    point = {"x": 5.0, "y": 5.0, "width": 0.6, "keypointlabels": ["car"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    tasks[0]["annotations"][0]["result"].append({"type": "keypointlabels", "value": point, **size})
    file.write_text(json.dumps(tasks))
    assert "regions that are no outline, left out: 1" in propose(folder, "own", "void").notes


def test_empty_lines_of_yolo_and_other_yaml_files_with_names_are_no_error(tmp_path: Path) -> None:
    folder = place("yolo", tmp_path / "data")
    for file in (folder / "train/labels").iterdir():
        file.write_text("\n" + file.read_text() + "\n\n")
    (folder / "a.yaml").write_text("names: {first: x}\n")
    assert [row.name for row in propose(folder, "own", "void").classes] == ["car", "road"]


def test_one_class_and_void_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = place("yolo", tmp_path / "data")
    for file in (folder / "train/labels").iterdir():
        file.write_text(file.read_text().splitlines()[0])
    with pytest.raises(UserError, match=r"one class alone \(car\), and a network needs two; --unlabelled background"):
        propose(folder, "own", "void")


def test_what_is_not_ours_is_not_overwritten(tmp_path: Path) -> None:
    proposal = propose(place("coco", tmp_path / "data"), "own", "void")
    other = tmp_path / "own-labels/images/a.png"
    other.parent.mkdir(parents=True)
    other.write_bytes(png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(UsageError, match="was not written by linknet-fastai"):
        write_proposal(proposal, tmp_path / "own.toml")
    assert not (tmp_path / "own.toml").exists()
