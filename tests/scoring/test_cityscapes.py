"""Labels, layout and names are those of the official Cityscapes tools, which run here themselves."""

from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import draw_ids, draw_scene, label_files, save, write_cityscapes
from cityscapesscripts.helpers import labels as official_labels
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.images import VOID
from linknet_fastai.data.open import open_dataset
from linknet_fastai.scoring.cityscapes import LABELS, label_ids_of_channels, official_file_name, read_truth

SIZE = (96, 64)
CAR = 26


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cities to train on, two of three frames to validate on; read only."""
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), SIZE, frames=3, extras=True)


def test_the_table_of_labels_is_the_official_one() -> None:
    assert [
        (
            label.name,
            label.id,
            label.train_id,
            label.category,
            label.category_id,
            label.has_instances,
            label.ignore_in_eval,
            label.color,
        )
        for label in LABELS
    ] == [tuple(label) for label in official_labels.labels]


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes34"])
def test_channels_become_the_label_ids_that_the_recipe_reads(name: str) -> None:
    recipe = load_recipe(name)
    ids = label_ids_of_channels(recipe.class_names)
    assert ids.dtype == np.uint8
    values = recipe.layouts[0].values
    assert [recipe.channel_of_label[values[label_id]] for label_id in ids.tolist()] == list(range(len(ids)))
    train_ids = [label.train_id for label in LABELS if label.id in ids]
    assert train_ids == list(range(19)) or len(ids) == 34


def test_the_recipe_has_the_official_colors() -> None:
    colors = {label.name: label.color for label in LABELS}
    for name in ("cityscapes", "cityscapes34"):
        assert {entry.name: entry.color for entry in load_recipe(name).classes}.items() <= colors.items()


def test_classes_of_another_data_set_have_no_label_ids() -> None:
    with pytest.raises(UsageError, match="'Sky' is not a Cityscapes label"):
        label_ids_of_channels(load_recipe("camvid").class_names)
    with pytest.raises(UsageError, match="'license plate' is not a Cityscapes label"):
        label_ids_of_channels(["road", "license plate"])


def test_a_prediction_is_named_after_its_frame() -> None:
    named = "bad honnef-süd_000001_000019_pred_labelIds.png"
    assert official_file_name(Path("x/bad honnef-süd_000001_000019_leftImg8bit.png")) == named
    assert official_file_name(Path("bad honnef-süd_000001_000019.jpg")) == named


@pytest.mark.parametrize("name", ["0001TP_006690.png", "bad_honnef_000000_000019.png", "ulm_1_19_leftImg8bit.png"])
def test_a_frame_without_a_cityscapes_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: not a Cityscapes name"):
        official_file_name(Path(name))


def test_truth_that_cannot_be_read_names_its_file(tmp_path: Path) -> None:
    file = save(np.full((4, 4, 3), (128, 64, 128), np.uint8), tmp_path / "ulm_000000_000019_gtFine_labelIds.png")
    with pytest.raises(UserError, match=r"labelIds\.png: cannot read these ids \(mode RGB"):
        read_truth(file)
    save(np.zeros((4, 4), np.uint8), file)
    labels, instances = read_truth(file)
    assert (labels.dtype, instances) == (np.uint8, None)
    broken = tmp_path / "ulm_000000_000019_gtFine_instanceIds.png"
    broken.write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"instanceIds\.png: cannot read these ids"):
        read_truth(file)


# The generator


def test_the_generated_maps_are_those_that_the_official_tools_draw(tree: Path) -> None:
    files = sorted(tree.glob("gtFine/*/*/*_polygons.json"))
    assert len(files) == 12
    for file in files:
        annotation = Annotation()
        annotation.fromJsonFile(str(file))
        labels, instances = read_truth(file.with_name(file.name.replace("polygons.json", "labelIds.png")))
        assert np.array_equal(labels, np.array(createLabelImage(annotation, "ids")))
        assert np.array_equal(instances, np.array(createInstanceImage(annotation, "ids")))
        color = Image.open(file.with_name(file.name.replace("polygons.json", "color.png")))
        assert np.array_equal(color, createLabelImage(annotation, "color"))


def test_the_generated_frames_have_every_label_and_single_instances_and_groups(tree: Path) -> None:
    maps = [read_truth(file) for split in ("train", "val") for file in label_files(tree, split)]
    assert set(np.unique([labels for labels, _ in maps])) == set(range(34))
    ids = set(np.unique([instances for _, instances in maps]))
    assert {CAR, CAR * 1000, CAR * 1000 + 1} <= ids
    assert max(ids) < 34000


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(tree: Path, tmp_path: Path) -> None:
    again = write_cityscapes(tmp_path / "again", SIZE, frames=3, extras=True)
    files = sorted(path.relative_to(tree) for path in tree.rglob("*.*") if path.is_file())
    assert all((tree / file).read_bytes() == (again / file).read_bytes() for file in files)
    other = write_cityscapes(tmp_path / "other", SIZE, seed=1, frames=3)
    assert label_files(tree)[0].read_bytes() != label_files(other)[0].read_bytes()


def test_license_plates_are_255_in_every_other_file_and_read_as_void(tmp_path: Path) -> None:
    dataset = open_dataset("cityscapes", write_cityscapes(tmp_path, SIZE, frames=3, plates_as_255=True))
    frames = dataset.frames("train") + dataset.frames("val")
    with_plates = [frame.label for frame in frames if (read_truth(frame.label)[0] == 255).any()]
    assert 0 < len(with_plates) <= len(frames) // 2
    for file in with_plates:
        assert (dataset.read_label(file)[read_truth(file)[0] == 255] == VOID).all()


def test_the_cities_of_a_split_are_found_odd_names_too(tree: Path) -> None:
    stems = [frame.stem for frame in open_dataset("cityscapes34", tree).frames("val")]
    assert stems == [f"{city}_{n:06}_000019" for city in ("bad honnef-süd", "lindau") for n in range(3)]


def test_a_test_split_has_no_labels_but_borders(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, SIZE, cities={"test": ["berlin"]})
    labels, _ = read_truth(label_files(tmp_path, "test")[0])
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_scenes_cover_instances_with_others() -> None:
    boxes = draw_scene(np.random.default_rng(0), SIZE)
    _, instances = draw_ids(boxes, SIZE)
    drawn = sum((box.right - box.left) * (box.bottom - box.top) for box in boxes if box.name == "car")
    assert 0 < (instances // 1000 == CAR).sum() < drawn
