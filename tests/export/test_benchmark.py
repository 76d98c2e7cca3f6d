"""`benchmark` measures every installed engine at every size, and counts multiply-adds correctly."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import linknet_fastai.engines.torch_engine
import linknet_fastai.export.benchmark
from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.engines.formats import ENGINES
from linknet_fastai.export.benchmark import _multiply_adds, benchmark
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process for each engine, which takes seconds to import torch."""
    monkeypatch.setattr(linknet_fastai.export.benchmark, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(linknet_fastai.export.benchmark, "MAX_REPEATS", 2)


@pytest.fixture
def threads() -> None:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("in_this_process", "threads", "traced_once")
def test_every_engine_is_measured_at_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        linknet_fastai.engines.torch_engine,
        "resolve_precision",
        lambda given, _: "bf16" if given == "auto" else given,
    )
    model = LinkNet(11, "test_resnet", decoder="pixelshuffle", pretrained=False).eval()
    card = ModelCard.of(load_recipe("camvid"), (64, 48), encoder="test_resnet", decoder="pixelshuffle")
    save_model(model, card, tmp_path / "model.safetensors")
    calls: list[tuple] = []
    speeds = benchmark(
        tmp_path / "model.safetensors", [(64, 48), (50, 33)], "cpu", lambda *given: calls.append(given)
    )
    assert {(speed.engine, speed.size) for speed in speeds} == {
        (engine, size) for engine in ENGINES for size in ("64x48", "50x33")
    }
    assert {speed.precision for speed in speeds if speed.engine == "torch"} == {"fp32", "bf16"}
    assert {speed.decoder for speed in speeds} == {"pixelshuffle"}
    assert {speed.parameters for speed in speeds} == {sum(map(torch.numel, model.parameters()))}
    assert all(speed.latency_ms > 0 and speed.frames_per_second > 0 for speed in speeds)
    assert all(speed.peak_memory_mib > 50 for speed in speeds)
    work = {speed.size: speed.multiply_adds for speed in speeds}
    assert 0.5 < work["50x33"] / work["64x48"] < 0.9
    assert calls[-1][1] == calls[-1][2] == len(calls)


def test_multiply_adds_are_those_of_the_convolutions() -> None:
    network = LinkNet(11, pretrained=False).eval()
    counted = []

    def count(layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        # A convolution reads its window for each output pixel, a full one writes it for each input pixel.
        pixels = (inputs[0] if isinstance(layer, torch.nn.ConvTranspose2d) else output)[0, 0].numel()
        counted.append(pixels * layer.weight.numel())

    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    assert _multiply_adds(network, (96, 64)) == sum(counted)
