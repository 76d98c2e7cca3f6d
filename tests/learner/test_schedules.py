"""Each learning rate schedule is what its name says, for every parameter group."""

import numpy as np
import pytest
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders

from linknet_fastai import linknet_learner, segmentation_dls
from linknet_fastai.core.errors import UsageError
from linknet_fastai.learner.schedules import fit_schedule


@pytest.fixture
def dls(street_data) -> DataLoaders:
    return segmentation_dls("street", street_data, size="64x48", bs=4, workers=0, device="cpu")


def test_step_schedule_divides_by_ten_after_half_and_three_quarters(dls):
    learn = linknet_learner(dls, pretrained=False, encoder="test_resnet")
    with learn.no_bar():
        fit_schedule(learn, "step", 4, 1e-3)
    rates = learn.recorder.lrs
    assert rates[0] == pytest.approx(1e-3)
    assert rates[len(rates) // 2] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize(("schedule", "share_at_the_end"), [("flat-cos", 0.5), ("cosine", 0.05), ("constant", 1.0)])
def test_other_schedules_start_at_the_given_rate_and_end_where_their_name_says(dls, schedule, share_at_the_end):
    learn = linknet_learner(dls, pretrained=False, encoder="test_resnet")
    with learn.no_bar():
        fit_schedule(learn, schedule, 5, 1e-3)
    assert learn.recorder.lrs[0] == pytest.approx(1e-3)
    assert learn.recorder.lrs[-1] / 1e-3 <= share_at_the_end
    assert (learn.recorder.lrs[-1] == pytest.approx(1e-3)) == (schedule == "constant")


@pytest.mark.parametrize(("schedule", "fastais"), [("one-cycle", "fit_one_cycle"), ("flat-cos", "fit_flat_cos")])
def test_a_schedule_of_fastai_is_fastais(dls, schedule, fastais):
    learn, plain = (linknet_learner(dls, pretrained=False, encoder="test_resnet") for _ in range(2))
    with learn.no_bar(), plain.no_bar():
        fit_schedule(learn, schedule, 6, 1e-3)
        getattr(plain, fastais)(6, 1e-3)
    assert learn.recorder.lrs == pytest.approx(plain.recorder.lrs)
    assert len({round(rate, 12) for rate in learn.recorder.lrs}) > 2


class GroupRates(Callback):
    """Records the learning rates of encoder and decoder at every batch."""

    def before_fit(self) -> None:
        self.rates = []

    def after_batch(self) -> None:
        if self.training:
            self.rates.append([group["lr"] for group in self.opt.hypers])


@pytest.mark.parametrize("schedule", ["one-cycle", "flat-cos", "cosine", "constant", "step"])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_trained_encoder_has_its_share_of_the_rate_at_every_step(dls, schedule, share):
    learn, noted = linknet_learner(dls, pretrained=False, encoder="test_resnet"), GroupRates()
    with learn.no_bar():
        fit_schedule(learn, schedule, 2, 1e-3, cbs=[noted], encoder_lr=share)
    encoder, rest = np.array(noted.rates).T
    assert len(rest) == 2 * len(dls.train)
    assert np.allclose(encoder, share * rest)
    assert rest.max() <= 1e-3 * 1.001


def test_what_is_not_given_follows_the_settings_of_the_learner(dls):
    learn = linknet_learner(
        dls, pretrained=False, encoder="test_resnet", schedule="constant", epochs=2, lr=3e-4, encoder_lr=0.5
    )
    learn.settings = learn.settings.model_copy(update={"pretrained": True})  # without its download
    noted = GroupRates()
    with learn.no_bar():
        fit_schedule(learn, cbs=[noted])
    assert np.allclose(noted.rates, [[1.5e-4, 3e-4]] * 2 * len(dls.train))


def test_an_automatic_rate_is_refused_with_what_to_do(dls):
    with pytest.raises(UsageError, match="lr_find"):
        fit_schedule(linknet_learner(dls, pretrained=False, encoder="test_resnet", lr="auto"))
