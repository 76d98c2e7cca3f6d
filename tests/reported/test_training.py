"""What went wrong in trainings that people ran: loader processes, void, light and padding, rates by group."""

import errno
import math
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.vision.core import TensorImage, TensorMask

from linknet_fastai import linknet_learner, segmentation_dls
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID
from linknet_fastai.data.augmentation import PADDING, AugmentBatch
from linknet_fastai.learner.learner import LinkNetLearner
from linknet_fastai.training.errors import explain_errors
from linknet_fastai.training.lr_find import search_lr

TINY = {"size": "64x48", "bs": 2, "device": "cpu", "encoder": "test_resnet", "pretrained": False}


def tiny_learner(data: Path, **options) -> LinkNetLearner:
    options = {**TINY, "workers": 0, **options}
    learn = linknet_learner(segmentation_dls("street", data, **options))
    learn.logger = lambda _: None
    return learn


# Loader processes


@pytest.fixture(autouse=True)
def no_loader_processes() -> Iterator[None]:
    """Ends those that an error has left; torch would wait for them."""
    yield
    for process in multiprocessing.active_children():
        process.terminate()
        process.join(timeout=30)


FRAME_GONE = """
import sys
from pathlib import Path
from linknet_fastai.training.fit import fit
from linknet_fastai.training.run_record import Observer

class Gone(Observer):
    def started(self, *arguments):
        (Path(sys.argv[1]) / "train" / "images" / "train_0003.png").unlink()

options = dict(size="64x48", bs=2, epochs=1, encoder="test_resnet", device="cpu", cache=False, workers=2)
fit("street", Path(sys.argv[1]), options, Path(sys.argv[2]), Gone())
"""


def test_a_frame_that_goes_while_training_ends_it(street_data: Path, tmp_path: Path) -> None:
    data = Path(copytree(street_data, tmp_path / "street"))
    command = [sys.executable, "-c", FRAME_GONE, str(data), str(tmp_path / "run")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)  # it hung
    assert ran.returncode == 1
    gone = data / "train" / "images" / "train_0003.png"
    last = ran.stderr.splitlines()[-1]
    assert last.endswith(f"{gone}: cannot read this image (No such file or directory)")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_error_in_a_loader_process_is_one_line(street_data: Path, tmp_path: Path, split: str) -> None:
    data = Path(copytree(street_data, tmp_path / "street"))
    learn = tiny_learner(data, workers=1, cache=False)
    frame = data / split / "images" / f"{split}_0001.png"
    frame.write_bytes(frame.read_bytes()[:200])
    loader = learn.dls.train if split == "train" else learn.dls.valid
    with pytest.raises(UserError) as caught, explain_errors(learn):
        list(loader)
    assert str(caught.value).startswith(f"{frame}: cannot read this image (")
    assert "\n" not in str(caught.value)


def no_room(item: object) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)")


def no_semaphore(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(*arguments: object) -> None:
    raise RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit."
    )


@pytest.mark.parametrize("at", ["start", "batch", "SIGBUS"])
def test_where_shared_memory_is_small_the_option_is_named(
    street_data: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    learn = tiny_learner(street_data, workers=1, cache=False)
    if at == "start":
        monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", no_semaphore)
    elif at == "batch":
        learn.dls.train.create_item = no_room
    else:
        learn.dls.train.before_iter = killed
    advice = r"--workers 0, or more room in /dev/shm \(docker: --shm-size\)"
    with pytest.raises(UserError, match=advice), explain_errors(learn):
        list(learn.dls.train)


# Void


def make_void(is_void: Callable[[Callback], bool]) -> Callback:
    """Makes labels void before anything looks at them."""

    def before_batch(callback: Callback) -> None:
        if is_void(callback):
            callback.learn.yb = (torch.full_like(callback.learn.y, VOID),)

    made = Callback(before_batch=before_batch)
    made.order = 0
    return made


def note_losses(losses: list[tuple[bool, float]]) -> Callback:
    """Notes whether a batch is of the training part, and its loss, where it has one."""
    noted = Callback(after_batch=lambda cb: cb.learn.yb and losses.append((cb.learn.training, float(cb.learn.loss))))
    noted.order = 60
    return noted


@pytest.mark.parametrize("void", [0, 1, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_of_void_counts_in_no_mean(street_data: Path, void: int, accumulate: int) -> None:
    learn, losses = tiny_learner(street_data, accumulate=accumulate), []
    with learn.no_bar():
        learn.fit(1, 1e-3, cbs=[make_void(lambda cb: cb.learn.iter == void), note_losses(losses)])
    smooth = weight = 0.0
    training = [loss for in_training, loss in losses if in_training]
    for loss in training:  # fastai's mean, over the other three batches
        smooth, weight = 0.98 * smooth + 0.02 * loss, 0.98 * weight + 0.02
    assert len(training) == len(learn.recorder.losses) == 3
    assert learn.recorder.smooth_loss.value == pytest.approx(smooth / weight, rel=1e-5)


def test_a_validation_batch_of_void_counts_in_no_mean(street_data: Path) -> None:
    learn, losses = tiny_learner(street_data), []
    with learn.no_bar():
        learn.fit(1, 1e-3, cbs=[make_void(lambda cb: not cb.training and cb.learn.iter == 1), note_losses(losses)])
    first, void, last = (loss for training, loss in losses if not training)
    assert void == 0
    assert learn.recorder.loss.value == pytest.approx((first + last) / 2)
    learn.validate(cbs=make_void(lambda cb: True))
    assert math.isnan(learn.recorder.loss.value)


def test_lr_find_begins_with_a_batch_of_void(street_data: Path) -> None:
    learn = tiny_learner(street_data)
    learn.add_cb(make_void(lambda cb: cb.learn.train_iter < 3))
    found = search_lr(learn, steps=24)
    assert len(found.points) == 21
    assert all(1e-7 < rate < 10 for rate in found.suggestions.values())


def test_lr_find_of_void_alone_says_what_to_do(street_data: Path) -> None:
    learn = tiny_learner(street_data)
    learn.add_cb(make_void(lambda cb: True))
    with pytest.raises(UserError, match="--steps"):
        search_lr(learn, steps=20)


# The light of other frames, and padding


def test_padding_is_no_part_of_the_light_of_a_frame() -> None:
    dark = np.random.default_rng(0).integers(40, 80, (3, 48, 64)).astype(np.uint8)
    images, labels = torch.from_numpy(np.stack([dark, dark + 120] * 4)), torch.zeros(8, 48, 64, dtype=torch.uint8)

    def augmented(relight: float) -> tuple[torch.Tensor, torch.Tensor]:
        transform = AugmentBatch((64, 48), Settings(scale=(0.5, 0.5), color=0, relight=relight))
        transform.generators = iter([[random.Random(frame) for frame in range(8)]])
        frames, maps = transform((TensorImage(images), TensorMask(labels)), split_idx=0)
        return frames.as_subclass(torch.Tensor), maps.as_subclass(torch.Tensor) != VOID

    frames, shown = augmented(1)
    change = frames - augmented(0)[0]
    # All frames have the same spread: one changes by the same amount everywhere.
    by_frame = [frame[:, own] for frame, own in zip(change, shown, strict=True)]
    assert max(float(values.std(1).max()) for values in by_frame) < 1e-3
    assert max(abs(float(values.mean())) for values in by_frame) > 40
    assert not change.permute(0, 2, 3, 1)[~shown].any()


def test_padding_keeps_its_color_whatever_brightness_contrast_and_saturation() -> None:
    transform = AugmentBatch((64, 48), Settings(scale=(0.5, 0.9), color=0.5, relight=0))
    images = TensorImage(torch.randint(0, 256, (8, 3, 48, 64), dtype=torch.uint8))
    frames, maps = transform((images, TensorMask(torch.zeros(8, 48, 64, dtype=torch.uint8))), split_idx=0)
    assert (frames.permute(0, 2, 3, 1)[maps == VOID] == torch.tensor(PADDING)).all()


# The learning rates of the parameter groups


@pytest.mark.parametrize(("trained", "share"), [(False, 1), (True, 0.25)])
def test_lr_find_searches_with_the_rates_that_fit_trains_with(street_data: Path, trained: bool, share: float) -> None:
    learn, rates = tiny_learner(street_data, encoder_lr=0.25), []
    learn.settings = learn.settings.model_copy(update={"pretrained": trained})  # without its download
    learn.add_cb(Callback(after_step=lambda cb: rates.append([group["lr"] for group in cb.opt.hypers])))
    found = search_lr(learn, steps=20)
    encoder, rest = np.array(rates).T
    assert np.allclose(encoder, share * rest)
    assert rest[0] == pytest.approx(1e-7)
    assert [rate for rate, _ in found.points] == pytest.approx(rest[: len(found.points)])
