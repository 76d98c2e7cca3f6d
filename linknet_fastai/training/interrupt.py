"""The signals that stop a training."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a training was asked to stop."""

    asked = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Return a request that the first Ctrl-C or SIGTERM sets; the second raises KeyboardInterrupt.

    Python delivers signals to the main thread alone: in another thread nothing sets the request.

    Example::

        with stop_on_signals() as stop:
            while not stop.asked:
                train_a_batch()
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
