"""Several processes that train together, as `torchrun` and `accelerate launch` start them: meeting, telling, failing.

The first settles what is trained, writes and speaks; the others do what it tells them. How they share the batches of
a training is in `distributed`. Where there is one process alone, nothing here does anything.
"""

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

from linknet_fastai.core.errors import UsageError, UserError, import_optional
from linknet_fastai.core.parallel import is_first, process_count, processes_here

if TYPE_CHECKING:  # torch, which --help must not wait for, is imported where processes meet
    import torch
    from fastai.learner import Learner
    from torch.distributed import Store

# Until a process that still lives, but does not come to where the others wait in a training, is given up. One that
# has died is noticed at once.
PATIENCE = timedelta(minutes=30)

_store: "Store | None" = None  # what all processes see, while they are together


def led(lead: Callable) -> Callable:
    """Let the first process call a function, and the others what that one tells them by `tell`.

    An error in any of them ends all: the process that it comes from raises it, the others leave without a word.
    """

    @wraps(lead)
    def run(*args: Any, **kwargs: Any) -> Any:
        if process_count() == 1:
            return lead(*args, **kwargs)
        with _together():
            if not is_first():
                return _told()()
            result = lead(*args, **kwargs)
            if not _store.check(["told"]):
                tell(sys.exit)  # there was nothing to share
            return result

    return run


def tell(work: Callable[[], Any]) -> None:
    """Have the other processes call `work`, which is pickled: a function at the top of a module, or a partial one."""
    if process_count() > 1:
        _store.set("told", pickle.dumps(work))


def part() -> None:
    """Part after a training: the others may end while the first goes on alone."""
    if process_count() > 1:
        from torch import distributed

        distributed.destroy_process_group()


def shared(learn: "Learner") -> AbstractContextManager:
    """Where a learner's training is shared by all processes: fastai's `distrib_ctx`, and nothing for one process."""
    if process_count() == 1:
        return nullcontext()
    import fastai.distributed  # noqa: F401 - gives learners `distrib_ctx`, and needs accelerate

    return learn.distrib_ctx()


def on_every_rank(flag: "torch.Tensor") -> bool:
    """Whether a flag, a boolean tensor without dimensions, is set in every process; all must ask."""
    return not on_any_rank(~flag)


def on_any_rank(flag: "torch.Tensor") -> bool:
    """Whether such a flag is set in any process; all must ask."""
    if process_count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            flag = flag.int()
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def check_shareable(device: "torch.device") -> None:
    """Raise UsageError where several processes cannot train on this device."""
    if process_count() == 1 or device.type == "cpu":
        return
    if device.type != "cuda":
        raise UsageError(f"--device: several processes train on CUDA GPUs or CPUs, not on {device}; say --device cpu")
    import torch

    if processes_here() > (gpus := torch.cuda.device_count()):
        raise UsageError(
            f"--device: {processes_here()} processes on this machine, which has {gpus} CUDA GPU(s); start one for "
            "each, or say --device cpu"
        )
    if device.index not in (None, _local_rank()):
        raise UsageError(f"--device: {device} cannot be the GPU of every process; leave it out, or say cuda")


def leave() -> NoReturn:
    """End without a word, behind the process that says why: when one has ended torchrun kills the others."""
    time.sleep(10)
    raise SystemExit(1)


@contextmanager
def _together() -> Iterator[None]:
    """Meet the other processes."""
    global _store
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
    _store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
    group = distributed.PrefixStore("group", _store)
    distributed.init_process_group(store=group, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        import_optional("accelerate", "distributed")
        yield
    except KeyboardInterrupt:
        if is_first():
            raise
        raise SystemExit(130) from None
    except Exception as error:
        if _store.add("failures", 1) > 1:  # an echo of what another process has met, and says
            leave()
        if isinstance(error, distributed.DistError) or "gloo" in str(error):  # nobody else had something to say
            raise UserError(f"rank {rank}: another process was ended, perhaps for want of memory ({error})") from None
        if isinstance(error, UserError) and not is_first():
            raise type(error)(f"rank {rank}: {error}") from None
        raise
    finally:
        _store = None


def _told() -> Callable[[], Any]:
    """Wait for what the first process tells; it may take its time to look at the data."""
    while not _store.check(["told"]):
        if _store.check(["failures"]):  # it says why
            leave()
        time.sleep(0.1)
    return pickle.loads(_store.get("told"))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK") or 0)
