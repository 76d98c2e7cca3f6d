"""One confusion matrix over a whole split, counted on the device, and the fastai metrics that show its scores."""

from collections.abc import Callable

import torch
from fastai.learner import Learner, Metric
from torch import Tensor

from linknet_fastai.core.images import VOID
from linknet_fastai.scoring.scores import Scores, scores_of


class ConfusionMatrix:
    """Counts of pixels, CxC 64-bit integers: rows are the truth, columns the prediction. Void counts nowhere."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self.counts = torch.zeros(self.n_classes, self.n_classes, dtype=torch.int64)

    @torch.no_grad()
    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            predicted: classes of any shape, integers from 0 to C-1.
            labels: classes of the same shape, 255 for void.
        """
        n = self.n_classes
        # Void goes into a bin of its own behind the matrix: a mask would wait for the device and copy. (bincount
        # itself looks at its smallest and largest bin; fastai has just waited for the batch's loss.)
        bins = torch.where(labels == VOID, n * n, labels.long() * n + predicted)
        counts = torch.bincount(bins.flatten(), minlength=n * n + 1)[: n * n].view(n, n)
        self.counts = self.counts.to(counts.device) + counts

    def scores(self) -> Scores:
        """Score what was counted so far."""
        return scores_of(self.counts.cpu().numpy())


class ForegroundIoU(Metric):
    """mIoU over all pixels that are not void, from one confusion matrix over the whole split.

    Unlike a mean over batches or frames it does not depend on the batch size. The other scores of the same
    matrix are in `scores()`; `ScoreOf` shows them as metrics of their own.

    Args:
        n_classes: the classes that are scored; predictions are the argmax over as many channels.
    """

    name = "miou"

    def __init__(self, n_classes: int) -> None:
        self.matrix = ConfusionMatrix(n_classes)

    def reset(self) -> None:
        """Forget all counts."""
        self.matrix.reset()

    def accumulate(self, learn: Learner) -> None:
        """Count `learn.pred`, logits BxCxHxW, against `learn.y`, labels BxHxW."""
        self.matrix.update(learn.pred.max(1).indices, learn.y)  # on a CPU far quicker than argmax

    @property
    def value(self) -> float:
        """The mIoU so far."""
        return self.scores().miou

    def scores(self) -> Scores:
        """All scores so far."""
        return self.matrix.scores()


class ScoreOf(Metric):
    """Another score of the pixels that a `ForegroundIoU` of the same learner has counted."""

    def __init__(self, counted: ForegroundIoU, name: str, score: Callable[[Scores], float]) -> None:
        self.counted, self._name, self.score = counted, name, score

    @property
    def name(self) -> str:
        """The column's name."""
        return self._name

    @property
    def value(self) -> float:
        """The score so far."""
        return self.score(self.counted.scores())


def _mean_accuracy(scores: Scores) -> float:
    return scores.mean_accuracy


def _pixel_accuracy(scores: Scores) -> float:
    return scores.pixel_accuracy


def segmentation_metrics(n_classes: int) -> list[Metric]:
    """mIoU, mean accuracy and pixel accuracy, counted once."""
    iou = ForegroundIoU(n_classes)
    # Named functions and not lambdas: an exported learner pickles its metrics.
    return [
        iou,
        ScoreOf(iou, "mean_accuracy", _mean_accuracy),
        ScoreOf(iou, "pixel_accuracy", _pixel_accuracy),
    ]
