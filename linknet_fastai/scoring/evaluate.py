"""Score a model over a split, at the size of the label maps, from one confusion matrix."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.data.dataset import Dataset, Frame, size_mismatch
from linknet_fastai.data.survey import Survey, survey_notes
from linknet_fastai.engines.engine import Engine, frame_threads, predict_file, predict_file_with_confidence
from linknet_fastai.scoring.boundary import BoundaryScores, count_boundaries
from linknet_fastai.scoring.cityscapes import label_ids_of_channels, read_truth
from linknet_fastai.scoring.cityscapes_scores import CityscapesScorer, CityscapesScores
from linknet_fastai.scoring.confidence import LEVELS, ConfidenceScores, count_confidences
from linknet_fastai.scoring.intervals import FrameCounts, Intervals, score_intervals, word_of
from linknet_fastai.scoring.scores import (
    CLASS_SCORES,
    MORE_CLASS_SCORES,
    MORE_OVERALL_SCORES,
    OVERALL_SCORES,
    Scores,
    count_pixels,
    frame_dice,
    number,
)
from linknet_fastai.scoring.shared_classes import shared_classes


@dataclass(frozen=True)
class Evaluation:
    """Scores over a split, how long they took, and what ran the network.

    Attributes:
        recipe: the recipe's name.
        split: the split that was scored.
        size: what the network saw, "WIDTHxHEIGHT" or "native".
        class_names: the names of the classes that were scored.
        scores: the scores, and in `scores.counts` the confusion matrix; it has a last column for other classes of the
            model if it has not the recipe's.
        frame_mious: the mIoU of each single frame, by its image's path relative to the data folder.
        frame_counts: the confusion matrix of each single frame.
        intervals: the 95% intervals of the scores; None with too few frames.
        seconds: how long the evaluation took.
        engine: what ran the network.
        tta: whether it used test-time augmentation.
        official: the scores of the benchmark that the recipe names, if it names one.
        course_dice: the mean of `frame_dice` over the frames, if requested.
        note: why official scores are missing.
        data_notes: lines on what may be wrong with the label maps.
        confidence: how far the model's confidence can be relied on, if the engine gives one.
        boundary: boundary IoU, if requested.
    """

    recipe: str
    split: str
    size: str
    class_names: list[str]
    scores: Scores
    frame_mious: dict[str, float]
    frame_counts: FrameCounts
    intervals: Intervals | None
    seconds: float
    engine: str
    tta: bool = False
    official: CityscapesScores | None = None
    course_dice: float | None = None
    note: str | None = None
    data_notes: Sequence[str] = ()
    confidence: ConfidenceScores | None = None
    boundary: BoundaryScores | None = None

    @property
    def frames(self) -> int:
        """How many frames were scored."""
        return len(self.frame_mious)

    def as_json(self, by_group: bool = False) -> dict[str, Any]:
        """The scores as plain values: fractions from 0 to 1, None without pixels to score.

        Official scores are included under the keys of the official script.

        Args:
            by_group: whether to include the scores of each group.
        """
        scores, boundary = self.scores, self.boundary
        of_classes = {**scores.of_classes(CLASS_SCORES + MORE_CLASS_SCORES), "pixels": scores.pixels.tolist()}
        if boundary:
            of_classes["boundary_iou"] = boundary.iou.tolist()
        overall = scores.overall(OVERALL_SCORES + MORE_OVERALL_SCORES)
        return {
            **(self.official.as_official_json() if self.official else {}),
            **{name: number(value) for name, value in overall.items()},
            **({"boundary_miou": number(boundary.miou), "boundary_share": boundary.share} if boundary else {}),
            **({} if self.course_dice is None else {"course_dice": self.course_dice}),
            **(self.confidence.as_json() if self.confidence else {}),
            "recipe": self.recipe,
            "split": self.split,
            "size": self.size,
            "engine": self.engine,
            "tta": self.tta,
            "frames": self.frames,
            **({"note": self.note} if self.note else {}),
            "intervals": self.intervals and self.intervals.as_json(),
            "classes": [
                {
                    "name": name,
                    **{key: number(values[channel]) for key, values in of_classes.items()},
                    **(self.intervals.of_class(channel) if self.intervals else {}),
                }
                for channel, name in enumerate(self.class_names)
            ],
            **({"groups": self._groups_as_json()} if by_group else {}),
            "confusion": scores.counts.tolist(),
            "frame_miou": {name: number(miou) for name, miou in self.frame_mious.items()},
        }

    def _groups_as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "frames": frames,
                **{key: number(value) for key, value in scores.overall().items()},
                "iou": dict(zip(self.class_names, map(number, scores.iou.tolist()), strict=True)),
            }
            for name, (frames, scores) in self.frame_counts.by_group().items()
        ]


def evaluate(
    engine: Engine,
    dataset: Dataset,
    split: str = "val",
    progress: Progress | None = None,
    course: bool = False,
    renamed: Mapping[str, str] | None = None,
    boundary: float | None = None,
) -> Evaluation:
    """Predict every frame of a split at its label map's size and score the pixels that are not void.

    Args:
        engine: the model; `predict` with the same engine gives the same pixels.
        dataset: the data. If the classes of its recipe are not the model's, those that both know are scored, see
            `shared_classes`.
        split: a split, a list of frames or several joined by +, see `Dataset.frames`.
        progress: called with the progress.
        course: whether to compute the course project's score as well, see `frame_dice`.
        renamed: the recipe's class for a class of the model, where the names differ.
        boundary: how far into a class its boundary reaches for boundary IoU, as a share of the frame's diagonal, such
            as `BOUNDARY_SHARE`; None computes no boundary IoU.

    Raises:
        UsageError: no class is known to both, there is no such split, or `course` with other classes.
        UserError: a file is missing or damaged, or all pixels are void.

    Example::

        scores = evaluate(Predictor(*load_model("runs/street")), open_dataset("street")).scores
        print(scores.miou, scores.iou)
    """
    shared = shared_classes(engine.card.class_names, dataset.recipe, renamed)
    if shared and course:
        raise UsageError(f"--protocol course needs a model with the classes of {dataset.recipe.name}")
    names, read_label = shared.names if shared else dataset.recipe.class_names, dataset.read_label
    n_classes, n_predicted = len(names), len(names) + bool(shared)

    scorer, counting, unscored = CityscapesScorer(), Lock(), []
    label_ids = None if shared else official_label_ids(dataset)
    certain = np.zeros((3, LEVELS, n_classes), np.int64) if engine.has_confidence else None
    near_borders = np.zeros((3, n_classes), np.int64)

    def count(frame: Frame) -> tuple[np.ndarray, int, float]:
        if engine.has_confidence:
            _, (predicted, confidence) = predict_file_with_confidence(engine, frame.image)
        else:
            _, predicted = predict_file(engine, frame.image)
        labels = read_label.of_frame(frame, predicted.shape[::-1])
        if labels.shape != predicted.shape:
            raise UserError(size_mismatch(frame, labels.shape[::-1], predicted.shape[::-1]))
        if shared:
            predicted, labels = shared.of_model[predicted], shared.of_recipe[labels]
        if label_ids is not None:
            try:
                truth = read_truth(frame.label)
                with counting:
                    scorer.update(label_ids[predicted], *truth)
            except (UserError, ValueError) as error:  # only the official scores are lost
                unscored.append(f"{frame.label}: no official scores ({error})")
        if certain is not None:
            of_frame = count_confidences(predicted, labels, confidence, n_predicted)
            with counting:
                np.add(certain, np.stack(of_frame)[..., :n_classes], out=certain)  # not another class
        if boundary is not None:
            of_bands = count_boundaries(predicted, labels, n_classes, boundary)
            with counting:
                np.add(near_borders, of_bands, out=near_borders)
        dice = frame_dice(predicted, labels, n_classes) if course else 0.0
        return count_pixels(predicted, labels, n_predicted, n_classes), labels.size, dice

    frames = dataset.frames(split)
    counts, label_pixels, dice_sum = np.zeros((n_classes, n_predicted), np.int64), 0, 0.0
    frame_mious: dict[str, float] = {}
    each: list[csr_array] = []
    begin = time.perf_counter()
    counted_frames = zip(frames, map_in_threads(count, frames, frame_threads(engine)), strict=True)
    for done, (frame, (counted, size, dice)) in enumerate(counted_frames, 1):
        counts += counted
        label_pixels += size
        dice_sum += dice
        frame_mious[dataset.relative_path(frame)] = Scores(counted).miou
        each.append(csr_array(counted.reshape(1, -1)))  # most pairs of classes do not occur in a frame
        if progress:
            progress(f"evaluating {split}", done, len(frames))
    seconds = time.perf_counter() - begin
    if shared and not counts.sum():
        raise UserError(f"{dataset.folder}: no pixel of {split} has one of the shared classes ({', '.join(names)})")
    groups = [frame.group for frame in frames]
    frame_counts = FrameCounts([*frame_mious], groups, vstack(each, "csr"), word_of(dataset.recipe.group))
    found = Survey(
        frames=len(frames),
        sizes={},
        class_pixels=Scores(counts).pixels.tolist(),
        void_pixels=label_pixels - int(counts.sum()),
        problems=[],
    )
    if shared:
        data_notes = shared.notes(engine.card.recipe, dataset.recipe.name)
    else:
        data_notes = survey_notes(dataset, split, found)
    official = None if label_ids is None or unscored else scorer.scores()
    return Evaluation(
        dataset.recipe.name,
        split,
        engine.size if isinstance(engine.size, str) else format_size(engine.size),
        names,
        Scores(counts),
        frame_mious,
        frame_counts,
        score_intervals(frame_counts),
        seconds,
        str(engine),
        engine.tta,
        official,
        dice_sum / len(frames) if course else None,
        min(unscored, default=None),
        data_notes,
        None if certain is None else ConfidenceScores(certain[0], certain[1], certain[2], engine.card.temperature),
        None if boundary is None else BoundaryScores(near_borders, boundary),
    )


def official_label_ids(dataset: Dataset) -> np.ndarray | None:
    """The official label id of each channel, if the data can be scored as its benchmark scores.

    Returns:
        C uint8; None if the recipe names no benchmark, or is built on one with other classes or with label maps
        that hold no label ids.
    """
    if dataset.recipe.official_scores and dataset.layout.labels.endswith("_labelIds.png"):
        with suppress(UsageError):
            return label_ids_of_channels(dataset.recipe.class_names)
    return None
