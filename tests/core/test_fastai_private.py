"""Each private name of fastai that is used still means what it is used for."""

import inspect

import torch
from fastai.callback.wandb import WandbCallback
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.vision.core import TensorImage, TensorMask

from linknet_fastai.core.fastai_private import SegmentationDL, number_of_workers

ONE_BATCH = """\
def _do_one_batch(self):
    self.pred = self.model(*self.xb)
    self('after_pred')
    if len(self.yb):
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        self.loss = self.loss_grad.clone()
    self('after_loss')
    if not self.training or not len(self.yb): return
    self._do_grad_opt()
"""


def test_a_batch_of_fastai_is_the_one_that_forward_learner_repeats() -> None:
    assert inspect.cleandoc(inspect.getsource(Learner._do_one_batch)) == inspect.cleandoc(ONE_BATCH)


LOADER = """\
def __iter__(self):
    self.randomize()
    self.before_iter()
    self.__idxs=self.get_idxs() # called in context of main process (not workers/subprocesses)
    for b in _loaders[self.fake_l.num_workers==0](self.fake_l):
        # pin_memory causes tuples to be converted to lists, so convert them back to tuples
        if self.pin_memory and type(b) == list: b = tuple(b)
        if self.device is not None: b = to_device(b, self.device)
        yield self.after_batch(b)
    self.after_iter()
    if hasattr(self, 'it'): del(self.it)
"""


def test_the_loop_of_fastais_loader_is_the_one_that_ours_repeats() -> None:
    assert inspect.cleandoc(inspect.getsource(DataLoader.__iter__)) == inspect.cleandoc(LOADER)


def test_show_batch_gets_label_maps_at_the_size_of_their_images() -> None:
    assert hasattr(TfmdDL, "_pre_show_batch")
    labels = TensorMask(torch.arange(4 * 6).view(4, 6).repeat_interleave(2, 0).repeat_interleave(2, 1))
    dl = SegmentationDL([(TensorImage(torch.zeros(3, 4, 6)), labels)], bs=1, num_workers=0)
    images, shown, _ = dl.show_batch(show=False)
    assert images.shape == (1, 3, 4, 6)
    assert isinstance(shown, TensorMask)
    assert shown.tolist() == [torch.arange(4 * 6).view(4, 6).tolist()]


def test_the_number_of_loader_processes_is_known() -> None:
    assert [number_of_workers(DataLoader(range(3), num_workers=count)) for count in (0, 2)] == [0, 2]


def test_wandb_counts_steps_and_epochs_in_the_attributes_that_a_resumed_run_sets() -> None:
    for method in (WandbCallback.before_fit, WandbCallback.after_batch, WandbCallback.after_epoch):
        assert {"_wandb_step", "_wandb_epoch"} <= {*method.__code__.co_names}
