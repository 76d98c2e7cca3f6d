"""Pre-annotations of `predict --format`: what a label tool gets is what was predicted, by the readers of exports."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Drawn, save
from PIL import Image, ImageDraw

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.engine import NATIVE
from linknet_fastai.labeling.look import propose, write_proposal
from linknet_fastai.labeling.runs import brush_values
from linknet_fastai.labeling.shapes import Polygons
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.annotations import annotate_images, annotation_jobs, annotations_of
from linknet_fastai.predict.label_files import LabelFormat, brush, run_lengths
from linknet_fastai.predict.outlines import Piece, find_pieces, outline

FORMATS: tuple[LabelFormat, ...] = ("coco", "labelme", "cvat", "label-studio")
WIDTH, HEIGHT = 120, 90
NAMES = ["road", "tree & bush", "pole", "car"]
CLASSES = [{"id": n, "name": name, "color": (50 * n, 9, 250 - 50 * n)} for n, name in enumerate(NAMES)]
CARD = ModelCard(recipe="drawn", classes=CLASSES, void={"id": 255}, size=(WIDTH, HEIGHT))


@pytest.fixture
def engine() -> Drawn:
    return Drawn(CARD, "fp32", NATIVE)


def drawn_map(seed: int) -> np.ndarray:
    """A class map with thin slanted poles, a car with windows, pixels that touch at a corner, and void."""
    labels = Image.new("L", (WIDTH, HEIGHT), 0)
    pen = ImageDraw.Draw(labels)
    rng = np.random.default_rng(seed)
    pen.polygon([(0, 0), (WIDTH, 0), (WIDTH, 35), (80, 20 + seed), (40, 44), (0, 31)], 1)
    pen.ellipse((50, 40, 100, 80), 3)
    pen.rectangle((60, 50, 72, 60), 0)  # a hole
    pen.rectangle((64, 53, 66, 56), 2)  # with something in it
    for x in rng.integers(5, 110, 3):
        pen.line((x, 12, x + 6, 70), 2, width=1 + seed % 3)
    pen.rectangle((0, 84, 30, HEIGHT), 255)
    labels.putpixel((20, 50), 3)
    labels.putpixel((21, 51), 3)
    return np.asarray(labels).copy()


def frames(folder: Path, confidence: int = 204) -> dict[str, np.ndarray]:
    """Three frames whose prediction is known."""
    maps = {stem: drawn_map(seed) for seed, stem in enumerate("abc")}
    for stem, labels in maps.items():
        pixels = np.dstack([labels, np.full_like(labels, confidence), np.zeros_like(labels)])
        save(pixels, folder / f"{stem}.png")
    return maps


def accepted(file: Path) -> None:
    """Label Studio's export after a person accepted the predictions."""
    tasks = json.loads(file.read_text())
    for number, task in enumerate(tasks):
        (prediction,) = task.pop("predictions")
        task |= {"id": number, "annotations": [{"id": number, "result": prediction["result"]}]}
    file.write_text(json.dumps(tasks))


def read_back(folder: Path, out: Path, format: LabelFormat, recipe: Path) -> dict[str, np.ndarray]:
    """The label maps that `recipes --from` makes of the annotations, as channels."""
    written = annotations_of(out, format)
    if format == "label-studio":
        accepted(written)
    for file in [written] if written.is_file() else sorted(written.iterdir()):
        file.rename(folder / file.name)
    write_proposal(propose(folder, "own", "void"), recipe)
    dataset = open_dataset(recipe, folder)
    table = np.full(256, 255, np.uint8)
    table[: len(dataset.recipe.classes)] = [NAMES.index(name) for name in dataset.recipe.class_names]
    found = [frame for split in dataset.recipe.splits for frame in dataset.frames(split)]
    return {frame.image.stem: table[dataset.read_label(frame.label)] for frame in found}


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_predicted_comes_back(format: LabelFormat, engine: Drawn, tmp_path: Path) -> None:
    maps = frames(folder := tmp_path / "data")
    out = tmp_path / "out"
    jobs = annotation_jobs([folder], out, format)
    assert annotate_images(engine, jobs, out, format, tolerance=0, min_pixels=1) == []
    back = read_back(folder, out, format, tmp_path / "own.toml")
    assert sorted(back) == ["a", "b", "c"]
    same = np.mean([back[stem] == labels for stem, labels in maps.items()])
    # Label tools have their own rules for pixels that a polygon cuts; labelme and Label Studio draw them whole.
    assert same > (0.999 if format in ("labelme", "label-studio") else 0.99)


@pytest.mark.parametrize("format", FORMATS)
def test_masks_come_back_exactly(
    format: LabelFormat, engine: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = frames(folder := tmp_path / "data")
    monkeypatch.setattr(Piece, "has_holes", True)
    out = tmp_path / "out"
    annotate_images(engine, annotation_jobs([folder], out, format), out, format, min_pixels=1)
    back = read_back(folder, out, format, tmp_path / "own.toml")
    for stem, labels in maps.items():
        np.testing.assert_array_equal(back[stem], labels)


def test_small_pieces_are_left_out_and_small_holes_filled() -> None:
    channels = np.zeros((20, 30), np.uint8)
    channels[5:8, 5:8] = 1  # 9 pixels, in a hole of 0
    channels[12:16, 12:17] = 255  # 20 pixels of void, another hole
    (piece,) = find_pieces(channels, 2, min_pixels=10)
    assert (piece.channel, piece.pixels, piece.has_holes) == (0, 600 - 20, True)
    assert [each.pixels for each in find_pieces(channels, 2, min_pixels=9)] == [600 - 29, 9]
    assert not find_pieces(channels, 2, min_pixels=21)[0].has_holes


def distance(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """How far each point is from a closed ring."""
    found = np.full(len(points), np.inf)
    for start, end in zip(ring, np.roll(ring, -1, 0), strict=True):
        along = end - start
        place = np.clip((points - start) @ along / (along @ along), 0, 1)
        found = np.minimum(found, np.hypot(*(points - start - place[:, None] * along).T))
    return found


@pytest.mark.parametrize("tolerance", [0.5, 1, 2])
def test_a_polygon_is_within_the_tolerance(tolerance: float) -> None:
    y, x = np.mgrid[:80, :80]
    disc = Piece(0, 3, 5, (x - 40) ** 2 + (y - 40) ** 2 < 38**2)
    exact, ring = outline(disc), outline(disc, tolerance)
    assert len(ring) < len(exact) / 2
    assert 0 < distance(exact, ring).max() <= tolerance


def test_a_thin_pole_keeps_its_area() -> None:
    ring = outline(Piece(0, 0, 0, np.ones((40, 2), bool)), tolerance=5)
    assert np.ptp(ring, 0).tolist() == [2, 40]


def test_pixels_that_touch_at_a_corner_are_one_polygon() -> None:
    (piece,) = find_pieces(np.where(np.eye(6, dtype=bool), 0, 255).astype(np.uint8), 1)
    ring = outline(piece, 0, inset=0.25)
    drawn = Polygons([ring.tolist()]).mask((6, 6))
    np.testing.assert_array_equal(drawn, np.eye(6, dtype=bool))


def test_runs_of_a_brush_are_those_of_label_studio() -> None:
    masks = [np.random.default_rng(seed).random((31, 57)) < seed / 5 for seed in range(6)]
    masks.append(np.arange(400 * 300).reshape(300, 400) > 70_000)  # runs longer than one length can be
    for mask in masks:
        np.testing.assert_array_equal(brush_values(brush(mask), mask.shape[::-1])[..., 3] == 255, mask)
        assert sum(run_lengths(mask.ravel())) == mask.size


def test_scores_are_where_a_format_has_them_and_uncertain_pixels_get_no_label(engine: Drawn, tmp_path: Path) -> None:
    frames(folder := tmp_path / "data")
    out = tmp_path / "out"
    for format in FORMATS:
        annotate_images(engine, annotation_jobs([folder], out, format), out, format)
    coco = json.loads((out / "coco.json").read_text())
    assert {entry["score"] for entry in coco["annotations"]} == {0.8}
    assert [entry["name"] for entry in coco["categories"]] == NAMES
    assert [entry["id"] for entry in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    (prediction,) = json.loads((out / "label-studio.json").read_text())[0]["predictions"]
    assert (prediction["score"], prediction["result"][0]["score"]) == (0.8, 0.8)
    label_studio = json.loads((out / "label-studio.json").read_text())
    assert label_studio[0]["data"]["image"] == "/data/local-files/?d=data/a.png"
    controls = {element.get("name") for element in ElementTree.parse(out / "label-studio-labels.xml").getroot()}
    assert {result["from_name"] for result in prediction["result"]} | {"image"} <= controls
    assert [label["name"] for label in json.loads((out / "cvat-labels.json").read_text())] == NAMES
    labelme = json.loads((out / "labelme/a.json").read_text())
    assert labelme["imagePath"] == "../../data/a.png"
    annotate_images(engine, annotation_jobs([folder], out, "coco"), out, "coco", below=0.9)
    assert json.loads((out / "coco.json").read_text())["annotations"] == []


def test_background_has_no_shapes(tmp_path: Path) -> None:
    frames(folder := tmp_path / "data")
    classes = [CLASSES[0] | {"name": "Background"}, *CLASSES[1:]]
    card = ModelCard(recipe="drawn", classes=classes, void={"id": 255}, size=(WIDTH, HEIGHT))
    jobs = annotation_jobs([folder], out := tmp_path / "out", "coco")
    annotate_images(Drawn(card, "fp32", NATIVE), jobs, out, "coco")
    coco = json.loads((out / "coco.json").read_text())
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    assert {names[entry["category_id"]] for entry in coco["annotations"]} == set(NAMES[1:])


def test_corrections_of_a_person_are_never_overwritten(engine: Drawn, tmp_path: Path) -> None:
    frames(folder := tmp_path / "data")
    out = tmp_path / "out"
    annotate_images(engine, annotation_jobs([folder], out, "labelme"), out, "labelme")
    annotation_jobs([folder], out, "labelme")  # a second prediction replaces the first
    file = out / "labelme/b.json"
    content = json.loads(file.read_text())
    known = ("version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth")
    # As labelme saves it: its own keys first, then those that it does not know.
    saved = {key: content[key] for key in known} | {key: content[key] for key in content if key not in known}
    file.write_text(json.dumps(saved, indent=2))
    with pytest.raises(UsageError, match=r"b\.json: already exists and was not written by linknet-fastai"):
        annotation_jobs([folder], out, "labelme")


def test_a_frame_that_cannot_be_read_is_left_out(engine: Drawn, tmp_path: Path) -> None:
    frames(folder := tmp_path / "data")
    (folder / "b.png").write_bytes(b"no image")
    out = tmp_path / "out"
    (failure,) = annotate_images(engine, annotation_jobs([folder], out, "cvat"), out, "cvat")
    assert "b.png" in failure
    root = ElementTree.parse(out / "cvat.xml").getroot()
    assert [(image.get("id"), image.get("name")) for image in root.iter("image")] == [("0", "a.png"), ("1", "c.png")]


def test_ctrl_c_keeps_the_shapes_of_the_frames_that_are_done(engine: Drawn, tmp_path: Path) -> None:
    frames(folder := tmp_path / "data")
    out = tmp_path / "out"

    def stop_after_two(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate_images(engine, annotation_jobs([folder], out, "coco"), out, "coco", progress=stop_after_two)
    assert len(json.loads((out / "coco.json").read_text())["images"]) >= 2


def test_a_place_that_cannot_be_written_is_an_error_before_the_first_frame(engine: Drawn, tmp_path: Path) -> None:
    frames(folder := tmp_path / "data")
    (tmp_path / "out").write_text("a file, no folder")
    jobs, steps = annotation_jobs([folder], tmp_path / "out", "coco"), []
    with pytest.raises(UserError, match="out: cannot be written into"):
        annotate_images(engine, jobs, tmp_path / "out", "coco", progress=lambda *step: steps.append(step))
    assert steps == []


def test_predict_writes_shapes_and_only_them(
    command: Callable[..., int], model: Path, street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = street_data / "val/images", tmp_path / "out"
    assert command("predict", model, images, "--out", out, "--format", "coco", "--tolerance", "0") == 0
    assert [file.name for file in out.iterdir()] == ["coco.json"]
    assert "coco.json" in capsys.readouterr().out
    assert command("predict", model, images, "--out", out, "--palette", "--masks-only") == 0
    for file in (out / "masks").iterdir():
        with Image.open(file) as mask:
            assert mask.mode == "P"
            ids, colors = np.asarray(mask), np.asarray(mask.convert("RGB"))
        for entry in load_recipe("street").classes:
            assert (colors[ids == entry.id] == entry.color).all()
        assert ids.max() < 11
