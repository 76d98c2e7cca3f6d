"""Boundary IoU: the IoU of the bands along the borders of classes. NumPy and SciPy only."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from linknet_fastai.core.images import VOID
from linknet_fastai.scoring.scores import mean_score

BOUNDARY_SHARE = 0.02  # of the diagonal, by Cheng et al., Boundary IoU, 2021


@dataclass(frozen=True, eq=False)
class BoundaryScores:
    """Boundary IoU over a split, from the pixels of its frames that `count_boundaries` counts.

    Args:
        counts: 3xC integers: the pixels in the bands of the truth, of the prediction, and in both.
        share: how far a band reaches into its class, as a share of the frame's diagonal.

    Example:
        >>> scores = BoundaryScores(np.array([[30, 10], [20, 10], [20, 5]]), BOUNDARY_SHARE)
        >>> scores.iou.round(3).tolist(), round(scores.miou, 3)
        ([0.667, 0.333], 0.5)
    """

    counts: np.ndarray
    share: float

    @property
    def iou(self) -> np.ndarray:
        """Boundary IoU of each class, C floats from 0 to 1; nan for a class in neither truth nor prediction."""
        truth, predicted, both = self.counts
        with np.errstate(invalid="ignore"):  # 0/0 is nan: such a class has no score
            return both / (truth + predicted - both)

    @property
    def miou(self) -> float:
        """The mean of the class boundary IoU."""
        return mean_score(self.iou)


def count_boundaries(
    predicted: np.ndarray, labels: np.ndarray, n_classes: int, share: float = BOUNDARY_SHARE
) -> np.ndarray:
    """Count the pixels of a frame that are near the border of their class, for `BoundaryScores`.

    As in the authors' code, a mask is eroded by squares, and the border of the frame is one of the mask too. Void is
    treated as if it was outside of the frame, in the truth and in the prediction.

    Args:
        predicted: HxW uint8, classes from 0 to C-1, or higher for others.
        labels: HxW uint8, the same, 255 for void.
        n_classes: C.
        share: how far the bands reach, as a share of the frame's diagonal; at least one pixel.

    Returns:
        3xC integers: the pixels in the bands of the truth, of the prediction, and in both.

    Example:
        >>> labels = np.array([[0, 0, 0, 1, 1, 1]] * 5, np.uint8)
        >>> count_boundaries(labels, labels, 2).tolist()  # one pixel from the border: all but the middle of each
        [[12, 12], [12, 12], [12, 12]]
    """
    distance = max(round(share * math.hypot(*labels.shape)), 1)
    void = labels == VOID
    truth = _bands(labels, distance)
    prediction = _bands(np.where(void, np.uint8(VOID), predicted), distance)
    both = np.where(truth == prediction, truth, np.uint8(VOID))
    return np.stack([np.bincount(of.ravel(), minlength=256)[:n_classes] for of in (truth, prediction, both)])


def _bands(classes: np.ndarray, distance: int) -> np.ndarray:
    """The classes where another one, or the outside, is no further away than a distance; elsewhere void."""
    window = {"size": 2 * distance + 1, "mode": "constant", "cval": VOID}
    inside = minimum_filter(classes, **window) == maximum_filter(classes, **window)
    return np.where(inside, np.uint8(VOID), classes)
