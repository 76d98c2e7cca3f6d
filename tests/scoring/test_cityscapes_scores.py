"""The scores are those of the official Cityscapes script, which runs here itself."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import FULL_SIZE, label_files, save, write_cityscapes
from official_cityscapes import assert_same, official, official_scores
from PIL import Image

from linknet_fastai.scoring.cityscapes import LABELS, official_file_name, read_truth
from linknet_fastai.scoring.cityscapes_scores import AVERAGE_INSTANCE_SIZE, CityscapesScorer, CityscapesScores

SIZE = (96, 64)
ROAD, PARKING, PERSON, RIDER, CAR, CARAVAN, TRAILER, BICYCLE = 7, 9, 24, 25, 26, 29, 30, 33
EGO_VEHICLE = 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cities to train on, two of three frames to validate on; read only."""
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), SIZE, frames=3, extras=True)


def our_scores(predictions: list[Path], truth: list[Path]) -> CityscapesScores:
    scorer = CityscapesScorer()
    for prediction, label_file in zip(predictions, truth, strict=True):
        scorer.update(np.asarray(Image.open(prediction)), *read_truth(label_file))
    return scorer.scores()


Truth = tuple[np.ndarray, np.ndarray]


def of_anything(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return rng.integers(0, 34, truth.shape)


def of_an_average_network(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return np.where(rng.random(truth.shape) < 0.3, of_anything(rng, truth), truth)


def of_everything_right(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return truth


def of_the_ego_vehicle_as_a_car(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return np.where(truth == EGO_VEHICLE, CAR, truth)


def of_ignored_labels_of_the_right_category(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Parking for road, caravan or trailer for a vehicle, and both on other things."""
    guess = np.where(truth == ROAD, PARKING, truth)
    guess = np.where(
        (truth >= CAR) & (rng.random(truth.shape) < 0.5), rng.choice([CARAVAN, TRAILER], truth.shape), guess
    )
    return np.where(rng.random(truth.shape) < 0.1, CARAVAN, guess)


def of_neighbouring_classes(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Person for rider and back, one vehicle for another."""
    guess = np.select([truth == PERSON, truth == RIDER], [RIDER, PERSON], truth.astype(int))
    return np.where(truth >= CAR, rng.integers(CAR, BICYCLE + 1, truth.shape), guess)


def of_cars_everywhere(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return np.full_like(truth, CAR)


def of_nothing(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return np.zeros_like(truth)


def of_void_alone(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return rng.integers(0, 7, truth.shape)


@pytest.mark.parametrize(
    "predict",
    [
        of_anything,
        of_an_average_network,
        of_everything_right,
        of_the_ego_vehicle_as_a_car,
        of_ignored_labels_of_the_right_category,
        of_neighbouring_classes,
        of_cars_everywhere,
        of_nothing,
        of_void_alone,
    ],
)
def test_scores_equal_the_official_script_for_a_prediction(
    predict: Callable[[np.random.Generator, np.ndarray], np.ndarray], tree: Path, tmp_path: Path
) -> None:
    truth, rng, predictions = label_files(tree), np.random.default_rng(1), []
    for number, file in enumerate(truth):
        ids = predict(rng, np.asarray(Image.open(file))).astype(np.uint8)
        predictions.append(save(ids, tmp_path / f"{number}.png"))
    theirs = official_scores(predictions, truth, tmp_path / "official.json")
    assert_same(our_scores(predictions, truth).as_official_json(), theirs)


def blank(label_id: int) -> Truth:
    labels = np.full(SIZE[::-1], label_id, np.uint8)
    return labels, labels.astype(np.uint16)


def only_void() -> Truth:
    return blank(EGO_VEHICLE)


def only_groups() -> Truth:
    """Two groups and road: nothing to weigh, but false positives."""
    labels, _ = blank(ROAD)
    labels[:20], labels[20:30] = CAR, PERSON
    return labels, labels.astype(np.uint16)


def few_classes() -> Truth:
    """A single car on a road: 17 classes absent from truth."""
    labels, instances = blank(ROAD)
    labels[5:20, 5:40], instances[5:20, 5:40] = CAR, CAR * 1000
    return labels, instances


def ignored_instances() -> Truth:
    """Single caravans, trailers and dynamic things, whose labels are ignored; one car."""
    labels, instances = few_classes()
    for top, label_id in ((25, CARAVAN), (35, TRAILER), (45, 5)):
        labels[top : top + 8, 10:50], instances[top : top + 8, 10:50] = label_id, label_id * 1000 + 3
    return labels, instances


def disagreeing_maps() -> Truth:
    """Instances where the label map has something else, void included; the lowest and the highest n."""
    labels, instances = blank(ROAD)
    labels[:10] = EGO_VEHICLE
    instances[5:15, :30], instances[20:30, :30], instances[40:42] = PERSON * 1000, BICYCLE * 1000 + 999, 1000
    return labels, instances


@pytest.mark.parametrize("draw", [only_void, only_groups, few_classes, ignored_instances, disagreeing_maps])
@pytest.mark.parametrize("predict", [of_anything, of_everything_right, of_cars_everywhere, of_nothing])
def test_scores_equal_the_official_script_for_a_truth(
    draw: Callable[[], Truth],
    predict: Callable[[np.random.Generator, np.ndarray], np.ndarray],
    tmp_path: Path,
) -> None:
    labels, instances = draw()
    truth = save(labels, tmp_path / "ulm_000000_000019_gtFine_labelIds.png")
    save(instances, tmp_path / "ulm_000000_000019_gtFine_instanceIds.png")
    prediction = save(predict(np.random.default_rng(2), labels).astype(np.uint8), tmp_path / "prediction.png")
    theirs = official_scores([prediction], [truth], tmp_path / "official.json")
    assert_same(our_scores([prediction], [truth]).as_official_json(), theirs)


def test_scores_equal_the_official_script_on_a_full_size_frame(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, FULL_SIZE, cities={"val": ["lindau"]})
    truth, rng = label_files(tmp_path), np.random.default_rng(3)
    guess = of_an_average_network(rng, np.asarray(Image.open(truth[0])))
    predictions = [save(guess.astype(np.uint8), tmp_path / "prediction.png")]
    theirs = official_scores(predictions, truth, tmp_path / "official.json")
    assert_same(our_scores(predictions, truth).as_official_json(), theirs)


def test_only_evaluated_classes_have_scores() -> None:
    scorer = CityscapesScorer()
    scorer.update(*(np.arange(34, dtype=np.uint8)[None],) * 2, np.arange(34)[None])
    scores = scorer.scores()
    assert list(scores.class_iou) == [label.name for label in LABELS if not label.ignore_in_eval]
    assert list(scores.class_iiou) == list(AVERAGE_INSTANCE_SIZE)
    assert list(scores.category_iou) == ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]
    assert list(scores.category_iiou) == ["human", "vehicle"]
    assert scores.class_iou.mean == scores.category_iou.mean == 1


def test_without_frames_there_are_no_scores() -> None:
    scores = CityscapesScorer().scores().as_official_json()
    for key in ("classScores", "classInstScores", "categoryScores", "categoryInstScores", "priors"):
        assert set(scores[key].values()) == {None}
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_without_instance_ids_only_the_instance_scores_are_missing() -> None:
    labels, instances = few_classes()
    guess = of_anything(np.random.default_rng(4), labels).astype(np.uint8)
    with_instances, without = CityscapesScorer(), CityscapesScorer()
    with_instances.update(guess, labels, instances)
    without.update(guess, labels)
    full, part = (scorer.scores().as_official_json() for scorer in (with_instances, without))
    assert full["averageScoreInstClasses"] > 0
    for key in full:
        if "Inst" not in key:
            assert part[key] == full[key]
    assert part["averageScoreInstClasses"] is part["averageScoreInstCategories"] is None


def test_license_plates_stored_as_255_are_ignored_pixels() -> None:
    labels, instances = few_classes()
    guess = of_anything(np.random.default_rng(5), labels).astype(np.uint8)
    plates, ignored = labels.copy(), labels.copy()
    plates[10:15, 10:20], ignored[10:15, 10:20] = 255, EGO_VEHICLE
    results = []
    for truth in (plates, ignored):
        scorer = CityscapesScorer()
        scorer.update(guess, truth, instances)
        results.append(scorer.scores())
    assert results[0].class_iou == pytest.approx(results[1].class_iou, nan_ok=True)
    assert results[0].class_iiou == pytest.approx(results[1].class_iiou, nan_ok=True)
    assert results[1].confusion.sum() - results[0].confusion.sum() == 5 * 10


@pytest.mark.parametrize(
    ("guess", "truth", "instances", "message"),
    [
        (255, 7, 7, "predicted label id 255 is not in the official table"),
        (34, 7, 7, "predicted label id 34 "),
        (7, 34, 7, "true label id 34 "),
        (7, 254, 7, "true label id 254 "),
        (7, 7, 7001, "label id 7 has no instances"),
        (7, 7, 65535, "label id 65 has no instances"),
    ],
)
def test_a_value_outside_the_table_is_refused_and_nothing_counted(
    guess: int, truth: int, instances: int, message: str
) -> None:
    scorer = CityscapesScorer()
    maps = [np.full((3, 4), 7, np.uint8), np.full((3, 4), 7, np.uint8), np.full((3, 4), 7, np.uint16)]
    for ids, value in zip(maps, (guess, truth, instances), strict=True):
        ids[1, 2] = value
    with pytest.raises(ValueError, match=message):
        scorer.update(*maps)
    assert scorer.scores().confusion.sum() == 0


def test_maps_that_do_not_fit_are_refused() -> None:
    scorer, ids = CityscapesScorer(), np.zeros((3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"true label ids are \(4, 3\)"):
        scorer.update(ids, ids.T)
    with pytest.raises(ValueError, match=r"instance ids are \(4, 3\)"):
        scorer.update(ids, ids, ids.T)
    with pytest.raises(ValueError, match=r"HxW uint8, not .* int64"):
        scorer.update(ids.astype(np.int64), ids)
    scorer.update(ids, ids)
    with pytest.raises(ValueError, match="only some of the frames have instance ids"):
        scorer.update(ids, ids, ids)


def test_average_instance_sizes_are_the_official_ones() -> None:
    evaluated = {label.name for label in LABELS if not label.ignore_in_eval}
    sizes = {name: size for name, size in official.args.avgClassSize.items() if name in evaluated}
    assert sizes == AVERAGE_INSTANCE_SIZE


@pytest.fixture
def _found_by_the_script(monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path) -> None:
    """Points the script's own search at the tree and at tmp_path/results, as a user does by environment variables."""
    monkeypatch.setattr(official.args, "groundTruthSearch", str(tree / "gtFine/val/*/*_gtFine_labelIds.png"))
    monkeypatch.setattr(official.args, "predictionPath", str(tmp_path / "results"))
    monkeypatch.setattr(official.args, "predictionWalk", None)
    monkeypatch.setattr(official.args, "exportFile", str(tmp_path / "official.json"))
    monkeypatch.setattr(official.sys, "argv", ["evalPixelLevelSemanticLabeling.py"])


@pytest.mark.usefixtures("_found_by_the_script")
def test_the_official_script_finds_predictions_by_their_names(tree: Path, tmp_path: Path) -> None:
    images = sorted(tree.glob("leftImg8bit/val/*/*.png"))
    assert len(images) == 6
    for image, truth in zip(images, label_files(tree), strict=True):
        save(np.asarray(Image.open(truth)), tmp_path / "results" / image.parent.name / official_file_name(image))
    official.main()
    scores = json.loads((tmp_path / "official.json").read_text())
    assert scores["averageScoreClasses"] == scores["averageScoreInstClasses"] == 1
