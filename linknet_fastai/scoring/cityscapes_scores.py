"""The scores of the official Cityscapes evaluation from label ids: IoU and iIoU of classes and categories.

NumPy only; no files are read here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linknet_fastai.scoring.cityscapes import DRAWN_LABELS, LABELS
from linknet_fastai.scoring.scores import number

# Pixels of an average instance, `args.avgClassSize` of the official script; a test compares the two.
AVERAGE_INSTANCE_SIZE = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}

_N_IDS = len(DRAWN_LABELS)
_PLATE = 255  # -1, the license plate, in 8 bits
_SINGLE = 1000  # larger instance ids are single instances, label id * 1000 + n, as in the official script
_TILE_ROWS = 256

_EVALUATED = [label for label in LABELS if not label.ignore_in_eval]
_CLASS_IDS = {label.name: [label.id] for label in _EVALUATED}
_CATEGORIES = list(dict.fromkeys(label.category for label in LABELS))
_CATEGORY_IDS = {
    category: ids for category in _CATEGORIES if (ids := [lab.id for lab in _EVALUATED if lab.category == category])
}
# Categories in which all labels have instances, with the label ids that are correct there, ignored ones included.
_INSTANCE_CATEGORY_IDS = {
    category: [label.id for label in DRAWN_LABELS if label.category == category]
    for category in _CATEGORIES
    if all(label.has_instances for label in DRAWN_LABELS if label.category == category)
}
# By label id.
_CATEGORY_OF = np.array([label.category_id for label in DRAWN_LABELS], np.uint8)
_AVERAGE_SIZE = np.array([AVERAGE_INSTANCE_SIZE.get(label.name, 0.0) for label in DRAWN_LABELS])  # ignored: weight 0
_MAY_BE_SINGLE = np.array([label.has_instances or label.ignore_in_eval for label in DRAWN_LABELS])


@dataclass(frozen=True)
class CityscapesScores:
    """The scores of the official `evalPixelLevelSemanticLabeling`; fractions from 0 to 1, nan without pixels.

    IoU is TP / (TP + FP + FN) over all frames. FN are pixels of the truth predicted as anything else, ignored labels
    included; FP are predictions on pixels of other evaluated labels, so a prediction on an ignored pixel is not
    counted. In a category the prediction of an ignored label is wrong too: parking on road is FN of flat.

    iIoU is iTP / (iTP + FP + iFN): TP and FN of each single instance are weighted by the average size of its class
    divided by the instance's own size. Groups are not weighted in, and FP remain pixels.

    Attributes:
        class_iou: IoU of the 19 evaluated classes.
        class_iiou: iIoU of the 8 evaluated classes with instances.
        category_iou: IoU of the 7 categories.
        category_iiou: iIoU of human and vehicle. Here, as in the official script, caravan and trailer are correct
            on any vehicle's instance, and a false positive on pixels of other categories.
        confusion: pixels, 34x34 int64: rows are label ids of the truth, columns the predicted ones.
    """

    class_iou: dict[str, float]
    class_iiou: dict[str, float]
    category_iou: dict[str, float]
    category_iiou: dict[str, float]
    confusion: np.ndarray

    @property
    def mean_class_iou(self) -> float:
        """Mean of the class IoU that are not nan, the benchmark's main figure."""
        return _mean(self.class_iou.values())

    @property
    def mean_class_iiou(self) -> float:
        """Mean of the class iIoU that are not nan."""
        return _mean(self.class_iiou.values())

    @property
    def mean_category_iou(self) -> float:
        """Mean of the category IoU that are not nan."""
        return _mean(self.category_iou.values())

    @property
    def mean_category_iiou(self) -> float:
        """Mean of the category iIoU that are not nan."""
        return _mean(self.category_iiou.values())

    def as_official_json(self) -> dict[str, Any]:
        """What the official script writes, under its own keys, with None for its NaN, which JSON does not have.

        As there, class scores list all 34 ids and category scores include void; ignored ones have no score.
        """
        names = [label.name for label in DRAWN_LABELS]
        pixels = max(int(self.confusion.sum()), 1)
        shares = [int(row.sum()) / pixels if self.confusion.any() else None for row in self.confusion]
        return {
            "averageScoreClasses": number(self.mean_class_iou),
            "averageScoreInstClasses": number(self.mean_class_iiou),
            "averageScoreCategories": number(self.mean_category_iou),
            "averageScoreInstCategories": number(self.mean_category_iiou),
            "classScores": _filled(self.class_iou, names),
            "classInstScores": _filled(self.class_iiou, names),
            "categoryScores": _filled(self.category_iou, _CATEGORIES),
            "categoryInstScores": _filled(self.category_iiou, _CATEGORIES),
            "labels": {label.name: label.id for label in DRAWN_LABELS},
            "priors": dict(zip(names, shares, strict=True)),
            "confMatrix": self.confusion.tolist(),
        }


class CityscapesScorer:
    """Counts frames as the official `evalPixelLevelSemanticLabeling` does.

    Instances are weighted by their size within a frame, so each frame is counted whole, and once.

    Example:
        >>> scorer = CityscapesScorer()
        >>> scorer.update(np.array([[7, 26]], np.uint8), np.array([[7, 7]], np.uint8))
        >>> scorer.scores().class_iou["road"]
        0.5
    """

    def __init__(self) -> None:
        self._confusion = np.zeros((_N_IDS, _N_IDS), np.int64)
        # By the label id of the instance, (weighted TP, weighted FN): as its class, and as its category.
        self._class_instances = np.zeros((_N_IDS, 2))
        self._category_instances = np.zeros((_N_IDS, 2))
        self._with_instances: bool | None = None

    def update(
        self, predicted_ids: np.ndarray, truth_ids: np.ndarray, instance_ids: np.ndarray | None = None
    ) -> None:
        """Count a frame.

        Args:
            predicted_ids: HxW uint8, label ids from 0 to 33.
            truth_ids: HxW uint8, label ids from 0 to 33; 255 (license plate, -1) counts as an ignored label. The
                official script rejects it, so such pixels are in no row of `confusion`.
            instance_ids: HxW integers: label id * 1000 + n for a single instance, the label id everywhere else.
                Without them every iIoU is nan.

        Raises:
            ValueError: wrong sizes, types or values, or only some of the frames have instances. The frame is then
                not counted.
        """
        for name, ids in (("predicted", predicted_ids), ("true", truth_ids)):
            if ids.dtype != np.uint8 or ids.ndim != 2:
                raise ValueError(f"{name} label ids must be HxW uint8, not {ids.shape} {ids.dtype}")
        for name, other in (("true label ids", truth_ids), ("instance ids", instance_ids)):
            if other is not None and other.shape != predicted_ids.shape:
                raise ValueError(f"{name} are {other.shape}, the predicted ones {predicted_ids.shape}")
        with_instances = instance_ids is not None
        if self._with_instances not in (None, with_instances):
            raise ValueError("only some of the frames have instance ids")
        confusion = _count_pairs(predicted_ids, truth_ids)
        if instance_ids is not None:
            self._count_instances(predicted_ids, instance_ids)
        self._confusion += confusion
        self._with_instances = with_instances

    def _count_instances(self, predicted_ids: np.ndarray, instance_ids: np.ndarray) -> None:
        single = instance_ids > _SINGLE
        ids, predicted = instance_ids[single], predicted_ids[single]
        labels = ids // 1000
        if unknown := [i for i in np.flatnonzero(np.bincount(labels)) if i >= _N_IDS or not _MAY_BE_SINGLE[i]]:
            raise ValueError(f"instance ids {unknown[0]}000 and up: label id {unknown[0]} has no instances")
        sizes = np.bincount(ids)
        present = np.flatnonzero(sizes)
        weights = _AVERAGE_SIZE[present // 1000] / sizes[present]
        correct_as_class = predicted == labels
        correct_as_category = _CATEGORY_OF[predicted] == _CATEGORY_OF[labels]
        for table, correct in (
            (self._class_instances, correct_as_class),
            (self._category_instances, correct_as_category),
        ):
            hits = np.bincount(ids[correct], minlength=len(sizes))
            hits_and_misses = np.stack([hits, sizes - hits], axis=1)[present]
            np.add.at(table, present // 1000, hits_and_misses * weights[:, None])

    def scores(self) -> CityscapesScores:
        """The scores of all frames so far."""
        return CityscapesScores(
            class_iou={name: self._iou(ids) for name, ids in _CLASS_IDS.items()},
            class_iiou={
                name: self._iiou(self._class_instances, _CLASS_IDS[name], _CLASS_IDS[name])
                for name in _CLASS_IDS
                if name in AVERAGE_INSTANCE_SIZE
            },
            category_iou={category: self._iou(ids) for category, ids in _CATEGORY_IDS.items()},
            category_iiou={
                category: self._iiou(self._category_instances, _CATEGORY_IDS[category], ids)
                for category, ids in _INSTANCE_CATEGORY_IDS.items()
            },
            confusion=self._confusion.copy(),
        )

    def _iou(self, ids: list[int]) -> float:
        truth = self._confusion[ids]
        right = int(truth[:, ids].sum())
        return _score(right, self._false_positives(ids, ids), int(truth.sum()) - right)

    def _iiou(self, instances: np.ndarray, ids: list[int], predicted_as: list[int]) -> float:
        if not self._with_instances:
            return math.nan
        right, wrong = instances[ids].sum(axis=0).tolist()
        return _score(right, self._false_positives(ids, predicted_as), wrong)

    def _false_positives(self, ids: list[int], predicted_as: list[int]) -> int:
        """Pixels of evaluated labels other than `ids` that were predicted as one of `predicted_as`."""
        others = [label.id for label in _EVALUATED if label.id not in ids]
        return int(self._confusion[np.ix_(others, predicted_as)].sum())


def _count_pairs(predicted_ids: np.ndarray, truth_ids: np.ndarray) -> np.ndarray:
    """Pixels by true and predicted label id, 34x34 int64."""
    counts = np.zeros(1 << 16, np.int64)
    for top in range(0, len(truth_ids), _TILE_ROWS):  # in tiles, because bincount converts its input to 64 bits
        rows = slice(top, top + _TILE_ROWS)
        pairs = truth_ids[rows].astype(np.uint16) << 8 | predicted_ids[rows]
        counts += np.bincount(pairs.ravel(), minlength=1 << 16)
    table = counts.reshape(256, 256)
    true, predicted = np.flatnonzero(table.any(axis=1)), np.flatnonzero(table.any(axis=0))
    for name, unknown in (
        ("true", true[(true >= _N_IDS) & (true != _PLATE)]),
        ("predicted", predicted[predicted >= _N_IDS]),
    ):
        if len(unknown):
            raise ValueError(f"{name} label id {unknown[0]} is not in the official table (0 to {_N_IDS - 1})")
    return table[:_N_IDS, :_N_IDS]


def _score(right: float, false_positives: float, false_negatives: float) -> float:
    union = right + false_positives + false_negatives
    return right / union if union else math.nan


def _mean(values: Iterable[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def _filled(scores: dict[str, float], names: Iterable[str]) -> dict[str, float | None]:
    return {name: number(scores.get(name, math.nan)) for name in names}
