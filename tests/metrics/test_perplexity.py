import math

import pytest

from plumbline.metrics.perplexity import perplexity


def test_uniform_predictions_give_the_vocabulary_size() -> None:
    assert perplexity(20 * math.log(50), 20) == pytest.approx(50, rel=1e-12)


def test_certain_predictions_give_one() -> None:
    assert perplexity(0.0, 7) == 1.0


def test_tokens_and_not_batches_weigh_the_same() -> None:
    batches = [(12.0, 3), (1.0, 9)]
    total, count = (sum(column) for column in zip(*batches, strict=True))
    assert perplexity(total, int(count)) == pytest.approx(math.exp(13 / 12), rel=1e-12)


@pytest.mark.parametrize("loss", [710.0, 1e6, math.inf, math.nan])
def test_a_loss_too_large_for_a_float_has_no_perplexity(loss: float) -> None:
    """Nothing that a file of figures could not hold."""
    assert perplexity(loss, 1) is None
    assert perplexity(709.0, 1) == pytest.approx(math.exp(709))


@pytest.mark.parametrize("count", [0, -1])
def test_no_tokens_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count = {count}: .*at least one"):
        perplexity(1.0, count)


def test_one_token_is_enough() -> None:
    assert perplexity(math.log(7), 1) == pytest.approx(7, rel=1e-12)
