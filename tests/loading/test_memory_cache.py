"""Arrays stay in memory up to the limit, and those not asked for the longest go first."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plumbline.loading.memory_cache import MemoryCache

KIB = 1024


def array(value: int, kib: int = 1) -> Callable[[], np.ndarray[Any, Any]]:
    return lambda: np.full(kib * KIB, value, dtype=np.uint8)


def held(cache: MemoryCache) -> list[int]:
    return [key for key in cache._held if isinstance(key, int)]


def test_a_second_access_reads_nothing() -> None:
    cache, reads = MemoryCache(10 * KIB), []

    def load(key: int) -> np.ndarray[Any, Any]:
        reads.append(key)
        return array(key)()

    for _ in range(2):
        for key in range(5):
            found = cache.get(key, lambda key=key: load(key))  # type: ignore[misc]
            assert (found == key).all()
    assert reads == list(range(5))
    assert (cache.hits, cache.misses) == (5, 5)


def test_the_limit_holds_after_every_access() -> None:
    cache = MemoryCache(20 * KIB)
    random = np.random.default_rng(0)
    sizes = random.integers(1, 5, 30)
    for key in random.integers(0, 30, 500).tolist():
        cache.get(key, array(key, int(sizes[key])))
        assert cache.size_bytes == sum(a.nbytes for a in cache._held.values()) <= 20 * KIB
    assert cache.hits + cache.misses == 500
    assert cache.hits > 50


def test_the_one_not_asked_for_the_longest_goes_first() -> None:
    cache = MemoryCache(3 * KIB)
    for key in (1, 2, 3, 1, 4):  # 1 was asked for again, so 2 goes
        cache.get(key, array(key))
    assert held(cache) == [3, 1, 4]
    cache.get(5, array(5, 2))
    assert held(cache) == [4, 5]


@pytest.mark.parametrize("limit", [0, KIB])
def test_what_does_not_fit_is_given_and_not_kept(limit: int) -> None:
    cache = MemoryCache(limit)
    cache.get(1, array(1))
    for _ in range(2):
        assert cache.get(2, array(2, 2)).nbytes == 2 * KIB
    assert cache.size_bytes == limit
    assert held(cache) == ([1] if limit else [])


def test_an_array_cannot_be_spoilt_for_the_next_reader() -> None:
    cache, original = MemoryCache(KIB), np.ones(4)
    for _ in range(2):  # loaded, and from memory
        with pytest.raises(ValueError, match="read-only"):
            cache.get(1, lambda: original)[0] = 7.0
    assert original.flags.writeable
