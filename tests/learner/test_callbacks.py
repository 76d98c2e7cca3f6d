"""Precision on any device, label sizes, batches that are all void, seeds."""

import os
import platform
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import CancelBatchException, CancelStepException
from torch import nn

from linknet_fastai.core import device
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.learner.callbacks import (
    AccumulateGradients,
    DevicePrecision,
    EpochSeed,
    ScoreAtLabelSize,
    SkipVoidBatches,
)
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.linknet import resample_logits


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_auto_is_bf16_only_where_the_cpu_has_it(monkeypatch, amx, avx512, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert device.resolve_precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_fp16_on_gpus_without_bf16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert device.resolve_precision("auto", torch.device("cuda")) == expected


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(UsageError, match="--precision"):
        device.resolve_precision("fp16", torch.device("cpu"))


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match=r"--device: cuda"):
        device.resolve_device("cuda")


def run_batch(
    callback: DevicePrecision, model: nn.Module, image: torch.Tensor, training: bool = False, loss: object = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network gives, and what the loss gets."""
    dls = SimpleNamespace(train=SimpleNamespace(fake_l=SimpleNamespace(num_workers=0)))
    learn = SimpleNamespace(model=model, xb=(image,), yb=(), training=training, loss_func=loss, dls=dls)
    callback.learn = learn
    callback.before_fit()
    callback.before_batch()
    raw = learn.pred = learn.model(*learn.xb)
    callback.after_pred()
    return raw, learn.pred


@pytest.mark.parametrize(
    ("training", "loss", "handed_on_as"),
    [
        (False, SegmentationLoss(), torch.float32),
        (True, nn.CrossEntropyLoss(), torch.float32),
        (True, SegmentationLoss(), torch.bfloat16),  # which makes fp32 of them itself
    ],
)
def test_bf16_really_computes_in_bf16_on_a_cpu_and_hands_fp32_on(training, loss, handed_on_as):
    image = torch.randn(1, 3, 4, 4)
    raw, handed_on = run_batch(DevicePrecision("bf16"), nn.Conv2d(3, 2, 1), image, training, loss)
    assert raw.dtype == torch.bfloat16
    assert handed_on.dtype == handed_on_as
    assert not torch.is_autocast_enabled("cpu")


def test_fp32_computes_in_fp32_and_weights_are_channels_last():
    model = nn.Conv2d(3, 2, 3)
    raw, _ = run_batch(DevicePrecision("fp32"), model, torch.randn(1, 3, 4, 4))
    assert raw.dtype == torch.float32
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_logits_are_brought_to_the_label_maps_size_bilinearly():
    callback = ScoreAtLabelSize()
    logits = torch.randn(1, 3, 4, 6)
    callback.learn = SimpleNamespace(pred=logits, yb=(torch.zeros(1, 8, 12),), y=torch.zeros(1, 8, 12))
    callback.after_pred()
    assert callback.learn.pred.shape == (1, 3, 8, 12)
    torch.testing.assert_close(callback.learn.pred, resample_logits(logits, (8, 12)))
    assert resample_logits(logits, (4, 6)) is logits


@pytest.mark.parametrize("void", [True, False])
def test_only_a_batch_that_is_all_void_is_skipped(void):
    callback, labels = SkipVoidBatches(), torch.full((1, 2, 2), VOID)
    if not void:
        labels[0, 0, 0] = 1
    callback.learn = SimpleNamespace(training=True, yb=(labels,), y=labels)
    if void:
        with pytest.raises(CancelBatchException):
            callback.before_batch()
    else:
        callback.before_batch()


@pytest.mark.parametrize(("cores", "loaders", "threads"), [(8, 2, 6), (2, 2, 1), (1, 4, 1)])
def test_loader_processes_and_threads_that_compute_have_cores_of_their_own(monkeypatch, cores, loaders, threads):
    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    device.tune(torch.device("cpu"))
    assert told == []
    device.tune(torch.device("cpu"), loaders)
    assert told == [threads]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep no memory")
def test_gaps_between_what_stays_go_back_to_the_system_at_the_end_of_an_epoch():
    def resident() -> int:
        line = next(line for line in device.STATUS.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) >> 10  # MiB

    callback = DevicePrecision("fp32")
    callback.learn = SimpleNamespace(model=nn.Linear(1, 1))
    device.tune(torch.device("cpu"))
    # The second of each pair keeps the first one's gap from the next.
    pairs = [(bytearray(os.urandom(1 << 20)), bytearray(os.urandom(1 << 12))) for _ in range(200)]
    stay = [small for _, small in pairs]
    full = resident()
    del pairs
    assert resident() > full - 50, "kept for the next batch"
    callback.after_epoch()
    assert resident() < full - 150
    assert len(stay) == 200


@pytest.mark.parametrize(("batches", "steps"), [(1, 4), (2, 2), (3, 2), (8, 1)])
def test_accumulated_steps_never_reach_over_the_end_of_an_epoch(batches, steps):
    callback, taken = AccumulateGradients(batches, bs=2), 0
    callback.before_fit()
    for i in range(4):
        callback.learn = SimpleNamespace(iter=i, n_iter=4, yb=(torch.zeros(2, 3, 3),), loss_grad=torch.tensor(1.0))
        callback.after_loss()
        assert callback.learn.loss_grad == pytest.approx(1 / batches)
        with suppress(CancelBatchException):
            callback.before_step()
            taken += 1
    assert taken == steps
    assert callback.count == 0


def test_a_second_fit_goes_on_counting_epochs_and_the_lr_finder_does_not():
    callback, train = EpochSeed(), SimpleNamespace(epoch=None)
    learn = callback.learn = SimpleNamespace(epoch=2, n_epoch=3, dls=SimpleNamespace(train=train))
    callback.before_train()
    assert train.epoch == 2
    callback.after_fit()
    learn.epoch = 0
    callback.before_train()
    assert train.epoch == 3
    learn.lr_finder = object()
    callback.after_fit()
    assert callback.epochs_before == 3


class CountingScaler:
    """Stands for GradScaler on a machine without a GPU: notes what it is asked to do."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        self.calls.append("scale")
        return loss * 8

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.calls.append("step")

    def update(self) -> None:
        self.calls.append("update")


def test_fp16_scales_the_loss_and_lets_the_scaler_take_the_only_step():
    callback = DevicePrecision("fp16")
    callback.scaler = CountingScaler()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    callback.learn = SimpleNamespace(loss_grad=torch.tensor(1.0), opt=SimpleNamespace(opt=optimizer))
    callback.before_backward()
    assert callback.learn.loss_grad == 8
    with pytest.raises(CancelStepException):
        callback.before_step()
    assert callback.scaler.calls == ["scale", "step", "update"]
