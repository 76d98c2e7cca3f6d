"""One confusion matrix over a whole split, counted on the device, and fastai metrics of its scores."""

from functools import partial

import torch
from fastai.learner import Learner, Metric, ValueMetric
from torch import Tensor

from linknet_fastai.core.images import VOID
from linknet_fastai.scoring.scores import OVERALL_SCORES, Scores


class ConfusionMatrix:
    """Counts of pixels, CxC int64: rows are the truth, columns the prediction. Void is not counted.

    Args:
        n_classes: C.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]))
        >>> matrix.counts.tolist()
        [[1, 1], [0, 0]]
    """

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.counts = torch.zeros(self.n_classes, self.n_classes, dtype=torch.int64)

    @torch.no_grad()
    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            predicted: classes, integers of any shape, from 0 to C-1.
            labels: classes, integers of the same shape, 255 for void.
        """
        n = self.n_classes
        # Void has a bin of its own after the matrix: masking it out would synchronize with the device and copy.
        # (bincount itself reads its smallest and largest bin; fastai has just synchronized for the batch's loss.)
        bins = torch.where(labels == VOID, n * n, labels.long() * n + predicted)
        counts = torch.bincount(bins.flatten(), minlength=n * n + 1)[: n * n].view(n, n)
        self.counts = self.counts.to(counts.device) + counts

    def scores(self) -> Scores:
        """The scores of what has been counted so far."""
        return Scores(self.counts.cpu().numpy())


class ForegroundIoU(ConfusionMatrix, Metric):
    """mIoU over all pixels that are not void, from one confusion matrix over the whole split.

    Unlike a mean over batches or frames it does not depend on the batch size. The other scores of the same matrix
    are in `scores()`; `segmentation_metrics` adds them as metrics of their own.

    Args:
        n_classes: number of classes; predictions are the argmax over as many channels.

    Example::

        learn = Learner(dls, model, loss_func=SegmentationLoss(), metrics=ForegroundIoU(n_classes=11))
    """

    name = "miou"

    def accumulate(self, learn: Learner) -> None:
        """Count `learn.pred`, logits BxCxHxW, against `learn.y`, labels BxHxW."""
        self.update(learn.pred.max(1).indices, learn.y)  # much faster than argmax on a CPU

    @property
    def value(self) -> float:
        """The mIoU so far."""
        return self.score("miou")

    def score(self, name: str) -> float:
        """One of the `OVERALL_SCORES` so far."""
        return getattr(self.scores(), name)


def segmentation_metrics(n_classes: int) -> list[Metric]:
    """The overall scores as fastai metrics: mIoU, mean accuracy and pixel accuracy, from one count.

    Args:
        n_classes: number of classes; predictions are the argmax over as many channels.

    Example:
        >>> [metric.name for metric in segmentation_metrics(11)]
        ['miou', 'mean_accuracy', 'pixel_accuracy']
    """
    iou = ForegroundIoU(n_classes)
    others = [score.name for score in OVERALL_SCORES if score.name != iou.name]
    # partial and not a lambda: an exported learner pickles its metrics.
    return [iou, *(ValueMetric(partial(iou.score, name), name) for name in others)]
