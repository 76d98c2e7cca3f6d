"""The scores of the official Cityscapes evaluation from label ids: IoU and iIoU of classes and categories.

NumPy only; no files are read here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linknet_fastai.scoring.cityscapes import DRAWN_LABELS, LABEL_IDS, LABELS
from linknet_fastai.scoring.scores import count_pixels, number

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

_EVALUATED = [label for label in LABELS if not label.ignore_in_eval]
_CATEGORIES = list(dict.fromkeys(label.category for label in LABELS))
_CATEGORY_IDS = {
    category: ids for category in _CATEGORIES if (ids := [lab.id for lab in _EVALUATED if lab.category == category])
}
# Categories in which all labels have instances, with the label ids that are correct there, ignored ones included.
_INSTANCE_CATEGORY_IDS = {
    category: [label.id for label in DRAWN_LABELS if label.category == category] for category in ("human", "vehicle")
}
# By label id.
_CATEGORY_OF = np.array([label.category_id for label in DRAWN_LABELS], np.uint8)
_AVERAGE_SIZE = np.array([AVERAGE_INSTANCE_SIZE.get(label.name, 0.0) for label in DRAWN_LABELS])  # ignored: weight 0
_MAY_BE_SINGLE = np.array([label.has_instances or label.ignore_in_eval for label in DRAWN_LABELS])


class NamedScores(dict[str, float]):
    """Scores by the name of a class or category: fractions from 0 to 1, nan without pixels.

    Example:
        >>> NamedScores(road=0.5, car=math.nan).mean
        0.5
    """

    @property
    def mean(self) -> float:
        """The mean of the scores that are not nan; nan if there are none."""
        present = [score for score in self.values() if not math.isnan(score)]
        return sum(present) / len(present) if present else math.nan

    def of(self, names: Iterable[str]) -> dict[str, float | None]:
        """The scores of these names, None where there is none."""
        return {name: number(self.get(name, math.nan)) for name in names}


@dataclass(frozen=True)
class CityscapesScores:
    """The scores of the official `evalPixelLevelSemanticLabeling`; fractions from 0 to 1, nan without pixels.

    IoU is TP / (TP + FP + FN) over all frames. FN are pixels of the truth predicted as anything else, ignored labels
    included; FP are predictions on pixels of other evaluated labels, so a prediction on an ignored pixel is not
    counted. In a category the prediction of an ignored label is wrong too: parking on road is FN of flat.

    iIoU is iTP / (iTP + FP + iFN): TP and FN of each single instance are weighted by the average size of its class
    divided by the instance's own size. Groups are not weighted in, and FP remain pixels.

    Attributes:
        class_iou: IoU of the 19 evaluated classes; its mean is the benchmark's main figure.
        class_iiou: iIoU of the 8 evaluated classes with instances.
        category_iou: IoU of the 7 categories.
        category_iiou: iIoU of human and vehicle. Here, as in the official script, caravan and trailer are correct
            on any vehicle's instance, and a false positive on pixels of other categories.
        confusion: pixels, 34x34 int64: rows are label ids of the truth, columns the predicted ones.
    """

    class_iou: NamedScores
    class_iiou: NamedScores
    category_iou: NamedScores
    category_iiou: NamedScores
    confusion: np.ndarray

    def as_official_json(self) -> dict[str, Any]:
        """What the official script writes, under its own keys, with None for its NaN, which JSON does not have.

        As there, class scores list all 34 ids and category scores include void; ignored ones have no score.
        """
        pixels = self.confusion.sum(1).tolist()
        total = sum(pixels)
        return {
            "averageScoreClasses": number(self.class_iou.mean),
            "averageScoreInstClasses": number(self.class_iiou.mean),
            "averageScoreCategories": number(self.category_iou.mean),
            "averageScoreInstCategories": number(self.category_iiou.mean),
            "classScores": self.class_iou.of(LABEL_IDS),
            "classInstScores": self.class_iiou.of(LABEL_IDS),
            "categoryScores": self.category_iou.of(_CATEGORIES),
            "categoryInstScores": self.category_iiou.of(_CATEGORIES),
            "labels": dict(LABEL_IDS),
            "priors": {name: pixels[label_id] / total if total else None for name, label_id in LABEL_IDS.items()},
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
        for table, correct in (
            (self._class_instances, predicted == labels),
            (self._category_instances, _CATEGORY_OF[predicted] == _CATEGORY_OF[labels]),
        ):
            hits = np.bincount(ids[correct], minlength=len(sizes))
            hits_and_misses = np.stack([hits, sizes - hits], axis=1)[present]
            np.add.at(table, present // 1000, hits_and_misses * weights[:, None])

    def scores(self) -> CityscapesScores:
        """The scores of all frames so far."""
        by_class, by_category = self._class_instances, self._category_instances
        return CityscapesScores(
            NamedScores((label.name, self._iou([label.id])) for label in _EVALUATED),
            NamedScores((name, self._iiou(by_class, [LABEL_IDS[name]])) for name in AVERAGE_INSTANCE_SIZE),
            NamedScores((name, self._iou(ids)) for name, ids in _CATEGORY_IDS.items()),
            NamedScores(
                (name, self._iiou(by_category, _CATEGORY_IDS[name], ids))
                for name, ids in _INSTANCE_CATEGORY_IDS.items()
            ),
            self._confusion.copy(),
        )

    def _iou(self, ids: list[int]) -> float:
        truth = self._confusion[ids]
        right = int(truth[:, ids].sum())
        return self._score(right, int(truth.sum()) - right, ids, ids)

    def _iiou(self, instances: np.ndarray, ids: list[int], predicted_as: list[int] | None = None) -> float:
        if not self._with_instances:
            return math.nan
        right, wrong = instances[ids].sum(axis=0).tolist()
        return self._score(right, wrong, ids, predicted_as or ids)

    def _score(self, right: float, wrong: float, ids: list[int], predicted_as: list[int]) -> float:
        """TP / (TP + FP + FN); FP are pixels of evaluated labels other than `ids`, predicted as `predicted_as`."""
        others = [label.id for label in _EVALUATED if label.id not in ids]
        union = right + int(self._confusion[np.ix_(others, predicted_as)].sum()) + wrong
        return right / union if union else math.nan


def _count_pairs(predicted_ids: np.ndarray, truth_ids: np.ndarray) -> np.ndarray:
    """Pixels by true and predicted label id, 34x34 int64."""
    table = count_pixels(predicted_ids, truth_ids, 256, 256)  # every value of a byte, to report unknown ones
    ids = list(range(_N_IDS))
    for name, other_axis, known in (("true", 1, [*ids, _PLATE]), ("predicted", 0, ids)):
        unknown = np.setdiff1d(np.flatnonzero(table.any(other_axis)), known)
        if unknown.size:
            raise ValueError(f"{name} label id {unknown[0]} is not in the official table (0 to {_N_IDS - 1})")
    return table[:_N_IDS, :_N_IDS]
