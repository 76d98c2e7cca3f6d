"""The command, as torchrun starts it for tests/learner/test_distributed.py.

Each rank saves its weights in the folder that WEIGHTS names. The first batch of rank 1 is all void. In the second
epoch rank FAILING meets an error, and rank STOPPED receives SIGTERM.
"""

import os
import signal
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.torch_core import get_model
from fastcore.basics import defaults

from linknet_fastai.cli import main as cli
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID

RANK = os.environ.get("RANK")  # none while pytest collects doctests


class Scenario(Callback):
    """Does the above."""

    order = 5  # before SkipVoidBatches

    def before_batch(self) -> None:
        if self.training and self.iter == 0 and RANK == "1":
            self.learn.yb = (torch.full_like(self.learn.y, VOID),)
        if self.training and (self.epoch, self.iter) == (1, 0):
            if os.environ.get("FAILING") == RANK:
                raise UserError("the disk is gone")
            if os.environ.get("STOPPED") == RANK:
                os.kill(os.getpid(), signal.SIGTERM)

    def after_fit(self) -> None:
        torch.save(get_model(self.learn.model).state_dict(), Path(os.environ["WEIGHTS"]) / f"{RANK}.pt")


if __name__ == "__main__":
    defaults.callbacks.append(Scenario)  # fastai adds them to every learner
    cli.main()
