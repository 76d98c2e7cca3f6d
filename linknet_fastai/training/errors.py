"""Errors in a training that an option avoids: of memory, of loader processes, of torch.compile."""

import errno
import re
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
    "unable to find an engine to execute this computation",  # cuDNN, where none fits into the memory that is left
)
# What torch makes of an error in a loader process: a traceback, whose last line is the error.
IN_LOADER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n.*\n[\w.]+: (.*)", re.DOTALL)


@contextmanager
def explain_errors(learn: Learner) -> Iterator[None]:
    """Run a block that trains a learner.

    Raises:
        UserError: memory runs out, loader processes fail, or torch.compile does; the message names the options to
            try. An error in a loader process, such as a frame that is damaged, is that of a single process.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold tensors, which a notebook keeps with the error
            raise UserError(_advice(learn)) from None
        if in_loader := IN_LOADER.fullmatch(str(error).strip()):
            error = type(error)(in_loader[1]).with_traceback(error.__traceback__)
        if advice := _loader_advice(error):
            raise UserError(advice) from error
        if not learn.settings.compile or isinstance(error, UserError) or is_end_of_another(error):
            raise error
        raise UserError(f"--compile: torch.compile fails here ({reason(error)}); leave it out") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory ran out, on a GPU or not.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    named = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _loader_advice(error: Exception) -> str | None:
    """What to do where loader processes cannot start, exchange batches or go on; None for any other error."""
    text = reason(error)
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    in_multiprocessing = any(module.startswith("multiprocessing.") for module in modules)
    no_space = in_multiprocessing and getattr(error, "errno", None) == errno.ENOSPC  # for a semaphore
    # torch has no room for a batch, whose file it names, or a process is killed by SIGBUS. Not any "shared memory":
    # that of a GPU can run out too.
    if no_space or "</torch_" in text or "Bus error" in text:
        why = "the batches of loader processes do not fit into /dev/shm"
        return f"--workers: {why}; try --workers 0, or more room in /dev/shm (docker: --shm-size)"
    if "DataLoader worker" in text:  # killed
        return f"--workers: {text.rstrip('.')}, perhaps for lack of memory; try fewer --workers, or --workers 0"
    if in_multiprocessing or "Too many open files" in text:
        return f"--workers: loader processes cannot start or send their batches ({text}); try --workers 0"
    return None


def _advice(learn: Learner) -> str:
    settings, bs = learn.settings, learn.dls.train.bs
    size = format_size(settings.crop or settings.size)
    if bs <= 2:
        return f"memory ran out with --bs {bs} at {size}; try a smaller --size, or train on a --crop of it"
    half = max(2, bs // 2)
    batches = -(-bs * settings.accumulate // half)
    return f"memory ran out with --bs {bs} at {size}; try --bs {half} --accumulate {batches}, as many frames a step"
