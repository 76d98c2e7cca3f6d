"""Labels that a model contradicts where it is usually right: which of them are the most likely to be wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.data.dataset import Dataset, Frame, size_mismatch
from linknet_fastai.engines.engine import Engine, frame_threads, predict_file_with_confidence

BINS = 16  # of confidences
SMOOTHING = 1000  # pixels of the classes' usual shares that are added to each bin: a rare one says little
UNLIKELY = 0.1  # a labeled pixel is contradicted where its label is less likely than this


@dataclass(frozen=True)
class Suspect:
    """A class in a frame, with pixels whose label is contradicted.

    Attributes:
        frame: the frame.
        label: the channel of the class that the label map has.
        predicted: the channel that the model predicts instead, in most of the contradicted pixels.
        pixels: how many pixels are contradicted.
        share: of the pixels with this label in the frame, 0 to 1.
        confidence: the mean confidence of the model in the contradicted pixels, 0 to 1, from bins.
        score: what suspects are sorted by, see `rank_suspects`.
    """

    frame: Frame
    label: int
    predicted: int
    pixels: int
    share: float
    confidence: float
    score: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a model says about the labels of a frame, counted.

    Attributes:
        frame: the frame.
        places: which of the CxCxBINS counts are not 0: by label, predicted class, and bin of the confidence.
        counts: these counts, in pixels.
    """

    frame: Frame
    places: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class JudgedFrame:
    """A frame, its label map, and what a model says: RGB, HxW uint8 channels with 255 for void, HxW uint8 twice."""

    frame: Frame
    image: Image.Image
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


def judge_frames(engine: Engine, dataset: Dataset, frames: Sequence[Frame]) -> Iterator[JudgedFrame]:
    """Predict frames, in their order.

    Args:
        engine: the model, whose channels are the recipe's.
        dataset: the data.
        frames: frames of it.

    Raises:
        UserError: a frame cannot be read or predicted, or the engine gives no confidence.
    """
    read_label = dataset.read_label

    def judged(frame: Frame) -> JudgedFrame:
        image, (predicted, confidence) = predict_file_with_confidence(engine, frame.image)
        labels = read_label.of_frame(frame, image.size)
        if labels.shape != predicted.shape:
            raise UserError(size_mismatch(frame, labels.shape[::-1], image.size))
        return JudgedFrame(frame, image, labels, predicted, confidence)

    return map_in_threads(judged, frames, frame_threads(engine))


def collect_evidence(
    engine: Engine, dataset: Dataset, frames: Sequence[Frame], progress: Progress | None = None
) -> list[Evidence]:
    """Count what a model says about the labels of frames.

    Args:
        engine: the model, which was best not trained on the frames.
        dataset: the data.
        frames: frames of it.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UserError: see `judge_frames`.
    """
    found = []
    for judged in judge_frames(engine, dataset, frames):
        places, counts = np.unique(_places(judged, len(engine.card.classes)), return_counts=True)
        found.append(Evidence(judged.frame, places, counts))
        if progress:
            progress("judging labels", len(found), len(frames))
    return found


def _places(judged: JudgedFrame, n_classes: int) -> np.ndarray:
    """The place in the table of each pixel that is not void."""
    labeled = judged.labels != VOID
    pairs = judged.labels[labeled].astype(np.int64) * n_classes + judged.predicted[labeled]
    return pairs * BINS + (judged.confidence[labeled] // (256 // BINS))


def likelihoods(table: np.ndarray) -> np.ndarray:
    """How likely each label is where a model predicts a class with a confidence.

    Args:
        table: CxCxBINS counts, see `Evidence`.

    Returns:
        CxCxBINS, 0 to 1: the shares of the labels among the pixels of a predicted class and bin, smoothed.

    Example:
        >>> table = np.zeros((2, 2, BINS))
        >>> table[0, 0], table[1, 1] = 1e6, 1e6
        >>> table[0, 1] = 1e6  # this model confuses 0 with 1, but not 1 with 0
        >>> likelihoods(table)[:, :, -1].round(2).tolist()
        [[1.0, 0.5], [0.0, 0.5]]
    """
    of_label = table.sum((1, 2)) + 1
    usual = of_label / of_label.sum()
    return (table + SMOOTHING * usual[:, None, None]) / (table.sum(0) + SMOOTHING)


def table_of(evidence: Sequence[Evidence], n_classes: int) -> np.ndarray:
    """The counts of frames, added: CxCxBINS."""
    table = np.zeros(n_classes * n_classes * BINS)
    for each in evidence:
        table[each.places] += each.counts
    return table.reshape(n_classes, n_classes, BINS)


def rank_suspects(evidence: Sequence[Evidence], n_classes: int) -> list[Suspect]:
    """Find contradicted labels, the most suspect first.

    A weak model contradicts most label maps somewhere, so what counts is how surprising that is. The likelihood of a
    label where a model predicts another class, with a confidence, is counted in all other frames; minus its logarithm
    is the surprise of a pixel. The score of a class in a frame is the surprise of its pixels above what is usual for
    the class in the other frames, over the root of their number. The second class of a frame has a quarter of that,
    the third a ninth, so that one label map that is wrong altogether does not fill the list.

    This is the joint distribution of given and predicted labels of Northcutt et al., Confident Learning, 2021, with
    bins of the confidence in place of one threshold for each class.

    Args:
        evidence: of each frame, by one model or by those of folds.
        n_classes: C.

    Example:
        ::

            evidence = collect_evidence(engine, dataset, dataset.frames("val"))
            for suspect in rank_suspects(evidence, len(dataset.recipe.classes))[:10]:
                print(suspect.frame.stem, suspect.label, suspect.predicted)
    """
    total, ranked = table_of(evidence, n_classes), []
    for each in evidence:
        table = table_of([each], n_classes)
        of_frame = sorted(_suspects_in(each.frame, table, total - table), key=lambda found: -found.score)
        ranked += [replace(suspect, score=suspect.score / place**2) for place, suspect in enumerate(of_frame, 1)]
    return sorted(ranked, key=lambda suspect: -suspect.score)


def _suspects_in(frame: Frame, table: np.ndarray, others: np.ndarray) -> Iterator[Suspect]:
    """The suspects in one frame, from its own table and the sum of all others."""
    likely = likelihoods(others)
    surprise = -np.log(likely)
    surprise[np.diag_indices(len(table))] = 0  # where the model agrees
    pixels = table.sum((1, 2))
    usual = (surprise * others).sum((1, 2)) / np.maximum(others.sum((1, 2)), 1)
    scores = ((surprise * table).sum((1, 2)) - usual * pixels) / np.sqrt(np.maximum(pixels, 1))
    against = table * _contradicting(likely)
    for label in np.flatnonzero((scores > 0) & against.any((1, 2))).tolist():
        counts = against[label]
        number = counts.sum()
        yield Suspect(
            frame,
            label,
            predicted=int(counts.sum(1).argmax()),
            pixels=int(number),
            share=float(number / pixels[label]),
            confidence=float(counts.sum(0) @ (np.arange(BINS) + 0.5) / BINS / number),
            score=float(scores[label]),
        )


def _contradicting(likely: np.ndarray) -> np.ndarray:
    """Which predictions, with which confidence, contradict a label: CxCxBINS booleans."""
    found = likely < UNLIKELY
    found[np.diag_indices(len(likely))] = False
    return found


def contradicted_pixels(judged: JudgedFrame, label: int, others: np.ndarray) -> np.ndarray:
    """Where a class in a frame is contradicted.

    Args:
        judged: the frame.
        label: the channel of the class.
        others: CxCxBINS counts of all other frames.

    Returns:
        HxW booleans.
    """
    mask = np.zeros(judged.labels.shape, bool)
    mask[judged.labels != VOID] = _contradicting(likelihoods(others)).ravel()[_places(judged, len(others))]
    return mask & (judged.labels == label)
