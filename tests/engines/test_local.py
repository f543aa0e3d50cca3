"""The engine of one machine: what is under way is bounded by its bytes as well."""

from collections.abc import Iterator
from functools import partial

import pytest

from plumbline.engines import base
from plumbline.engines.base import Work
from plumbline.engines.local import WORKERS, LocalEngine


def double(number: int) -> int:
    return 2 * number


def weigh(each: int, number: int) -> int:
    return each


def most_under_way(each: int, workers: int | None) -> tuple[int, list[int]]:
    """How many items are taken at most of which no result has come yet, and the results."""
    taken, done, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for number in range(40):
            taken += 1
            most = max(most, taken - done)
            yield number

    results = []
    work = Work("doubled", "numbers", weigh=partial(weigh, each))
    for result in LocalEngine(workers).map(double, items(), work):
        done += 1
        results.append(result)
    return most, results


def test_large_items_are_taken_few_at_a_time_and_small_ones_as_before() -> None:
    small, results = most_under_way(1, 2)
    assert results == [2 * number for number in range(40)]
    large, same = most_under_way(base.AHEAD_BYTES // 2, 2)
    assert same == results
    # Three are taken to know how many processes pay; then two are under way, and one is at hand.
    assert (large, small) == (3, 8)


def test_items_that_are_too_large_to_wait_keep_every_process_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(WORKERS, "3")
    most, results = most_under_way(2 * base.AHEAD_BYTES, None)
    assert results == [2 * number for number in range(40)]
    assert most == 4  # three under way, and one at hand
