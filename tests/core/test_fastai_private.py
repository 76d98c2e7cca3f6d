"""Each private name of fastai that is used still means what it is used for."""

import inspect

from fastai.data.load import DataLoader
from fastai.learner import Learner

from linknet_fastai.core.fastai_private import number_of_workers

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


def test_the_number_of_loader_processes_is_known() -> None:
    assert [number_of_workers(DataLoader(range(3), num_workers=count)) for count in (0, 2)] == [0, 2]
