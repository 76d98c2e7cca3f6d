"""The command, as torchrun starts it for tests/test_distributed.py.

Each process leaves its weights in the folder that WEIGHTS names; the one of rank FAILING meets an error in the second
epoch.
"""

import os
from pathlib import Path

import torch

from linknet_fastai import cli
from linknet_fastai.errors import UserError
from linknet_fastai.run_record import RunRecord

RANK = os.environ["RANK"]


class Watched(RunRecord):
    """A record that does as above."""

    name = "run_record"

    def before_epoch(self) -> None:
        super().before_epoch()
        if self.epoch == 1 and os.environ.get("FAILING") == RANK:
            raise UserError("the disk is gone")

    def after_fit(self) -> None:
        torch.save(self.learn.model.state_dict(), Path(os.environ["WEIGHTS"]) / f"{RANK}.pt")


if __name__ == "__main__":
    from linknet_fastai import training

    training.RunRecord = Watched
    cli.main()
