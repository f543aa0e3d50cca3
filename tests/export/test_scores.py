"""Probabilities and draws of the bundle against those of transformers."""

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from plumbline.export.runtime.files import InputError
from plumbline.export.runtime.scores import choose_token, next_probabilities, softmax


@pytest.mark.parametrize("scale", [1.0, 1e4, 3e38])
def test_large_logits_do_not_overflow(scale: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        probabilities = softmax(np.array([-scale, 0.0, scale], np.float32))
    assert probabilities.sum() == pytest.approx(1.0)
    assert probabilities.argmax() == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    logits = np.array([0.0, bad], np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="no finite scores"):
            choose_token(
                logits, np.random.default_rng(0), temperature=temperature, top_k=None, top_p=None
            )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 1.0])
def test_what_is_drawn_from_is_what_transformers_draws_from(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) * 3
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(dim=-1)[0].numpy()
    got = next_probabilities(logits[0].numpy(), temperature, top_k, top_p)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.7], np.float32))

    def draw(seed: int) -> list[int]:
        random = np.random.default_rng(seed)
        settings = {"temperature": 1.0, "top_k": None, "top_p": None}
        return [choose_token(logits, random, **settings) for _ in range(2000)]  # type: ignore[arg-type]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    shares = np.bincount(draw(3)) / 2000
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=0.04)
