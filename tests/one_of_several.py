"""The command, as torchrun starts it for tests/test_distributed.py.

Each process leaves its weights in the folder that WEIGHTS names; the one of rank FAILING meets an error in the second
epoch. The first batch of the one of rank 1 is all void.
"""

import os
from pathlib import Path

import torch
from fastai.callback.core import Callback

from linknet_fastai.cli import main as cli
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID
from linknet_fastai.training.run_record import RunRecord

RANK = os.environ["RANK"]


class VoidForOne(Callback):
    """Nothing to learn from in one process."""

    order = 5  # in front of SkipVoidBatches

    def before_batch(self) -> None:
        if self.training and self.iter == 0 and RANK == "1":
            self.learn.yb = (torch.full_like(self.learn.y, VOID),)


class Watched(RunRecord):
    """A record that does as above."""

    name = "run_record"

    def before_fit(self) -> None:
        super().before_fit()
        self.learn.add_cb(VoidForOne())

    def before_epoch(self) -> None:
        super().before_epoch()
        if self.epoch == 1 and os.environ.get("FAILING") == RANK:
            raise UserError("the disk is gone")

    def after_fit(self) -> None:
        torch.save(self.learn.model.state_dict(), Path(os.environ["WEIGHTS"]) / f"{RANK}.pt")


if __name__ == "__main__":
    from linknet_fastai.training import fit as training

    training.RunRecord = Watched
    cli.main()
