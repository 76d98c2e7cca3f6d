"""Speed, multiply-adds and memory of a network on this machine, at the paper's sizes, with every engine."""

import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.settings import Decoder
from linknet_fastai.config.size import format_size
from linknet_fastai.core.device import peak_memory_mib, resolve_device
from linknet_fastai.core.parallel import Progress
from linknet_fastai.engines.engine import Engine
from linknet_fastai.engines.formats import ENGINES, FORMATS
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.export.export import export_model
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model

SIZES = ((480, 360), (640, 360), (1280, 720), (1920, 1080))  # CamVid's here, and those of the paper's table
# A size is measured at least and at most this often, and within these bounds for this long.
MIN_REPEATS, MAX_REPEATS, ENOUGH_SECONDS = 3, 30, 2.0


@dataclass(frozen=True)
class Speed:
    """How fast one engine runs one network at one size, from the bytes of a frame to its class map.

    Attributes:
        decoder: the network's decoder.
        engine: the engine's name.
        precision: what it computed in.
        size: "WIDTHxHEIGHT".
        parameters: how many the network has.
        multiply_adds: for one frame, as torch counts those of convolutions.
        latency_ms: milliseconds for a single frame, median.
        frames_per_second: with as many frames at the same time as the engine computes.
        peak_memory_mib: of the process including torch (of the device on CUDA), up to and including this size.
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
    """Measure a model, or an untrained network with each decoder, with every engine that is installed.

    Args:
        model: a run folder or a `.safetensors`; None measures the networks that `fit camvid` would train.
        sizes: (width, height) of the frames.
        device: where torch runs; the other engines run on the CPU.
        progress: called with the progress.

    Raises:
        UsageError: the device is not available.
        UserError: the model cannot be read.

    Example::

        for speed in benchmark(Path("runs/street"), [(480, 360)]):
            print(speed.engine, speed.precision, speed.frames_per_second)
    """
    resolve_device(device)  # raises before the work starts
    speeds: list[Speed] = []
    with TemporaryDirectory() as folder:
        runs = []
        for network, card in [load_model(model)] if model else _untrained():
            parameters = sum(map(torch.numel, network.parameters()))
            # The smallest first, because the peak of the memory includes the earlier sizes.
            work = sorted((_multiply_adds(network, size), size) for size in sizes)
            for name, engine in ENGINES.items():
                file_format = FORMATS[engine.format]
                if engine.is_installed and not file_format.missing_extra:
                    file = Path(folder) / f"{card.decoder}{file_format.suffix}"
                    export_model(network, card, file)
                    on = device if name == "torch" else "cpu"
                    measure = partial(_measure, card.decoder, parameters, work, file, name, on)
                    runs += [partial(measure, "fp32"), partial(measure, "auto")]
        for done, run in enumerate(runs, 1):
            # In a process of its own, so that engines share neither threads nor memory.
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, spawn, warnings.simplefilter, ("ignore",)) as process:
                speeds += process.submit(run).result()
            if progress:
                progress("measuring", done, len(runs))
    return speeds


def frame_ms(model: Path) -> float:
    """Milliseconds that a model takes for a single frame of its size here, as `predict` runs it.

    Example::

        frame_ms(Path("runs/street"))
    """
    engine = open_engine(model, frames=1)
    width, height = engine.card.size
    return 1e3 * _latency(engine, np.zeros((height, width, 3), np.uint8))


def _untrained() -> Iterator[tuple[LinkNet, ModelCard]]:
    recipe = load_recipe("camvid")
    for decoder in get_args(Decoder):
        network = LinkNet(len(recipe.classes), decoder=decoder, pretrained=False).eval()
        yield network, ModelCard.of(recipe, SIZES[0], decoder=decoder)


@torch.inference_mode()
def _multiply_adds(network: LinkNet, size: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *reversed(size)))
    return counter.get_total_flops() // 2


def _measure(
    decoder: str,
    parameters: int,
    work: Sequence[tuple[int, tuple[int, int]]],
    file: Path,
    engine: str,
    device: str,
    precision: str,
) -> list[Speed]:
    """The speeds at all sizes, each given with its multiply-adds; none if "auto" is fp32, which has its own run."""
    speeds = []
    for multiply_adds, size in work:
        frame = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        open_at_size = partial(open_engine, file, engine, precision, device, size)
        opened = open_at_size(frames=1)
        computed_in = opened.precision
        if precision == "auto" and computed_in == "fp32":
            return []
        latency = _latency(opened, frame)
        memory = peak_memory_mib(resolve_device(device))
        del opened
        speeds.append(
            Speed(
                decoder=decoder,
                engine=engine,
                precision=computed_in,
                size=format_size(size),
                parameters=parameters,
                multiply_adds=multiply_adds,
                latency_ms=latency * 1e3,
                frames_per_second=_throughput(open_at_size(), frame),
                peak_memory_mib=memory,
            )
        )
    return speeds


def _latency(engine: Engine, frame: np.ndarray) -> float:
    """Seconds for a single frame; the first two runs are warm-up."""
    times: list[float] = []
    for _ in range(MAX_REPEATS + 2):
        start = time.perf_counter()
        engine.channels(frame, frame.shape[:2])  # the result is in main memory: no need to synchronize
        times.append(time.perf_counter() - start)
        if len(times) >= MIN_REPEATS + 2 and sum(times[2:]) > ENOUGH_SECONDS:
            break
    return median(times[2:])


def _throughput(engine: Engine, frame: np.ndarray) -> float:
    """Frames a second with as many at the same time as the engine computes."""
    at_once = engine.frames_at_once
    with ThreadPoolExecutor(at_once) as pool:

        def predict(count: int) -> float:
            start = time.perf_counter()
            list(pool.map(lambda _: engine.channels(frame, frame.shape[:2]), range(count)))
            return time.perf_counter() - start

        predict(at_once)
        once = predict(at_once) / at_once
        count = max(MIN_REPEATS * at_once, min(MAX_REPEATS * at_once, round(ENOUGH_SECONDS / once)))
        return count / predict(count)
