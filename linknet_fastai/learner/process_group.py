"""Several processes that train together, as `torchrun` and `accelerate launch` start them: values of rank 0, errors.

Every rank runs the same code. How the ranks share the batches of a training is in `distributed`. In a single process
nothing here has an effect.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from linknet_fastai.core.errors import UsageError, UserError, import_optional
from linknet_fastai.core.parallel import is_first, process_count, processes_here

if TYPE_CHECKING:  # torch, which --help must not wait for, is imported where it is used
    import torch
    from fastai.learner import Learner

# How long ranks wait for one that is alive, but does not arrive. The end of a process is noticed at once.
TRAINING_TIMEOUT = timedelta(minutes=30)
PREPARATION_TIMEOUT = timedelta(days=1)  # rank 0 may have a large data set to download or to decode
LAUNCHER_SECONDS = 10  # the launcher ends all processes within these after one of them has failed
SECONDS_TO_EXIT = 6 * LAUNCHER_SECONDS  # a process may close its connections long before it has ended

_preparation: Any = None  # the process group in which ranks wait for rank 0
Result = TypeVar("Result")
Item = TypeVar("Item")


def join_processes() -> None:
    """Join the other ranks of a training; `training_together` leaves them.

    Raises:
        UserError: accelerate is not installed.
    """
    global _preparation
    if process_count() == 1:
        return
    import_optional("accelerate", "distributed")
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
    distributed.init_process_group(timeout=TRAINING_TIMEOUT)
    _preparation = distributed.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)


def from_rank_0(work: Callable[[], Result]) -> Result:
    """Call a function on rank 0 and return its result, which is pickled, on every rank; all ranks must call this.

    Example::

        folder = from_rank_0(lambda: Path(f"runs/{datetime.now():%H%M%S}"))
    """
    if process_count() == 1:
        return work()
    from torch import distributed

    values: list[Any] = [work() if is_first() else None]
    distributed.broadcast_object_list(values, group=_preparation)
    return values[0]


@contextmanager
def rank_0_first() -> Iterator[None]:
    """Let rank 0 run the block first, and the others after it, who find the files that it has made.

    Example::

        with rank_0_first():
            dataset = open_dataset("camvid")  # downloaded once
    """
    if not is_first():
        from_rank_0(lambda: None)
    yield
    if is_first():
        from_rank_0(lambda: None)


@contextmanager
def training_together(learn: "Learner") -> Iterator[None]:
    """Share the batches of a learner's training with the other ranks, by fastai's `distrib_ctx`.

    Afterwards the ranks no longer communicate, and rank 0 may continue alone.
    """
    if process_count() == 1:
        yield
        return
    import fastai.distributed  # noqa: F401 - gives learners `distrib_ctx`, and needs accelerate
    from torch import distributed

    with learn.distrib_ctx():
        yield
    distributed.destroy_process_group()


@contextmanager
def each_alone() -> Iterator[None]:
    """Let every rank work as if it was the only process, as on a training of its own."""
    from fastcore.xtras import modified_env

    with modified_env(WORLD_SIZE="1", RANK="0") if process_count() > 1 else nullcontext():
        yield


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """The items that are for this rank, where each is for one of them."""
    return items if process_count() == 1 else items[int(os.environ["RANK"]) :: process_count()]


def end_together(flag: bool) -> bool:
    """Wait for all ranks, which no longer communicate then; whether the flag is set on every one."""
    if process_count() == 1:
        return flag
    from torch import distributed

    flags = [False] * process_count()
    distributed.all_gather_object(flags, flag, group=_preparation)
    distributed.destroy_process_group()
    return all(flags)


@contextmanager
def one_error_for_all() -> Iterator[None]:
    """Let one rank report an error that ends all of them: rank 0 where it has one.

    Most errors, such as a wrong option, occur on every rank, and the end of one process is an error in all others.
    So ranks wait before they report such an error; meanwhile the launcher ends them where another has failed.

    Raises:
        UserError: as in the block, with the rank where it is not 0; or another process has ended.
    """
    try:
        yield
    except KeyboardInterrupt:
        if is_first():
            raise
        raise SystemExit(130) from None
    except Exception as error:
        if process_count() == 1:
            raise
        ended = is_end_of_another(error)
        if is_first() and not ended:
            raise
        time.sleep(SECONDS_TO_EXIT if ended else LAUNCHER_SECONDS)
        rank = os.environ["RANK"]
        if ended:
            raise UserError(
                f"rank {rank}: another process has ended, perhaps for lack of memory ({error})"
            ) from error
        if isinstance(error, UserError):
            raise type(error)(f"rank {rank}: {error}") from error
        raise


def is_end_of_another(error: Exception) -> bool:
    """Whether an error reports no more than that another process of the training has ended."""
    if process_count() == 1:
        return False
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def on_every_rank(flag: "torch.Tensor") -> bool:
    """Whether a flag, a boolean tensor without dimensions, is set on every rank; all ranks must call this."""
    return not on_any_rank(~flag)


def on_any_rank(flag: "torch.Tensor") -> bool:
    """Whether such a flag is set on any rank; all ranks must call this."""
    return bool(sum_over_ranks(flag.int()))


def sum_over_ranks(values: "torch.Tensor") -> "torch.Tensor":
    """Sum a tensor, which is overwritten, over the ranks; all ranks must call this."""
    if process_count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.all_reduce(values)
    return values


def check_shareable(device: "torch.device") -> None:
    """Raise UsageError where several processes cannot train on this device."""
    if process_count() == 1 or device.type == "cpu":
        return
    if device.type != "cuda":
        raise UsageError(f"--device: several processes train on CUDA GPUs or CPUs, not on {device}; use --device cpu")
    import torch

    if processes_here() > (gpus := torch.cuda.device_count()):
        raise UsageError(
            f"--device: {processes_here()} processes on this machine, which has {gpus} CUDA GPU(s); start one for "
            "each, or use --device cpu"
        )
    if device.index not in (None, _local_rank()):
        raise UsageError(f"--device: {device} cannot be the GPU of every process; leave it out, or use cuda")


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK") or 0)
