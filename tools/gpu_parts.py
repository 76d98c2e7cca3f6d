"""What `gpu_check.py` measures. A part is a function that yields records; each record is one line of its JSON.

    python tools/gpu_parts.py PART DEVICE FOLDER

Appends the records to FOLDER/PART.jsonl as they come. On the CPU all sizes are tiny.
"""

import gc
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.size import format_size
from linknet_fastai.core.device import DTYPES, autocast, peak_memory_mib, resolve_precision, tune
from linknet_fastai.data.dataset import open_dataset
from linknet_fastai.data.street import SPLITS, write_scenes
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.learner.learner import LinkNetLearner, learner_from_settings
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.training import fit as training
from linknet_fastai.training.run_record import Observer

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]

from kill_and_resume import final_weights
from peers import pad_to_32, segmentation_loss, smp_linknet

Record = dict[str, Any]
TITAN_X = {(1280, 720): 18.7}  # frames a second in the paper


class Scale(NamedTuple):
    """How much is measured."""

    device: str
    epochs: int = 12
    splits: dict[str, int] = SPLITS
    scene: tuple[int, int] = (320, 240)
    options: Mapping[str, Any] = MappingProxyType({})
    train_sizes: tuple[tuple[int, int], ...] = ((480, 360), (1024, 512))
    batches: tuple[int, ...] = (8, 16, 32, 64)
    predict_sizes: tuple[tuple[int, int], ...] = ((640, 360), (1280, 720), (1920, 1080))
    seconds: float = 1.5  # of a measurement

    @property
    def torch_device(self) -> torch.device:
        """The device, with its number."""
        return torch.device(self.device, torch.cuda.current_device() if self.device == "cuda" else None)


def scale_of(device: str) -> Scale:
    """Everything on a GPU; on the CPU as little as runs through all of it."""
    if device != "cpu":
        return Scale(device)
    options = {"encoder": "test_resnet", "size": "64x48", "bs": 4, "precision": "fp32"}
    return Scale(device, 2, {"train": 8, "val": 2}, (96, 72), options, ((64, 48),), (4,), ((64, 48),), 0.0)


def fit(scale: Scale, work: Path) -> Iterator[Record]:
    """`fit street` in every precision: speed, memory, mIoU."""
    variants: list[Record] = [{"precision": "bf16"}]
    if scale.device != "cpu":  # which has no fp16, and takes half a minute to compile
        variants += [{"precision": "fp32"}, {"precision": "fp16"}, {"precision": "bf16", "compile": True}]
    for number, options in enumerate(variants):
        options = {"epochs": scale.epochs, "device": scale.device, "seed": 1, **scale.options, **options}

        def train(number: int = number, options: Record = options) -> Record:
            result = training.fit("street", street(scale, work), options, work / "fit" / str(number))
            seconds = sorted(row["seconds"] for row in result.rows[1:])[len(result.rows[1:]) // 2]
            return {
                "img/s": (scale.splits["train"] + scale.splits["val"]) / seconds,
                "first epoch": result.rows[0]["seconds"],
                "best mIoU": result.best["miou"],
                "MiB": peak_memory_mib(scale.torch_device),
            }

        named = {"precision": options["precision"], "compile": bool(options.get("compile"))}
        yield named | attempt(scale, train)


def deterministic(scale: Scale, work: Path) -> Iterator[Record]:
    """`--deterministic`: the same weights, to the bit, in a second run and in one that is interrupted and resumed."""
    options = {
        "size": "160x120",
        "bs": 8,
        "device": scale.device,
        "deterministic": True,
        **scale.options,
        "epochs": 2,
    }
    options |= {"train_on": stems(scale, work, "train", 40), "epochs": 2}
    options["checkpoint_minutes"] = 1e-9  # one after every batch
    data, folders = street(scale, work), [work / "deterministic" / name for name in ("first", "second", "resumed")]

    class PowerCut(Observer):
        """Ends the training in the middle of its second epoch."""

        def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
            if training and (epoch, done) == (2, 2):
                raise ConnectionAbortedError("power")  # fastai expects an argument

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for folder in folders[:2]:
            training.fit("street", data, options, folder)
    without = {str(warning.message).split(" does not have")[0] for warning in caught if "determinis" in str(warning)}
    yield {"compared": "second run", "same bits": same_weights(*folders[:2]), "without a form": sorted(without)}
    with suppress(ConnectionAbortedError):
        training.fit("street", data, options, folders[2], PowerCut())
    training.resume(folders[2])
    yield {"compared": "resumed run", "same bits": same_weights(folders[0], folders[2]), "without a form": []}


def step(scale: Scale, work: Path) -> Iterator[Record]:
    """What a training step makes the host wait for, and where its time goes."""
    size, bs = scale.train_sizes[0], scale.batches[0]
    for optimizer in ("muon", "adamw"):
        learn = street_learner(scale, work, size, bs, optimizer=optimizer)
        train_epochs(learn, 1)  # builds the cache, and has cuDNN choose its algorithms
        waits = host_waits(learn)
        steps = waits.pop("steps")
        for where, count in sorted(waits.items(), key=lambda item: -item[1]):
            yield {"optimizer": optimizer, "waits a step": count / steps, "where": where}
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] * (scale.device == "cuda")
        with torch.profiler.profile(activities=activities) as profile:
            images, seconds = train_epochs(learn, 1)
        events, steps = profile.key_averages(), images / bs
        on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        yield {
            "optimizer": optimizer,
            "ms a step, profiled": seconds / steps * 1e3,
            "ms busy": sum(event.self_device_time_total for event in on_device) / 1e3 / steps,
            "kernels a step": sum(event.count for event in on_device) / steps,
        }
        for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:12]:
            ms = event.self_cpu_time_total / 1e3 / steps
            yield {"optimizer": optimizer, "host ms a step": ms, "calls a step": event.count / steps, "op": event.key}


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


PARTS = {part.__name__: part for part in (fit, deterministic, step, train, predict)}


def attempt(scale: Scale, measure: Callable[[], Record]) -> Record:
    """What `measure` returns, or its error; memory is free again afterwards."""
    try:
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return measure()
    except Exception as error:  # a lack of memory, or of a package; the next one is measured nevertheless
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    finally:
        gc.collect()
        if scale.device == "cuda":
            torch.cuda.empty_cache()


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


def street(scale: Scale, work: Path) -> Path:
    """The drawn scenes, the same for every part."""
    write_scenes(work / "street", scale.splits, scale.scene)
    return work / "street"


def stems(scale: Scale, work: Path, split: str, count: int) -> str:
    """A list of the first frames of a split, for `--train-on`."""
    file = work / f"{split}-{count}.txt"
    file.write_text("\n".join(f"{split}_{index:04}" for index in range(min(count, scale.splits[split]))))
    return str(file)


def street_learner(scale: Scale, work: Path, size: tuple[int, int], bs: int, **options: Any) -> LinkNetLearner:
    """The learner of `fit street`, on 128 frames; it validates on one."""
    dataset = open_dataset("street", street(scale, work))
    given = {"device": scale.device, **scale.options, "size": size, "bs": bs, **options}
    given |= {"train_on": stems(scale, work, "train", 128), "validate_on": stems(scale, work, "val", 1)}
    settings, _ = settings_for(dataset.recipe, dataset.layout, given)
    return learner_from_settings(dataset, settings)


class Stopwatch(Callback):
    """Times the training part of epochs, and counts their images."""

    order = 100

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0

    def before_train(self) -> None:
        """Start."""
        self.wait()
        self.begin = time.perf_counter()

    def after_batch(self) -> None:
        """Count."""
        self.images += len(self.learn.xb[0]) if self.training else 0

    def after_train(self) -> None:
        """Stop."""
        self.wait()
        self.seconds += time.perf_counter() - self.begin

    def wait(self) -> None:
        """Wait for the device."""
        if self.learn.dls.device.type == "cuda":
            torch.cuda.synchronize()


def train_epochs(learn: LinkNetLearner, epochs: int) -> tuple[int, float]:
    """Train; images and seconds of the training parts."""
    watch = Stopwatch()
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, 1e-3, cbs=watch)
    return watch.images, watch.seconds


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


class HostReads(TorchDispatchMode):
    """Counts, on any device, what makes the host wait for a GPU: numbers read, and tensors copied to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in READS:
            self.counts[str(func.overloadpacket)] += 1
        return result


READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)
READS += (torch.ops.aten.equal, torch.ops.aten.bincount)


def host_waits(learn: LinkNetLearner, epochs: int = 1, cbs: Sequence[Callback] = ()) -> Counter[str]:
    """What the host waits for in training steps, by place in the code; on the CPU by kind. And the count of `steps`.

    Not counted: values that `Reading` has brought to the host by then.
    """
    waits: Counter[str] = Counter()
    reads = HostReads()

    class Listen(Callback):
        """Counts the waits of training."""

        order = 100  # begins after all others, and ends after them
        begun = False

        def before_batch(self) -> None:
            """Begin with the first batch: before it torch reads a seed, from the host's own memory."""
            if self.begun or not self.training:
                return
            self.begun = True
            if learn.dls.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            else:
                reads.__enter__()

        def after_batch(self) -> None:
            """Count the step."""
            waits["steps"] += self.training

        def after_train(self) -> None:
            """End."""
            self.begun = False
            if learn.dls.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            else:
                reads.__exit__(None, None, None)

    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(epochs, 1e-3, cbs=[*cbs, Listen()])
    for warning in caught:
        if "synchronizing" in str(warning.message):
            waits[f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}"] += 1
    return waits + reads.counts


def same_weights(first: Path, second: Path) -> bool:
    """Whether the last and the best weights of two runs are the same bits."""
    return all(
        ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        for ours, theirs in zip(final_weights(first), final_weights(second), strict=True)
    )


def main() -> None:
    """Run a part and append its records to its file."""
    part, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with (folder / f"{part}.jsonl").open("w") as file:
        if device == "cuda":
            facts = {"GPU": torch.cuda.get_device_name(), "torch": torch.__version__, "CUDA": torch.version.cuda}
            print(json.dumps(facts), file=file, flush=True)
        for record in PARTS[part](scale_of(device), folder):
            print(json.dumps(record), file=file, flush=True)


if __name__ == "__main__":
    main()
