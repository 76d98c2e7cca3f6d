"""When memory runs out in a training: how that is told, and which batch would fit."""

import torch
from fastai.learner import Learner

from linknet_fastai.device import autocast, resolve_precision

# Of a CPU's memory: torch's allocator, C++, and oneDNN where a convolution gets none.
SIGNS = (
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a primitive",
    "could not create a memory object",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or not."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(said in str(error) for said in SIGNS)


def fitting_batch(learn: Learner) -> int:
    """How many frames of the batch at which memory ran out go through a step, halved until they do.

    Returns:
        The number, 0 where not even two go through.
    """
    images, labels = learn.xb[0], learn.yb[0]
    learn.pred = learn.loss = learn.loss_grad = None
    frames = len(images) // 2
    while frames >= 2:
        learn.model.zero_grad(set_to_none=True)
        try:
            with autocast(resolve_precision(learn.device_precision.precision, images.device), images.device):
                predicted = learn.model(images[:frames])
            learn.loss_func(predicted, labels[:frames]).backward()
            return frames
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        frames //= 2
    return 0
