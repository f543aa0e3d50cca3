import numpy as np
import pytest
import scipy.stats

from plumbline.metrics.intervals import bootstrap_interval


def test_bootstrap_interval_repeats_and_follows_the_seed() -> None:
    hits = (np.arange(200) % 3 == 0).astype(np.float64)
    assert bootstrap_interval(hits, 1) == bootstrap_interval(hits, 1)
    assert bootstrap_interval(hits, 1, resamples=50) != bootstrap_interval(hits, 2, resamples=50)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_bootstrap_interval_agrees_with_the_normal_approximation(level: float) -> None:
    hits = np.concatenate([np.ones(300), np.zeros(600), np.full(100, 0.5)])
    low, high = bootstrap_interval(hits, seed=0, resamples=4000, level=level)
    spread = scipy.stats.norm.ppf((1 + level) / 2) * hits.std() / np.sqrt(1000)
    assert low == pytest.approx(hits.mean() - spread, abs=0.1 * spread)
    assert high == pytest.approx(hits.mean() + spread, abs=0.1 * spread)


def test_bootstrap_interval_of_few_skewed_values_is_that_of_scipy() -> None:
    """Where the normal approximation does not hold; both draw for themselves."""
    values = np.random.default_rng(5).exponential(size=12) ** 2
    found = bootstrap_interval(values, seed=0, resamples=9000)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=9000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    np.testing.assert_allclose(found, theirs, rtol=0, atol=0.06 * (theirs.high - theirs.low))


def test_bootstrap_interval_moves_with_the_units_and_not_with_the_order() -> None:
    hits = np.random.default_rng(0).random(40)
    low, high = bootstrap_interval(hits, seed=3)
    scaled = bootstrap_interval(2 * hits + 5, seed=3)
    np.testing.assert_allclose(scaled, (2 * low + 5, 2 * high + 5), rtol=1e-12)
    turned = bootstrap_interval(hits[::-1], seed=3)
    np.testing.assert_array_equal(turned, (low, high))


def test_bootstrap_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        hits = rng.binomial(1, 0.4, size=150).astype(np.float64)
        low, high = bootstrap_interval(hits, seed=trial, resamples=200)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_bootstrap_interval_of_equal_values_is_that_value() -> None:
    np.testing.assert_array_equal(bootstrap_interval(np.full(10, 0.7), seed=0), (0.7, 0.7))


def test_bootstrap_interval_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(ValueError, match="no queries"):
        bootstrap_interval(np.array([]), seed=0)
    with pytest.raises(ValueError, match="resamples = 0"):
        bootstrap_interval(np.ones(3), seed=0, resamples=0)
    with pytest.raises(ValueError, match="level = 1"):
        bootstrap_interval(np.ones(3), seed=0, level=1.0)


def test_bootstrap_interval_gives_the_same_bits_as_ever() -> None:
    """Figures of runs long past are compared with those of today."""
    hits = np.concatenate([np.ones(300), np.zeros(600), np.full(100, 0.5)])
    found = bootstrap_interval(hits, seed=7)
    np.testing.assert_array_equal(found, (0.32348750000000004, 0.377025))
