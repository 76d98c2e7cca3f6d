"""Parallel work: the cores and processes that are available, and results of threads in order."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # called with the step's name, the items done, their total (0: unknown)
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # Linux: those of this process, and all
MAX_THREADS = 16  # more threads that read files wait for the disk or for each other

Item = TypeVar("Item")
Result = TypeVar("Result")


def process_count() -> int:
    """The number of processes that train together, as torchrun sets it; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def processes_here() -> int:
    """The number of processes that train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def is_first() -> bool:
    """Whether this process is rank 0, or the only one.

    Example:
        ::

            if is_first():
                write_text(folder / "report.html", page)
    """
    return process_count() == 1 or not int(os.environ.get("RANK") or 0)


def usable_cores() -> int:
    """The number of cores that this process may use: its share, if several processes train on this machine.

    What a container's CPU quota allows counts, rounded up: `docker run --cpus 1.5` is two cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_quotas(), default=cores))) // processes_here())


def _quotas() -> Iterator[float]:
    """The CPU time that the control groups of this process allow, each in cores; none without a limit."""
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():  # as in 0::/docker/1f, or in 4:cpu,cpuacct:/docker/1f
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = GROUPS / ("cpu" if controllers else "") / path.lstrip("/")
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            for folder in (group, *group.parents):  # a container sees its own group as the root, or the host's path
                with suppress(OSError, ValueError):  # there is no such file, or it says "max"
                    quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
                    if quota > 0:  # -1 is no limit
                        yield quota / period


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Call `work` for each item in threads and yield the results in the order of the items.

    Items are taken as results are consumed: at most `2 * threads` are submitted ahead, however long the list is. An
    error in `work` is raised in place of its result; items that were not started by then are canceled.

    Args:
        work: called with one item.
        items: taken one by one, in the calling thread.
        threads: the number of threads.

    Example:
        >>> list(map_in_threads(len, ["a", "bb", "ccc"], threads=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(waiting) == 2 * threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
