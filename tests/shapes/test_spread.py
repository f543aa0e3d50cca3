"""Order statistics are those of a sort, whatever the batches; only great integers are rounded."""

import math

import numpy as np
import pytest

from plumbline.shapes.distributions import from_sortable, sortable
from plumbline.shapes.spread import BINS, EXACT, IntegerCounts, Spread, describe_values

PERCENTS = (5, 25, 50, 75, 95, 99)


def counted(numbers: np.ndarray, batch: int = 7) -> Spread:
    counts = IntegerCounts()
    for start in range(0, len(numbers), batch):
        counts.add(numbers[start : start + batch])
    return counts.describe()


def nearest_rank(numbers: np.ndarray, percent: int) -> float:
    return float(np.sort(numbers)[math.ceil(len(numbers) * percent / 100) - 1])


def test_quantiles_of_integers_are_those_of_a_sort() -> None:
    numbers = np.random.default_rng(0).integers(0, EXACT, 5001)
    found = counted(numbers)
    for percent in PERCENTS:
        assert found[f"p{percent}"] == nearest_rank(numbers, percent)  # type: ignore[literal-required]
        assert found[f"p{percent}"] == np.percentile(  # type: ignore[literal-required]
            numbers, percent, method="inverted_cdf"
        )
    assert (found["min"], found["max"], found["count"]) == (numbers.min(), numbers.max(), 5001)
    assert found["mean"] == pytest.approx(numbers.mean(), rel=1e-8)
    edges = np.linspace(numbers.min(), numbers.max(), BINS + 1)
    assert found["histogram"] == np.histogram(numbers, edges)[0].tolist()


def test_a_long_tail_costs_less_than_a_thousandth_and_its_end_is_exact() -> None:
    numbers = np.random.default_rng(1).lognormal(8, 2, 20_000).astype(np.int64)
    found = counted(numbers, 999)
    assert (found["min"], found["max"]) == (numbers.min(), numbers.max())
    for percent in PERCENTS:
        exact = nearest_rank(numbers, percent)
        assert exact * (1 - 1 / 1024) <= found[f"p{percent}"] <= exact  # type: ignore[literal-required]


def test_memory_is_bounded_by_the_bits_of_the_numbers() -> None:
    counts = IntegerCounts()
    for start in range(0, 2_000_000, 100_000):
        counts.add(np.arange(start, start + 100_000))
    assert len(counts._counts) < EXACT + 1024 * 10
    assert counts.count == 2_000_000


@pytest.mark.parametrize("batch", [1, 13, 4000])
def test_batches_of_any_size_and_order_give_the_same(batch: int) -> None:
    draw = np.random.default_rng(2)
    numbers = draw.integers(0, 10**6, 4000)
    assert counted(draw.permutation(numbers), batch) == counted(numbers, 100)


def test_one_number_has_one_class() -> None:
    found = counted(np.array([5, 5, 5]))
    assert found["histogram"] == [3]
    assert found["p5"] == found["p99"] == found["mean"] == 5


def test_nothing_has_no_spread() -> None:
    with pytest.raises(ValueError, match="nothing"):
        IntegerCounts().describe()
    assert describe_values(lambda: []) is None


def test_keys_stand_in_the_order_of_their_numbers() -> None:
    numbers = np.array([-np.inf, -1e300, -2.5, -1e-310, 0.0, 1e-310, 1.0, 3.0, 1e300, np.inf])
    keys = sortable(numbers).tolist()
    assert keys == sorted(keys)
    assert [from_sortable(key) for key in keys] == numbers.tolist()
    assert sortable(np.array([-0.0])) == sortable(np.array([0.0]))


def test_values_have_moments_zeros_and_what_lies_far_out() -> None:
    inner = np.random.default_rng(3).normal(10, 1, 997)
    numbers = np.sort(np.concatenate((inner, [0.0, 1000.0, -50.0])))
    found = describe_values(lambda: [(number, 1) for number in numbers.tolist()])
    assert found is not None
    assert found["mean"] == pytest.approx(numbers.mean(), rel=1e-8)
    assert found["std"] == pytest.approx(numbers.std(), rel=1e-8)
    assert (found["zeros"], found["outliers"]) == (1, 3)
    assert found["p50"] == pytest.approx(nearest_rank(numbers, 50), rel=1e-8)


def test_where_the_quartiles_meet_nothing_lies_far_out() -> None:
    found = describe_values(lambda: [(0.0, 90), (5.0, 10)])
    assert found is not None
    assert (found["zeros"], found["outliers"], found["std"]) == (90, 0, 1.5)
