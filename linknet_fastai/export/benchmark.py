"""`benchmark` as a plain function: how fast a network is on this machine, at the paper's sizes, by every engine."""

import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.settings import format_size
from linknet_fastai.core.device import peak_memory_mib, resolve_device, resolve_precision
from linknet_fastai.core.parallel import Progress
from linknet_fastai.engines.engine import Engine
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.export.export import export_model
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model

SIZES = ((480, 360), (640, 360), (1280, 720), (1920, 1080))  # CamVid here, and the sizes of the paper's table
FEWEST, MOST, ENOUGH_SECONDS = 3, 30, 2.0  # how often each size is measured


@dataclass(frozen=True)
class Speed:
    """How fast one engine is with one network at one size: bytes of a frame in, its class map out.

    Attributes:
        decoder: "deconv" or "pixelshuffle".
        engine: "torch", "onnxruntime" or "openvino".
        precision: what it computed in.
        size: "WIDTHxHEIGHT".
        parameters: how many the network has.
        multiply_adds: of one frame, as torch counts convolutions.
        latency_ms: of a frame by itself, median.
        frames_per_second: with as many frames on their way as the engine takes at once.
        peak_memory_mib: of the process, torch loaded (of the device on CUDA), up to this size.
    """

    decoder: str
    engine: str
    precision: str
    size: str
    parameters: int
    multiply_adds: int
    latency_ms: float
    frames_per_second: float
    peak_memory_mib: int | None


def benchmark(
    model: Path | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Speed]:
    """Measure a model, or untrained networks with either decoder, by every engine that is installed.

    Args:
        model: a run folder or a `.safetensors`; None measures the networks that `fit camvid` would train.
        sizes: (width, height) of the frames.
        device: where torch runs; the other engines take the CPU.
        progress: told how far it is.

    Raises:
        UsageError, UserError: no such device; a model that cannot be read.
    """
    on = resolve_device(device)
    networks = [load_model(model)] if model else list(_untrained())
    precisions = dict.fromkeys(["fp32", resolve_precision("auto", on)])
    speeds: list[Speed] = []
    with TemporaryDirectory() as folder:
        runs = []
        for network, card in networks:
            home = Path(folder) / card.decoder
            home.mkdir()
            work = [_multiply_adds(network, size) for size in sizes]
            measure = partial(_measure, card, sum(map(torch.numel, network.parameters())), list(sizes), work)
            save_model(network, card, home / "model.safetensors")
            runs += [partial(measure, home / "model.safetensors", "torch", name, device) for name in precisions]
            for suffix, engine in ((".onnx", "onnxruntime"), (".xml", "openvino")):
                if find_spec(engine) and find_spec("onnx") and find_spec("onnxscript"):
                    export_model(network, card, home / f"model{suffix}")
                    wanted = ["fp32"] if engine == "onnxruntime" else ["fp32", "auto"]
                    runs += [partial(measure, home / f"model{suffix}", engine, name, None) for name in wanted]
        for done, run in enumerate(runs, 1):
            # A process for each: one engine's threads and memory are none of the other's.
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, spawn, warnings.simplefilter, ("ignore",)) as process:
                measured = process.submit(run).result()
            known = {(speed.decoder, speed.engine, speed.precision) for speed in speeds}
            # Where the CPU has no bf16, a precision of auto is fp32 once more.
            speeds += [s for s in measured if (s.decoder, s.engine, s.precision) not in known]
            if progress:
                progress("measuring", done, len(runs))
    return speeds


def _untrained() -> Iterator[tuple[LinkNet, ModelCard]]:
    recipe = load_recipe("camvid")
    for decoder in ("deconv", "pixelshuffle"):
        network = LinkNet(len(recipe.classes), decoder=decoder, pretrained=False).eval()
        yield network, ModelCard.of(recipe, SIZES[0], decoder=decoder)


@torch.inference_mode()
def _multiply_adds(network: LinkNet, size: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *reversed(size)))
    return counter.get_total_flops() // 2


def _measure(
    card: ModelCard,
    parameters: int,
    sizes: Sequence[tuple[int, int]],
    multiply_adds: Sequence[int],
    file: Path,
    engine: str,
    precision: str,
    device: str | None,
) -> list[Speed]:
    speeds = []
    for size, work in sorted(zip(sizes, multiply_adds, strict=True), key=lambda pair: pair[1]):
        open_one = partial(open_engine, file, engine, precision, device, size)
        alone = open_one(frames=1)
        latency = _latency(alone, size)
        name, computed_in = alone.name, alone.precision
        memory = peak_memory_mib(torch.device("cpu") if device is None else resolve_device(device))
        del alone
        speeds.append(
            Speed(
                decoder=card.decoder,
                engine=name,
                precision=computed_in,
                size=format_size(size),
                parameters=parameters,
                multiply_adds=work,
                latency_ms=latency * 1e3,
                frames_per_second=_throughput(open_one(), size),
                peak_memory_mib=memory,
            )
        )
    return speeds


def _latency(engine: Engine, size: tuple[int, int]) -> float:
    """Seconds that one frame takes by itself; the first two are for warming up."""
    frame = _frame(size)
    times: list[float] = []
    for _ in range(MOST + 2):
        begun = time.perf_counter()
        engine.channels(frame, size[::-1])  # its answer lies in main memory: nothing is left to wait for
        times.append(time.perf_counter() - begun)
        if len(times) >= FEWEST + 2 and sum(times[2:]) > ENOUGH_SECONDS:
            break
    return median(times[2:])


def _throughput(engine: Engine, size: tuple[int, int]) -> float:
    """Frames a second with as many on their way as the engine takes."""
    frame, at_once = _frame(size), engine.frames_at_once
    with ThreadPoolExecutor(at_once) as pool:

        def predict(count: int) -> float:
            begun = time.perf_counter()
            list(pool.map(lambda _: engine.channels(frame, size[::-1]), range(count)))
            return time.perf_counter() - begun

        predict(at_once)
        once = predict(at_once) / at_once
        count = max(FEWEST * at_once, min(MOST * at_once, round(ENOUGH_SECONDS / once)))
        return count / predict(count)


def _frame(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
