"""When memory runs out in a training: how that is told, and which batch would fit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from fastai.learner import Learner

from linknet_fastai.config.settings import Settings, format_size
from linknet_fastai.core.device import autocast, resolve_precision
from linknet_fastai.core.errors import UserError
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.linknet import LinkNet

# Of a CPU's memory: torch's allocator (Windows has another), C++, oneDNN where a convolution gets none. Of a GPU's
# where torch raises no OutOfMemoryError: Apple's, and CUDA's libraries.
SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "could not create a primitive",
    "could not create a memory object",
    "MPS backend out of memory",
    "_ALLOC_FAILED",
)
# Not by multiprocessing: what it spawns runs the caller's script again where that has no `__main__` guard.
TRIAL = "import json, sys; from linknet_fastai.training.out_of_memory import step; step(*json.loads(sys.argv[1]))"
Result = TypeVar("Result")


def told_where_memory_ends(work: Callable[[], Result], learn: Learner, settings: Settings) -> Result:
    """Do work with a learner, and give what comes of it.

    Raises:
        UserError: memory runs out; the message says which batch would fit.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    raise UserError(_what_would_fit(learn, settings))  # not before the error, whose frames hold tensors, is gone


def _what_would_fit(learn: Learner, settings: Settings) -> str:
    bs = learn.dls.train.bs
    size = settings.crop or settings.size
    tried = f"memory runs out with --bs {bs} at --size {format_size(size)}"
    if fits := fitting_batch(learn, size):
        return f"{tried}; --bs {fits} fits, with --accumulate {-(-bs // fits)} for steps of as many frames"
    return f"{tried}, and not even two frames fit; take a smaller --size, or train on a --crop of it"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or not."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(said in str(error) for said in SIGNS)


def fitting_batch(learn: Learner, size: tuple[int, int]) -> int:
    """How many frames go through a training step where memory ran out: half a batch, or half of that, and so on.

    Each number is tried in a process of its own: where a CPU's memory ends libraries crash.

    Args:
        learn: the learner; nothing can be trained with it any more.
        size: (width, height) of its training batches.

    Returns:
        The number, 0 where not even two go through.
    """
    device, card = learn.dls.device, learn.card
    precision = resolve_precision(learn.device_precision.precision, device)
    network = (len(card.classes), card.encoder, card.decoder)
    frames, (width, height) = learn.dls.train.bs // 2, size
    learn.xb = learn.yb = ()
    learn.pred = learn.loss = learn.loss_grad = None
    learn.model.to("cpu").zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    while frames >= 2:
        if step_fits(network, (frames, height, width), str(device), precision):
            return frames
        frames //= 2
    return 0


def step_fits(network: tuple[int, str, str], shape: tuple[int, int, int], device: str, precision: str) -> bool:
    """Whether memory holds a training step; see `step` for the arguments. A process of its own tries it."""
    command = [sys.executable, "-P", "-c", TRIAL, json.dumps([network, shape, device, precision])]
    found_here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=found_here, capture_output=True).returncode == 0


def step(network: tuple[int, str, str], shape: tuple[int, int, int], device: str, precision: str) -> None:
    """A step as in a training, of blank frames.

    Args:
        network: the number of classes, the encoder and the decoder.
        shape: (frames, height, width) of the batch.
        device: where it is done.
        precision: "fp32", "bf16" or "fp16".
    """
    frames, height, width = shape
    model = LinkNet(*network, pretrained=False).to(device, memory_format=torch.channels_last).train()
    images = torch.zeros(frames, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    with autocast(precision, torch.device(device)):
        predicted = model(images)
    SegmentationLoss()(predicted, torch.zeros(frames, height, width, dtype=torch.long, device=device)).backward()
