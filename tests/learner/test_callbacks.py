"""Loss scaling, label sizes, batches that are all void, accumulated gradients, seeds, memory: in real trainings."""

import os
import platform
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from linknet_fastai import linknet_learner, segmentation_dls
from linknet_fastai.core import device
from linknet_fastai.core.images import VOID
from linknet_fastai.learner import callbacks
from linknet_fastai.learner.callbacks import AccumulateGradients, DevicePrecision, SkipVoidBatches
from linknet_fastai.learner.learner import LinkNetLearner
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.linknet import resample_logits


@pytest.fixture
def dls(street_data) -> DataLoaders:
    options = {"size": "64x48", "bs": 4, "workers": 0, "device": "cpu", "encoder": "test_resnet"}
    return segmentation_dls("street", street_data, **options)


def head_weight(learn: LinkNetLearner) -> torch.Tensor:
    return learn.model.head[-1].weight.detach().clone()


class ScaleOnCpu(Callback):
    """Puts a real loss scaler into a training on a CPU, where fp16 and its scaler are not offered."""

    order = DevicePrecision.order + 1

    def before_fit(self) -> None:
        self.learn.device_precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024)


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 1e-3), ("sgd", 0.1), ("muon", 1e-3)])
@pytest.mark.parametrize("more", ["", "clipped", "accumulated"])
def test_a_scaled_loss_trains_as_an_unscaled_one(dls, optimizer, lr, more):
    def trained(*callbacks: Callback) -> torch.Tensor:
        torch.manual_seed(0)
        options = {"encoder": "test_resnet", "accumulate": 2 if more == "accumulated" else 1}
        learn = linknet_learner(dls, pretrained=False, precision="fp32", optimizer=optimizer, **options)
        if more == "clipped":
            learn.add_cb(GradientClip(1e-2))
        before = head_weight(learn)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, lr, cbs=callbacks)
        return head_weight(learn) - before

    plain, scaled = trained(), trained(ScaleOnCpu())
    assert plain.abs().max() > 1e-5
    torch.testing.assert_close(scaled, plain, rtol=1e-2, atol=1e-6)


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_falls(dls):
    learn, scales = linknet_learner(dls, pretrained=False, precision="fp32"), []
    before = head_weight(learn)

    def overflow(callback: Callback) -> None:
        callback.learn.model.head[-1].weight.grad.fill_(torch.inf)

    def note(callback: Callback) -> None:
        scales.append(callback.learn.device_precision.scaler.get_scale())

    overflows = Callback(after_backward=overflow, after_batch=lambda cb: note(cb) if cb.training else None)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=[ScaleOnCpu(), overflows])
    assert scales == [512, 256]
    assert torch.equal(head_weight(learn), before)


def test_weights_are_channels_last_in_a_training(dls):
    learn = linknet_learner(dls, pretrained=False)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    weight = next(learn.model.encoder.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_logits_are_resized_to_the_label_maps_size_bilinearly(dls):
    learn, sizes = linknet_learner(dls, pretrained=False, precision="fp32"), []

    def note(callback: Callback) -> None:
        logits = callback.learn.model(callback.learn.x)
        torch.testing.assert_close(callback.learn.pred, resample_logits(logits, (72, 96)))
        sizes.append(tuple(logits.shape[-2:]))

    with learn.no_bar():
        learn.validate(cbs=Callback(after_loss=note))
    assert set(sizes) == {(48, 64)}
    assert resample_logits(logits := torch.zeros(1, 2, 4, 6), (4, 6)) is logits


@pytest.mark.parametrize(("ahead", "more"), [(False, ()), (True, ()), (True, (ScaleOnCpu(),))])
def test_a_batch_that_is_all_void_changes_no_weight(dls, monkeypatch, ahead, more):
    monkeypatch.setattr(callbacks, "runs_ahead", lambda device: ahead)
    learn = linknet_learner(dls, encoder="test_resnet", pretrained=False, precision="fp32")
    learn.create_opt()
    before = head_weight(learn)

    def make_void(callback: Callback) -> None:
        callback.learn.yb = (torch.full_like(callback.learn.y, VOID),)

    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=[Callback(before_batch=make_void), *more])
        assert torch.equal(before, head_weight(learn))
        assert learn.recorder.smooth_loss.count == 0
        learn.remove_cb(SkipVoidBatches)
        learn.fit(1, 1e-2, cbs=Callback(before_batch=make_void))
    assert not torch.equal(before, head_weight(learn)), "without the callback weight decay must change them"


def test_a_batch_with_one_labeled_pixel_is_not_skipped(dls):
    learn = linknet_learner(dls, pretrained=False)
    before = head_weight(learn)

    def label_one(callback: Callback) -> None:
        labels = torch.full_like(callback.learn.y, VOID)
        labels[0, 0, 0] = 1
        callback.learn.yb = (labels,)

    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=Callback(before_batch=label_one))
    assert not torch.equal(before, head_weight(learn))


def first_gradient(street_data: Path, bs: int, accumulate: int, void: Callable[[int, Tensor], None]) -> Tensor:
    """The gradient of the first step, with a running batch norm: each batch's own statistics would differ."""
    options = {"size": "64x48", "bs": bs, "workers": 0, "device": "cpu", "preset": "course", "encoder": "test_resnet"}
    dls = segmentation_dls("street", street_data, **options)
    torch.manual_seed(0)
    options = {"pretrained": False, "precision": "fp32", "class_weights": "log", "accumulate": accumulate}
    learn, gradients = linknet_learner(dls, **options), []

    def prepare(callback: Callback) -> None:
        callback.learn.model.eval()
        for frame, labels in enumerate(callback.learn.y, callback.learn.iter * bs):
            void(frame, labels)

    def note(callback: Callback) -> None:
        gradients.append(torch.cat([weight.grad.flatten() for weight in callback.learn.model.parameters()]))
        raise CancelFitException

    first, last = Callback(before_batch=prepare), Callback(before_step=note)
    first.order, last.order = 0, DevicePrecision.order + 1
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.1, cbs=[first, last])
    return gradients[0]


@pytest.mark.parametrize("kind", ["half of the first batch void", "a batch void", "the last batch void"])
def test_accumulated_gradients_are_those_of_the_large_batch(street_data, kind):
    def void(frame: int, labels: Tensor) -> None:
        if frame in {"a batch void": (2, 3), "the last batch void": (6, 7)}.get(kind, ()):
            labels[:] = VOID
        elif frame < 2:
            labels[frame:40] = VOID  # an uneven share

    large, accumulated = first_gradient(street_data, 8, 1, void), first_gradient(street_data, 2, 4, void)
    assert (accumulated - large).norm() < 1e-5 * large.norm()


@pytest.mark.parametrize("batches", [1, 2])
def test_processes_step_along_the_gradient_of_all_their_frames(monkeypatch, batches):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, batches, 1, 3, 8, 8, generator=generator)  # of two ranks
    labels = torch.randint(0, 3, (2, batches, 1, 8, 8), generator=generator)
    labels[0, 0, :, :6], labels[1, -1] = VOID, VOID
    factor = torch.ones(3, 1, 1, requires_grad=True)
    loss_func = SegmentationLoss(torch.tensor([1.0, 5.0, 20.0]))
    loss_func(frames.flatten(0, 2) * factor, labels.flatten(0, 2)).backward()
    large, mean = factor.grad, torch.zeros(3, 1, 1)
    for rank in range(2):
        callback, factor.grad = AccumulateGradients(batches), None
        optimizer, dls = SimpleNamespace(zero_grad=lambda: None), SimpleNamespace(device="cpu")
        model = SimpleNamespace(parameters=lambda: [factor])
        learn = SimpleNamespace(loss_func=loss_func, opt=optimizer, dls=dls, model=model, n_iter=batches)
        callback.learn = learn
        callback.before_train()
        for learn.iter in range(batches):
            sums = []
            for other in (1 - rank, rank):  # the loss function remembers the rank's own
                learn.y = labels[other, learn.iter]
                learn.loss_grad = loss_func(frames[other, learn.iter] * factor, learn.y)
                sums.append(torch.stack([learn.loss_grad.detach() * loss_func.weight_sum, loss_func.weight_sum]))
            learn.yb, learn.loss = (learn.y,), learn.loss_grad.clone()
            of_all = torch.cat([sum(sums), torch.tensor([2.0])])
            monkeypatch.setattr(callbacks, "sum_over_ranks", lambda values, of_all=of_all: of_all)
            callback.after_loss()
            learn.loss_grad.backward()
            with nullcontext() if callback.step_follows else pytest.raises(CancelBatchException):
                callback.before_step()
        mean += factor.grad / 2  # as DDP does
    torch.testing.assert_close(mean, large)


@pytest.mark.parametrize(("batches", "steps"), [(1, 4), (2, 2), (3, 2), (8, 1)])
def test_accumulated_steps_never_span_the_end_of_an_epoch(street_data, batches, steps):
    dls = segmentation_dls("street", street_data, size="64x48", bs=2, workers=0, device="cpu", encoder="test_resnet")
    learn, taken = linknet_learner(dls, pretrained=False, accumulate=batches), []
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-3, cbs=Callback(after_step=lambda callback: taken.append(callback.epoch)))
    assert taken == [0] * steps + [1] * steps


def test_a_second_fit_continues_to_count_epochs_and_the_lr_finder_does_not(dls, tmp_path):
    learn, epochs = linknet_learner(dls, pretrained=False, path=tmp_path), []
    note = Callback(before_batch=lambda callback: epochs.append(callback.dls.train.epoch))
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-3, cbs=note)
        learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)
        learn.fit(1, 1e-3, cbs=note)
    assert sorted(set(epochs)) == [0, 1, 2]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no memory")
def test_freed_memory_between_what_is_kept_is_returned_at_the_end_of_an_epoch():
    def resident() -> int:
        line = next(line for line in device.STATUS.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) >> 10  # MiB

    callback = DevicePrecision()
    callback.learn = type("Learn", (), {"model": nn.Linear(1, 1)})()
    device.tune(torch.device("cpu"))
    # The small block of each pair separates the gap that its large one leaves from the next gap.
    pairs = [(bytearray(os.urandom(1 << 20)), bytearray(os.urandom(1 << 12))) for _ in range(200)]
    kept = [small for _, small in pairs]
    full = resident()
    del pairs
    assert resident() > full - 150, "kept for the next batch, but for what is at the end of the heap"
    callback.after_epoch()
    assert resident() < full - 150
    assert len(kept) == 200
