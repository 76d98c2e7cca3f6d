"""Each private name of fastai that is used still means what it is used for."""

from fastai.callback.wandb import WandbCallback
from fastai.data.load import DataLoader

from linknet_fastai.core.fastai_private import number_of_workers


def test_the_number_of_loader_processes_is_known() -> None:
    assert [number_of_workers(DataLoader(range(3), num_workers=count)) for count in (0, 2)] == [0, 2]


def test_wandb_counts_steps_and_epochs_in_the_attributes_that_a_resumed_run_sets() -> None:
    for method in (WandbCallback.before_fit, WandbCallback.after_batch, WandbCallback.after_epoch):
        assert {"_wandb_step", "_wandb_epoch"} <= {*method.__code__.co_names}
