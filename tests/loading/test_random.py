"""Random draws belong to (seed, purpose, counters) and to nothing else."""

import itertools

import numpy as np
import pytest

from plumbline.loading.random import keyed_generator, keyed_seed


def draws(seed: int, purpose: str, *counters: int) -> list[float]:
    return keyed_generator(seed, purpose, *counters).random(64).tolist()


def test_the_same_key_draws_the_same_values() -> None:
    assert draws(3, "order", 1, 2, 3) == draws(3, "order", 1, 2, 3)


def test_every_part_of_the_key_matters() -> None:
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a", 0, 1), (0, "a", 0, 0, 1)]
    streams = [set(draws(*key)) for key in keys]  # type: ignore[arg-type]
    for one, other in itertools.combinations(streams, 2):
        assert not one & other


def test_neighbouring_counters_do_not_overlap_even_in_long_streams() -> None:
    first, second = (keyed_generator(0, "a", 0, n).random(100_000) for n in (0, 1))
    assert not np.intersect1d(first, second).size > 1  # 2^53 values: a chance hit is possible


def test_the_draws_are_those_that_committed_metrics_were_made_with() -> None:
    assert keyed_generator(0, "order", 1).permutation(8).tolist() == [1, 3, 0, 7, 4, 5, 6, 2]
    assert keyed_seed(0, "weights") == 7_719_791_255_479_575_761


def test_seeds_are_63_bits_wide_and_differ() -> None:
    seeds = {keyed_seed(0, "step", n) for n in range(2000)}
    assert len(seeds) == 2000
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_more_than_three_counters_are_refused() -> None:
    with pytest.raises(ValueError):
        keyed_generator(0, "a", 1, 2, 3, 4)
