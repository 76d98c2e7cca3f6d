"""Errors in a training that an option avoids: memory runs out, or torch.compile fails."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fastai.learner import Learner

from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.learner.process_group import is_end_of_another

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
def explain_errors(learn: Learner) -> Iterator[None]:
    """Run a block that trains a learner.

    Raises:
        UserError: memory runs out, or torch.compile fails; the message names the options to try.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold tensors, which a notebook keeps with the error
            raise UserError(_advice(learn)) from None
        if not learn.settings.compile or isinstance(error, UserError) or is_end_of_another(error):
            raise
        raise UserError(f"--compile: torch.compile fails here ({reason(error)}); leave it out") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory ran out, on a GPU or not.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    named = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _advice(learn: Learner) -> str:
    settings, bs = learn.settings, learn.dls.train.bs
    size = format_size(settings.crop or settings.size)
    if bs <= 2:
        return f"memory ran out with --bs {bs} at {size}; try a smaller --size, or train on a --crop of it"
    half = max(2, bs // 2)
    batches = -(-bs * settings.accumulate // half)
    return f"memory ran out with --bs {bs} at {size}; try --bs {half} --accumulate {batches}, as many frames a step"
