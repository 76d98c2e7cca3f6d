"""What this machine's devices can do: which one to use, in which precision, and how much memory it took."""

import ctypes
import platform
import sys
from pathlib import Path

import torch
from fastai.torch_core import default_device

from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.parallel import processes_here, usable_cores

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
STATUS = Path("/proc/self/status")  # its figure is this process's own; getrusage's begins with the parent's
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The device behind "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UsageError: this machine has no such device.
    """
    if device == "auto":
        return torch.device(default_device())
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: {device} is not to be had here ({str(error).splitlines()[0]})") from None
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in on a device.

    Args:
        precision: "auto", "fp32", "bf16" or "fp16". auto is bf16 where the hardware has it natively (AMX or
            AVX512-BF16 on a CPU, compute capability 8 on CUDA), fp16 on other CUDA devices, else fp32.
        device: where the network runs.

    Raises:
        UsageError: fp16 was asked for on a device that cannot train in it.
    """
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"--precision: fp16 needs a CUDA GPU; {device.type} takes fp32 or bf16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return "bf16"
    return "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context for a resolved precision; off for fp32."""
    enabled = precision in DTYPES
    return torch.autocast(device.type, dtype=DTYPES.get(precision), enabled=enabled)


def tune(device: torch.device, loaders: int = 0) -> None:
    """Have this process make the most of a device; asked for again, it changes nothing.

    On CUDA cuDNN measures its algorithms and takes the quickest for the sizes that come. On a CPU under glibc, memory
    that was freed is kept: by default every tensor over 32 MiB is fetched from the system anew and its pages are
    zeroed one by one, which makes a training step a fifth slower. Loader processes get cores of their own: threads
    that compute would wait for the one whose core is taken. Of several processes that train together each computes on
    its share of the cores, where torchrun would have it compute on one.

    Args:
        device: where the network runs.
        loaders: how many loader processes run beside it.
    """
    if device.type == "cpu" and (loaders or processes_here() > 1):
        torch.set_num_threads(max(1, usable_cores() - loaders))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if libc := _glibc_of(device):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory(device: torch.device) -> None:
    """Give the system back what a training on a CPU keeps and may never use again; see `tune`.

    Small things that stay, such as the losses that fastai records, come to lie between large ones that go. What then
    fits into no gap makes the heap grow, by 60 MB an epoch of 46 batches: a training of 1 GB had 7 after 100 epochs.
    The gaps keep their addresses; the next batches fetch the pages that they need anew. Measured with 480 MB of
    gaps: 0.2 s.
    """
    if libc := _glibc_of(device):
        libc.malloc_trim(0)


def _glibc_of(device: torch.device) -> ctypes.CDLL | None:
    """The C library that a device's memory comes from, where it is glibc."""
    return ctypes.CDLL(None) if device.type == "cpu" and platform.libc_ver()[0] == "glibc" else None


def peak_memory_mib(device: torch.device) -> int | None:
    """The most memory held so far, in MiB: of a CUDA device, else of this process; None on Windows."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    if STATUS.is_file():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**10)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # bytes on macOS, KiB elsewhere
