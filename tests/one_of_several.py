"""The command as one of several ranks, for tests/learner/test_distributed.py.

Each rank saves its weights, and what it subtracts from images, in the folder that WEIGHTS names. The first batch of
rank 1 is all void. In the second epoch rank FAILING meets an error, and rank STOPPED receives SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.torch_core import get_model
from fastcore.basics import defaults

from linknet_fastai.cli import main as cli
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID
from linknet_fastai.learner import process_group


class Scenario(Callback):
    """Does the above."""

    order = 5  # before SkipVoidBatches

    def before_batch(self) -> None:
        rank = os.environ["RANK"]
        if self.training and self.iter == 0 and rank == "1":
            self.learn.yb = (torch.full_like(self.learn.y, VOID),)
        if self.training and (self.epoch, self.iter) == (1, 0):
            if os.environ.get("FAILING") == rank:
                raise UserError("the disk is gone")
            if os.environ.get("STOPPED") == rank:
                os.kill(os.getpid(), signal.SIGTERM)

    def after_fit(self) -> None:
        file = Path(os.environ["WEIGHTS"]) / f"{os.environ['RANK']}.pt"
        loaders = [shared.dl for shared in self.dls.loaders]
        means = {f"mean {number}": loader.after_batch.normalize.mean for number, loader in enumerate(loaders)}
        torch.save(get_model(self.learn.model).state_dict() | means, file)


def run_command(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the command in a process that the launcher has made, and end it with the command's status."""
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the launcher's own, with which it ends the ranks
    process_group.LAUNCHER_SECONDS = 2
    sys.argv = ["linknet-fastai", *arguments]
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        if ended.code:
            raise


def main() -> None:
    """Run the command."""
    defaults.callbacks.append(Scenario)  # fastai adds them to every learner
    cli.main()


if __name__ == "__main__":
    main()
