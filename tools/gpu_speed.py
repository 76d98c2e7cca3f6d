"""The parts of `gpu_check.py` that measure speed: training beside bare loops and smp, and prediction."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import Record, Scale, attempt, street_learner, train_epochs
from torch import Tensor, nn

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.size import format_size
from linknet_fastai.core.device import DTYPES, autocast, peak_memory_mib, resolve_precision, tune
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from peers import pad_to_32, segmentation_loss, smp_linknet

TITAN_X = {(1280, 720): 18.7}  # frames a second in the paper


def train(scale: Scale, work: Path) -> Iterator[Record]:
    """Training speed, ours from the cache, beside loops whose batches are on the device already."""
    contestants: dict[str, Callable[..., Record]] = {
        "ours": ours,
        "ours, AdamW": partial(ours, optimizer="adamw"),
        "bare loop": bare,
        "smp documented": partial(smp, tuned=False),
        "smp tuned": partial(smp, tuned=True),
    }
    for size in scale.train_sizes:
        for bs in scale.batches:
            for name, contestant in contestants.items():
                named = {"network": name, "size": format_size(size), "bs": bs}
                yield named | attempt(scale, partial(contestant, scale, work, size, bs))


def predict(scale: Scale, work: Path) -> Iterator[Record]:
    """Prediction: one frame from bytes to class map, and batches on the device, with and without CUDA graphs."""
    recipe = load_recipe("camvid")
    network = LinkNet(11, scale.options.get("encoder", "resnet18"), pretrained=False).eval()
    for size in scale.predict_sizes:
        card = ModelCard.of(recipe, size)
        for precision in ("fp32", "bf16", "fp16") if scale.device == "cuda" else ("fp32",):
            predictor = Predictor(network, card, scale.device, precision)
            frame = np.zeros((size[1], size[0], 3), np.uint8)
            named = {"size": format_size(size), "precision": precision, "Titan X": TITAN_X.get(size, "")}
            alone = partial(frames_per_second, scale, partial(predictor.channels, frame, frame.shape[:2]), 1)
            yield named | {"batch": 1, "as": "predict"} | attempt(scale, alone)
            for batch in (1, 8):
                images = torch.zeros(batch, 3, *size[::-1], device=scale.device, dtype=DTYPES.get(precision))
                images = images.contiguous(memory_format=torch.channels_last)
                for way in ("eager", "CUDA graph") if scale.device == "cuda" else ("eager",):
                    run = partial(network_speed, scale, predictor.model, images, way)
                    yield named | {"batch": batch, "as": way} | attempt(scale, run)


def synchronize(scale: Scale) -> None:
    """Wait for the device."""
    if scale.device == "cuda":
        torch.cuda.synchronize()


def frames_per_second(scale: Scale, run: Callable[[], Any], batch: int) -> Record:
    """Frames a second of a function that takes `batch` of them."""
    for _ in range(3):
        run()
    synchronize(scale)
    begin, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - begin < scale.seconds / 2:
        for _ in range(5):
            run()
        synchronize(scale)
        count += 5
    seconds = (time.perf_counter() - begin) / count
    return {"ms": seconds * 1e3, "fps": batch / seconds, "MiB": peak_memory_mib(scale.torch_device)}


@torch.inference_mode()
def network_speed(scale: Scale, model: nn.Module, images: Tensor, way: str) -> Record:
    """The network and its argmax on a batch that is on the device."""

    def run() -> Tensor:
        return model(images).max(1).indices

    if way == "eager":
        return frames_per_second(scale, run, len(images))
    run()  # cuDNN chooses its algorithms outside of the graph
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return frames_per_second(scale, graph.replay, len(images))


def ours(scale: Scale, work: Path, size: tuple[int, int], bs: int, **options: Any) -> Record:
    """A learner as `fit` builds it, from the cache; with the GPU's utilization meanwhile."""
    learn = street_learner(scale, work, size, bs, **options)
    _, seconds = train_epochs(learn, 1)
    _, seconds = train_epochs(learn, 1)
    with utilization() as shares:
        images, seconds = train_epochs(learn, max(1, round(2 * scale.seconds / seconds)))
    busy = sum(shares) / len(shares) if shares else None
    return {"img/s": images / seconds, "MiB": peak_memory_mib(scale.torch_device), "GPU %": busy}


def bare(scale: Scale, work: Path, size: tuple[int, int], bs: int) -> Record:
    """The same network and loss in a bare loop."""
    model = LinkNet(11, scale.options.get("encoder", "resnet18"), pretrained=False)
    return loop(scale, model, SegmentationLoss(torch.ones(11, device=scale.device)), size, bs, "auto", True)


def smp(scale: Scale, work: Path, size: tuple[int, int], bs: int, tuned: bool) -> Record:
    """smp's Linknet as its CamVid example trains it, or tuned by hand; on sides that are multiples of 32."""
    if find_spec("segmentation_models_pytorch") is None:
        return {"error": "segmentation_models_pytorch is not installed"}
    loss = segmentation_loss("cross-entropy" if tuned else "dice").to(scale.device)
    return loop(scale, smp_linknet(), loss, size, bs, "auto" if tuned else "fp32", tuned)


def loop(
    scale: Scale, model: nn.Module, loss: Callable, size: tuple[int, int], bs: int, precision: str, tuned: bool
) -> Record:
    """Train on one random batch that is on the device."""
    device = scale.torch_device
    torch.backends.cudnn.benchmark = False
    if tuned:
        tune(device)
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = model.to(device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True) if tuned else torch.optim.Adam(model.parameters())
    images = pad_to_32(torch.randn(bs, 3, *size[::-1], device=device)).contiguous(memory_format=layout)
    labels = torch.randint(0, 11, (bs, *images.shape[-2:]), device=device)
    resolved = resolve_precision(precision, device)

    def train_step() -> None:
        with autocast(resolved, device):
            logits = model(images)
        loss(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    measured = frames_per_second(scale, train_step, bs)
    return {"img/s": measured["fps"], "MiB": measured["MiB"], "GPU %": None}


@contextmanager
def utilization() -> Iterator[list[int]]:
    """A list that has, after the block, nvidia-smi's utilization of the GPU every tenth of a second."""
    shares: list[int] = []
    if shutil.which("nvidia-smi") is None:
        yield shares
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as process:
        yield shares
        process.terminate()
        shares += [int(line) for line in process.communicate()[0].split() if line.isdigit()]
