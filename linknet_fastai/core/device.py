"""The device to compute on: which one, in which precision, how its memory is managed and how much was used."""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import torch
from fastai.torch_core import default_device
from torch import Tensor

from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.parallel import processes_here, usable_cores
from linknet_fastai.core.torch_private import cpu_has_bf16

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h
# Linux counts the peak of this process here; what getrusage returns starts with the parent's peak.
STATUS = Path("/proc/self/status")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The torch device of a setting.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N" or "mps". auto is fastai's default device.

    Raises:
        UsageError: the device is not available on this machine.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device(default_device())
    try:
        found = torch.empty(0, device=device).device  # with its number, as tensors have it: cuda is cuda:0
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"--device: {device} is not available on this machine ({why})") from None
    return found


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in on a device: "fp32", "bf16" or "fp16".

    Args:
        precision: "auto", "fp32", "bf16" or "fp16". auto is bf16 if the hardware supports it natively (AMX or
            AVX512-BF16 on a CPU, compute capability 8 on CUDA), fp16 on other CUDA devices, otherwise fp32.
        device: where the network runs.

    Raises:
        UsageError: fp16 was given for a device that cannot train in it.

    Example:
        >>> resolve_precision("bf16", torch.device("cpu"))
        'bf16'
    """
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"--precision: fp16 needs a CUDA GPU; {device.type} supports fp32 and bf16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context of a resolved precision; disabled for fp32.

    Example:
        >>> with autocast("bf16", torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    return torch.autocast(device.type, dtype=DTYPES.get(precision), enabled=precision in DTYPES)


def tune(device: torch.device, loaders: int = 0) -> None:
    """Configure this process to compute as fast as it can on a device. A second call changes nothing.

    CUDA: cuDNN measures its algorithms and uses the fastest one for each input size.

    CPU with glibc: freed memory is kept by the process. By default every tensor above 32 MiB is requested from the
    system again and its pages are zeroed one by one, which makes a training step a fifth slower.

    CPU: loader processes get cores of their own, because compute threads would wait for the one whose core is busy.
    Of several processes that train together, each uses its share of the cores; torchrun's default is one thread. In a
    container with a CPU quota there are no more threads than the quota has cores; torch counts the machine's.

    Args:
        device: where the network runs.
        loaders: the number of loader processes.

    Example:
        ::

            tune(torch.device("cpu"), loaders=2)
    """
    threads = max(1, usable_cores() - loaders)
    if device.type == "cpu" and (loaders or processes_here() > 1 or threads < torch.get_num_threads()):
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if libc := _glibc_of(device):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def set_deterministic(on: bool) -> None:
    """Use deterministic algorithms in this process, or the fastest; torch warns of an operation that has none.

    Matrix products on CUDA are deterministic only if cuBLAS gets its memory in this way, which it reads when it is
    first used.

    Args:
        on: whether to.

    Example:
        >>> set_deterministic(False)
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on, warn_only=True)


def runs_ahead(device: torch.device) -> bool:
    """Whether the host queues work for this device and goes on, until it reads a value."""
    return device.type == "cuda"


class Reading:
    """A value on its way from a GPU to the host, which goes on meanwhile; that of another device is there at once.

    Args:
        value: a tensor with a single value, on any device.

    Example:
        >>> Reading(torch.tensor(2.5)).read()
        2.5
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value.detach().as_subclass(Tensor).to("cpu", non_blocking=value.is_cuda)
        self._arrival = torch.cuda.Event() if value.is_cuda else None
        if self._arrival:
            self._arrival.record(torch.cuda.current_stream(value.device))

    def read(self) -> float:
        """Wait until the value is there, but for nothing that was queued after it, and return it."""
        if self._arrival:
            self._arrival.synchronize()
        return self._value.item()


def release_memory(device: torch.device) -> None:
    """Return memory to the system that training on a CPU keeps, see `tune`, and may not use again.

    Small objects that stay, such as the losses that fastai records, are allocated between large ones that are freed.
    What does not fit into the gaps makes the heap grow, by 60 MB for each epoch of 46 batches: a training of 1 GB had
    7 GB after 100 epochs. The gaps keep their addresses, and the next batches get fresh pages for them. This takes
    0.2 s for 480 MB of gaps.
    """
    if libc := _glibc_of(device):
        libc.malloc_trim(0)


def _glibc_of(device: torch.device) -> ctypes.CDLL | None:
    """The C library that allocates a device's memory, if it is glibc."""
    return ctypes.CDLL(None) if device.type == "cpu" and platform.libc_ver()[0] == "glibc" else None


def peak_memory_mib(device: torch.device) -> int | None:
    """The peak memory use so far in MiB: of the CUDA device, otherwise of this process; None on Windows."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    with suppress(OSError, StopIteration):  # it does not exist, or lacks the line, as in gVisor's sandboxes
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**10)
    if sys.platform == "win32":
        return None
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # bytes on macOS, otherwise KiB
