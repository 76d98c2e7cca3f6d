"""How far the confidence of a model can be relied on: calibration error, and scores of its most certain pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from linknet_fastai.scoring.scores import mean_score, number

LEVELS = 256  # a confidence is a byte
BINS = 15  # of equal width, as in Guo et al., On Calibration of Modern Neural Networks, 2017
COVERAGES = tuple(share / 20 for share in range(20, 0, -1))  # of the curves: from all pixels to a twentieth
MOST_CERTAIN = 0.9


@dataclass(frozen=True, eq=False)
class ConfidenceScores:
    """Scores of confidences and classes over a split, from pixels counted at each of the 256 confidences.

    Args:
        pixels: 256xC integers: by confidence and true class.
        predicted: 256xC integers: by confidence and predicted class.
        correct: 256xC integers: those of both whose class is predicted correctly.
        temperature: that of the model.

    Example:
        >>> predicted, labels, confidence = np.uint8([[0, 0, 1, 1], [0, 1, 1, 1], [255, 51, 255, 255]])
        >>> scores = ConfidenceScores(*count_confidences(predicted, labels, confidence, 2), temperature=1)
        >>> round(scores.ece, 3), scores.most_certain(0.75)  # the wrong one of four has a confidence of 0.2
        (0.05, (0.0, 1.0))
    """

    pixels: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    temperature: float

    @property
    def reliability(self) -> list[dict[str, float]]:
        """For each of `BINS` bins that is not empty: mean confidence, accuracy and share of all pixels."""
        levels = np.arange(LEVELS)
        bins = np.minimum(levels * BINS // (LEVELS - 1), BINS - 1)
        pixels, correct = self.pixels.sum(1), self.correct.sum(1)
        count, right, confidence = (np.bincount(bins, values) for values in (pixels, correct, pixels * levels / 255))
        return [
            {
                "confidence": confidence[i] / count[i],
                "accuracy": right[i] / count[i],
                "share": count[i] / count.sum(),
            }
            for i in np.flatnonzero(count).tolist()
        ]

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean difference of confidence and accuracy in the bins."""
        return float(sum(row["share"] * abs(row["confidence"] - row["accuracy"]) for row in self.reliability))

    def most_certain(self, coverage: float) -> tuple[float, float]:
        """Scores of the pixels with the highest confidences.

        Of pixels with the confidence at the limit a part is counted, evenly among their classes.

        Args:
            coverage: their share of all pixels, above 0 to 1.

        Returns:
            The share of them that is wrong, and the mIoU over them.
        """
        count = self.pixels.sum(1)
        above = count[::-1].cumsum()[::-1] - count  # pixels with a higher confidence
        kept = np.clip((coverage * count.sum() - above) / np.maximum(count, 1), 0, 1)
        pixels, predicted, correct = (kept @ counts for counts in (self.pixels, self.predicted, self.correct))
        with np.errstate(invalid="ignore"):  # 0/0 is nan: such a class has no score
            iou = correct / (pixels + predicted - correct)
            return max(0.0, float(1 - correct.sum() / pixels.sum())), mean_score(iou)

    def as_json(self) -> dict[str, Any]:
        """The scores as plain values, under the keys of `evaluate --json`."""
        curve = [(coverage, *self.most_certain(coverage)) for coverage in COVERAGES]
        return {
            "ece": self.ece,
            "miou_most_certain_90": number(self.most_certain(MOST_CERTAIN)[1]),
            "temperature": self.temperature,
            "reliability": self.reliability,
            "risk_coverage": [
                {"coverage": coverage, "risk": risk, "miou": number(miou)} for coverage, risk, miou in curve
            ],
        }


def count_confidences(
    predicted: np.ndarray, labels: np.ndarray, confidence: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of a frame for `ConfidenceScores`.

    Args:
        predicted: HxW uint8, classes from 0 to C-1.
        labels: HxW uint8, the same, 255 for void, which is not counted.
        confidence: HxW uint8.
        n_classes: C.

    Returns:
        256xC integers each: pixels by true class, by predicted class, and correct ones.
    """
    # One count of all three, a quarter of the time of three; void has a row after the classes, so nothing is masked.
    # With many classes it takes megabytes, as many as the logits of a small frame.
    bins = np.multiply(confidence, (n_classes + 1) * n_classes, dtype=np.int32)
    bins += np.multiply(np.minimum(labels, n_classes), n_classes, dtype=np.int32)
    bins += predicted
    counts = np.bincount(bins.ravel(), minlength=LEVELS * (n_classes + 1) * n_classes)
    counts = counts.reshape(LEVELS, n_classes + 1, n_classes)[:, :n_classes]
    return counts.sum(2), counts.sum(1), counts.diagonal(0, 1, 2)
