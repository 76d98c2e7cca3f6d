"""The DataLoader of training and validation: an epoch's order and its random generators."""

import os
import random
import signal
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice
from multiprocessing import parent_process
from threading import Thread
from typing import Any

from fastai.data.core import TfmdDL
from fastcore.basics import chunked
from fastcore.foundation import L

from linknet_fastai.core.fastai_private import SegmentationDL
from linknet_fastai.data.augmentation import AugmentBatch

HAS_SIGWAIT = hasattr(signal, "sigwaitinfo")  # not on Windows and macOS, where no SIGTERM reaches a loader process


class ReproducibleDL(SegmentationDL):
    """A fastai DataLoader whose order and augmentation depend on (seed, epoch, index) alone.

    An interrupted epoch can therefore be repeated or resumed exactly, with any number of workers; fastai's own
    generator, `dl.rng`, cannot be set to the middle of an epoch. At the start of an epoch the loader shuffles with a
    generator seeded by (seed, epoch), and gives `AugmentBatch` a generator for each frame, seeded by
    (seed, epoch, index).

    Args:
        dataset: the items.
        seed: the seed.
        kwargs: further arguments of `TfmdDL`.

    Attributes:
        epoch: the epoch to draw next, from 0; the loader does not advance it, the training's callbacks do.
    """

    def __init__(self, dataset: Any, seed: int = 0, **kwargs: Any) -> None:
        self.seed, self.epoch = seed, 0
        super().__init__(dataset, **kwargs)

    def new(self, dataset: Any = None, cls: type | None = None, **kwargs: Any) -> TfmdDL:
        """A loader like this one, with the same seed."""
        made = super().new(dataset, cls, **({"seed": self.seed} | kwargs))
        # It gets a copy of the augmentation: two loops over one would consume each other's generators.
        made.after_batch = copy(made.after_batch)
        made.after_batch.fs = L(copy(f) if isinstance(f, AugmentBatch) else f for f in made.after_batch.fs)
        return made

    def __iter__(self) -> Iterator[tuple]:
        return start_without_sigterm(super().__iter__())

    def shuffle_fn(self, idxs: list[int]) -> list[int]:
        """Shuffle the indices for the current epoch."""
        return self._generator("order").sample(idxs, len(idxs))

    def before_iter(self) -> None:
        """Drop the generators of an earlier epoch: fastai's `show_batch(unique=True)` never calls `get_idxs`."""
        super().before_iter()
        self._set_generators(None)

    def get_idxs(self) -> list[int]:
        """The order of the current epoch; the generators of its augmentation are prepared in that order."""
        self.order = super().get_idxs()
        self.prepare_generators(self.order)
        return self.order

    def wif(self) -> None:
        """Let nothing but the training process end a loader process (fastai's worker init function).

        Terminals, SLURM, torchrun and `timeout` may send Ctrl-C and SIGTERM to every process of a training. The
        training process handles them, and still needs the batches that follow. It ends its loader processes by
        SIGTERM too, where an error keeps them from being told that the epoch is over.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        parent = parent_process()
        if parent and HAS_SIGWAIT:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            Thread(target=_end_with, args=(parent.pid,), daemon=True).start()

    def prepare_generators(self, names: Sequence[int | str]) -> None:
        """Prepare the generators of an epoch's augmentation.

        Args:
            names: one for each frame, in the order that the frames are loaded; with seed and epoch it seeds the
                frame's generator.
        """
        self._set_generators([self._generator(name) for name in batch] for batch in chunked(names, self.bs))

    def _set_generators(self, generators: Iterator[list[random.Random]] | None) -> None:
        if self.split_idx == 0:
            for transform in self.after_batch.fs:
                if isinstance(transform, AugmentBatch):
                    transform.generators = generators

    def _generator(self, name: int | str) -> random.Random:
        return random.Random(f"{self.seed} {self.epoch} {name}")  # text is hashed by SHA-512: no two seeds are close


def start_without_sigterm(batches: Iterator[tuple]) -> Iterator[tuple]:
    """Block SIGTERM while a loader starts its processes, until the first batch is there.

    Each of their threads must begin with it blocked: any other, such as one of a BLAS library that starts its threads
    again after a fork, would receive the signal.

    Args:
        batches: the iterator of a fastai DataLoader, which starts its processes at the first batch.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if HAS_SIGWAIT else ()
    try:
        first = [*islice(batches, 1)]
    finally:
        if HAS_SIGWAIT:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield from first
    yield from batches


def _end_with(parent: int) -> None:
    """Wait until the process `parent` sends SIGTERM, and end; a handler would not learn who has sent it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # torch takes any other status for a failure
