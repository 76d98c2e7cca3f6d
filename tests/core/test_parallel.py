"""Work in threads keeps its order, has a limit on the items in flight, and stops at an error."""

import time
from collections.abc import Iterator

import pytest

from linknet_fastai.core.parallel import map_in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number

    assert list(map_in_threads(work, range(20), 4)) == list(range(20))


def test_no_more_than_twice_the_threads_are_in_flight() -> None:
    started: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            started.append(number)
            yield number

    given = map_in_threads(lambda number: number, items(), 3)
    for done in range(10):
        assert next(given) == done
        assert len(started) <= done + 1 + 6
    given.close()


def test_an_error_is_raised_and_ends_the_work() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="three"):
        list(map_in_threads(work, range(1000), 2))
    assert len(done) < 20
