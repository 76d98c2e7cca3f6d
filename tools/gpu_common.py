"""What the parts of `gpu_check.py` share: how much is measured, the drawn data, a learner on it and its timing."""

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from fastai.callback.core import Callback

from linknet_fastai.config.presets import settings_for
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.street import SPLITS, write_scenes
from linknet_fastai.learner.learner import LinkNetLearner, learner_from_settings

Record = dict[str, Any]


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
    seconds: float = 1.0  # of a measurement

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
