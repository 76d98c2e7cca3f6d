"""fastai's distributed training, fixed for CPUs and for this program's loaders; it needs accelerate.

What is fixed, and why, is in docs/several-gpus.md.
"""

from collections.abc import Iterator
from typing import Any

import torch
from fastai.data.core import TfmdDL
from fastai.distributed import DistributedDL, DistributedTrainer
from fastai.torch_core import find_bs
from timm.layers import convert_sync_batchnorm

from linknet_fastai.core.images import VOID
from linknet_fastai.data.reproducible_dl import ReproducibleDL, start_without_sigterm
from linknet_fastai.learner.callbacks import accumulations
from linknet_fastai.learner.process_group import from_rank_0, sum_over_ranks
from linknet_fastai.scoring.metrics import ForegroundIoU


class SharedDL(DistributedDL):
    """A fastai `DistributedDL`, of which each rank loads a part, on any device.

    The order is split into one part for each rank; the parts have the same length, because the first items are
    repeated at the end of the last. Each rank augments its own frames.
    """

    def __len__(self) -> int:
        """Batches of one rank; fastai counts one too many where the last is dropped."""
        own = -(-self.dl.n // self.world_size)
        return own // self.bs if self.drop_last else -(-own // self.bs)

    def __iter__(self) -> Iterator[tuple]:
        return start_without_sigterm(super().__iter__())

    @property
    def epoch(self) -> int:
        """The epoch that order and augmentation follow from, see `ReproducibleDL`."""
        return self.dl.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.dl.epoch = epoch

    def wif(self) -> None:
        """Initialize a loader process, see `ReproducibleDL`; fastai leaves it out."""
        self.dl.wif()

    def get_idxs(self) -> list[int]:
        """This rank's part of rank 0's order, which fastai sends by CUDA only; prepares its augmentation."""
        order = from_rank_0(lambda: list(self.dl.get_idxs()))
        self.n = len(order)
        count = -(-self.n // self.world_size)
        self.n_padded = count * self.world_size
        own = range(self.rank * count, (self.rank + 1) * count)
        self.order = [order[place % self.n] for place in own]
        if isinstance(self.dl, ReproducibleDL):
            # A frame that is repeated is augmented differently.
            names = [i if place < self.n else f"{i} again {place}" for i, place in zip(self.order, own, strict=True)]
            self.dl.prepare_generators(names)
        return self.order

    def after_batch(self, b: tuple) -> tuple:
        """As the loader's; the labels of repeated validation frames become void, so that they are not counted."""
        b = super().after_batch(b)  # counts items in `i`
        self.in_batch = find_bs(b)
        first = self.rank * self.n_padded // self.world_size
        self.real_frames = min(max(self.n - first - self.i + self.in_batch, 0), self.in_batch)
        if getattr(self.dataset, "split_idx", None) == 1:
            for labels in b[self.n_inp :]:
                labels[self.real_frames :] = VOID
        return b

    def to_detach(self, b: Any, cpu: bool = True, gather: bool = True) -> Any:
        """As fastai's, but a scalar, which its metrics average over batches, is weighted for a mean over all items.

        fastai takes the mean over the ranks, in which a repeated item counts twice.
        """
        if not (gather and isinstance(b, torch.Tensor) and b.ndim == 0):
            return super().to_detach(b, cpu, gather)
        total = b.detach() * self.real_frames
        torch.distributed.all_reduce(total)
        # fastai multiplies by `in_batch` and divides by the number of items of this rank.
        mean = total * self.n_padded / (self.n * self.in_batch * self.world_size)
        return mean.cpu() if cpu else mean


class SharedTraining(DistributedTrainer):
    """fastai's `DistributedTrainer` with one confusion matrix for all ranks, on any device.

    On CUDA batch norm computes its statistics over the frames of all ranks (`sync_bn`). On a CPU, where torch has no
    such batch norm, each rank computes them over its own frames, and all validate with rank 0's running statistics:
    DDP sends buffers to all ranks before every batch.

    The loss of a step is the weighted mean over the pixels of all ranks, see `AccumulateGradients`.

    Args:
        sync_bn: see above.
        kwargs: for accelerate's `Accelerator`, which does not set the precision: see `DevicePrecision`.
    """

    def __init__(self, sync_bn: bool = True, **kwargs: Any) -> None:
        super().__init__(sync_bn=False, **{"mixed_precision": "no", **kwargs})
        self.synchronized = sync_bn and self.accelerator.device.type == "cuda"

    def before_fit(self) -> None:
        """Wrap the network and the loaders."""
        if self.synchronized:  # by timm: torch's own would lose the activations that timm puts into batch norms
            self.learn.model = convert_sync_batchnorm(self.learn.model)
        loaders = list(self.dls)
        self.learn.dls.loaders = [shared_loader(loader) for loader in loaders]
        super().before_fit()
        self.old_dls = loaders  # fastai restores them after the training

    def before_validate(self) -> None:
        """Share the validation loader also outside of a training."""
        self.learn.dl = shared_loader(self.learn.dl)

    def before_batch(self) -> None:
        """Sum gradients over ranks only in batches that end with a step."""
        if self.learn.training:
            steps = (callback.step_follows for callback in accumulations(self.learn))
            self.learn.model.require_backward_grad_sync = next(steps, True)

    def after_train(self) -> None:
        """Sum the confusion matrices of the ranks, if training batches are scored."""
        if self.learn.recorder.train_metrics:
            self._sum_counts()

    def after_validate(self) -> None:
        """Sum the losses and confusion matrices of the ranks, before the recorder reads them."""
        loss = self.learn.recorder.loss
        loss.total, loss.count = sum_over_ranks(torch.tensor([loss.total, loss.count], device=self.learn.dls.device))
        self._sum_counts()

    def _sum_counts(self) -> None:
        for metric in self.learn.metrics:
            if isinstance(metric, ForegroundIoU):
                torch.distributed.all_reduce(metric.counts)


def shared_loader(loader: TfmdDL) -> DistributedDL:
    """A loader of which each rank loads a part."""
    return loader if isinstance(loader, DistributedDL) else SharedDL(loader)
