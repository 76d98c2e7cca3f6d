"""Memory that runs out in a training: how libraries report it, and which options to try instead."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fastai.learner import Learner

from linknet_fastai.config.settings import Settings
from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UserError

# On a CPU: torch's allocator (Windows has another), C++, oneDNN where a convolution gets no memory. On a GPU where
# torch raises no OutOfMemoryError: Apple's, and CUDA's libraries.
SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "could not create a primitive",
    "could not create a memory object",
    "MPS backend out of memory",
    "_ALLOC_FAILED",
)


@contextmanager
def explain_out_of_memory(learn: Learner, settings: Settings) -> Iterator[None]:
    """Run a block that trains a learner.

    Raises:
        UserError: memory runs out; the message names the options to try.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold tensors, which a notebook would keep with the error
        raise UserError(_advice(learn.dls.train.bs, settings)) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory ran out, on a GPU or not.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)


def _advice(bs: int, settings: Settings) -> str:
    size = format_size(settings.crop or settings.size)
    if bs <= 2:
        return f"memory ran out with --bs {bs} at {size}; try a smaller --size, or train on a --crop of it"
    half = max(2, bs // 2)
    batches = -(-bs * settings.accumulate // half)
    return f"memory ran out with --bs {bs} at {size}; try --bs {half} --accumulate {batches}, as many frames a step"
