"""Ctrl-C and SIGTERM during a training: the first asks for an orderly end, the second ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody has asked a training to end."""

    asked = False


@contextmanager
def asked_by_signals() -> Iterator[StopRequest]:
    """Give a request that the first Ctrl-C or SIGTERM sets; the second raises KeyboardInterrupt.

    Only the main thread hears signals: in another nothing sets the request.
    """
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
