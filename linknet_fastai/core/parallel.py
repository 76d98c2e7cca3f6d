"""Parallel work: cores and processes that are there for it, and results in order from a bounded number of threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # what is going on, how many are done, of how many
MOST_THREADS = 16  # more readers than that wait for the disk or for each other

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """How many cores this process may use; several that train together share those of their machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes_here())


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Do work for each item in threads and give the results in the items' order.

    At most twice as many items as threads are begun and not yet given, however long the list. What the work raises
    is raised in its place, and what has not begun then never does.
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


def process_count() -> int:
    """How many processes were started to train together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def processes_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def is_first() -> bool:
    """Whether this process is the first of them, or alone."""
    return process_count() == 1 or not int(os.environ.get("RANK") or 0)
