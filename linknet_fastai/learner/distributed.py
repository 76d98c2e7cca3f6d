"""fastai's distributed training, mended for CPUs and for our loaders; it needs accelerate.

What is mended, and why, is in docs/fastai-distributed.md.
"""

from typing import Any

import torch
from fastai.data.core import TfmdDL
from fastai.distributed import DistributedDL, DistributedTrainer
from fastai.torch_core import find_bs
from timm.layers import convert_sync_batchnorm

from linknet_fastai.core.images import VOID
from linknet_fastai.data.reproducible_dl import ReproducibleDL
from linknet_fastai.learner.callbacks import AccumulateGradients
from linknet_fastai.scoring.metrics import ForegroundIoU


class SharedDL(DistributedDL):
    """A fastai `DistributedDL`, of which each process takes a part, on any device.

    The order is cut into as many parts as there are processes; so that they are of one length, the first frames come
    once more at the end of the last. Each process augments its own frames.
    """

    def __len__(self) -> int:
        """Batches of one process; fastai counts one too many where the last is dropped."""
        own = -(-self.dl.n // self.world_size)
        return own // self.bs if self.drop_last else -(-own // self.bs)

    @property
    def epoch(self) -> int:
        """The epoch that order and augmentation follow from, see `ReproducibleDL`."""
        return self.dl.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.dl.epoch = epoch

    def wif(self) -> None:
        """What a loader process begins with, see `ReproducibleDL`; fastai leaves it out."""
        self.dl.wif()

    def get_idxs(self) -> list[int]:
        """This process's part of the order; the generators of its augmentation are laid ready."""
        self.order = part = super().get_idxs()
        if isinstance(self.dl, ReproducibleDL):
            places = range(self._first, self._first + len(part))
            # A frame that comes a second time is augmented otherwise.
            names = [i if place < self.n else f"{i} again {place}" for i, place in zip(part, places, strict=True)]
            self.dl.prepare_generators(names)
        return part

    def after_batch(self, b: tuple) -> tuple:
        """As the loader's; labels of what is validated a second time are void, so that they count nowhere."""
        b = super().after_batch(b)  # counts items in `i`
        self.in_batch = find_bs(b)
        self.real = min(max(self.n - self._first - self.i + self.in_batch, 0), self.in_batch)
        if getattr(self.dataset, "split_idx", None) == 1:
            for labels in b[self.n_inp :]:
                labels[self.real :] = VOID
        return b

    def to_detach(self, b: Any, cpu: bool = True, gather: bool = True) -> Any:
        """As fastai's; but the means over batches that its metrics average come out as the mean over all items.

        fastai takes the mean of the processes, and so counts twice what is there twice.
        """
        if not (gather and isinstance(b, torch.Tensor) and b.ndim == 0):
            return super().to_detach(b, cpu, gather)
        total = b.detach() * self.real
        torch.distributed.all_reduce(total)
        # fastai multiplies with `in_batch` and divides by all items that this process was given.
        mean = total * self.n_padded / (self.n * self.in_batch * self.world_size)
        return mean.cpu() if cpu else mean

    @property
    def _first(self) -> int:
        """The place in the order of this process's first item."""
        return self.rank * self.n_padded // self.world_size

    def _broadcast(self, idxs: list[int], rank: int) -> list[int]:
        """The first process's order; fastai sends it by CUDA alone."""
        sent = torch.tensor(idxs, device=self.device)
        torch.distributed.broadcast(sent, rank)
        return sent.tolist()


class SharedTraining(DistributedTrainer):
    """fastai's `DistributedTrainer` with one confusion matrix for all processes, on any device.

    On CUDA batch norm is over the frames of all processes (`sync_bn`). On a CPU, where torch has no such batch norm,
    it is over each process's own, and the first one's running statistics are what all validate with: DDP sends
    buffers around in front of every batch.

    The loss of a step is the mean over the processes of their losses, each a weighted mean over its own pixels; so a
    pixel counts a little more where a process has many void ones. One process would take the mean over all pixels.

    Args:
        sync_bn: see above.
        kwargs: for accelerate's `Accelerator`; precision is no matter of accelerate's, see `DevicePrecision`.
    """

    def __init__(self, sync_bn: bool = True, **kwargs) -> None:
        super().__init__(sync_bn=False, **{"mixed_precision": "no", **kwargs})
        self.synchronised = sync_bn and self.accelerator.device.type == "cuda"

    def before_fit(self) -> None:
        """Wrap the network and the loaders."""
        if self.synchronised:  # by timm: torch's own would lose the activations that timm puts into batch norms
            self.learn.model = convert_sync_batchnorm(self.learn.model)
        super().before_fit()

    def before_batch(self) -> None:
        """Have gradients summed over processes only where a step follows on them."""
        if self.learn.training:
            steps = (cb.step_follows for cb in self.learn.cbs if isinstance(cb, AccumulateGradients))
            self.learn.model.require_backward_grad_sync = next(steps, True)

    def after_train(self) -> None:
        """Sum what was counted in training, where anything was."""
        if self.learn.recorder.train_metrics:
            self._sum_counts()

    def after_validate(self) -> None:
        """Sum what was counted, before the recorder asks for scores."""
        self._sum_counts()

    def _sum_counts(self) -> None:
        for metric in self.learn.metrics:
            if isinstance(metric, ForegroundIoU):
                torch.distributed.all_reduce(metric.matrix.counts)

    def _wrap_dl(self, dl: TfmdDL) -> DistributedDL:
        return dl if isinstance(dl, DistributedDL) else SharedDL(dl)
