from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig
from plumbline.export.parity import Parity, check_parity
from plumbline.export.plan import BundleSource, max_difference
from plumbline.kinds.vlm.export import (
    PromptSample,
    _match,
    choose_samples,
    measure_parity,
    reference_answers,
)
from tests.export.opening import model_of

PERFECT = Parity(
    samples=10,
    decision="token",
    decisions=50,
    agreement=1.0,
    metric="exact_match",
    metric_known=0.5,
    metric_found=0.5,
    max_input_difference=0.0,
    max_logits_difference=1e-6,
)


def test_agreement_passes() -> None:
    check_parity("onnx", PERFECT, ExportConfig())
    assert PERFECT.facts() == {
        "samples": 10,
        "tokens": 50,
        "token_agreement": 1.0,
        "exact_match_difference": 0.0,
        "max_input_difference": 0.0,
        "max_logits_difference": 1e-6,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_input_difference": 1e-3}, "max_input_difference is 0.001, allowed is 1e-06"),
        ({"max_logits_difference": 0.5}, "max_logits_difference is 0.5, allowed is 0.001"),
        ({"max_logits_difference": float("nan")}, "max_logits_difference is nan"),
        ({"metric_found": 0.6}, "exact_match_difference is 0.1, allowed is 0.001"),
        ({"agreement": 0.98}, "token_agreement is 0.9800, at least 1 is required"),
    ],
)
def test_each_figure_out_of_bounds_is_an_error(change: dict[str, float], message: str) -> None:
    with pytest.raises(ExportError, match=f"^onnx: {message}"):
        check_parity("onnx", replace(PERFECT, **change), ExportConfig())


def test_a_difference_that_is_no_number_is_not_lost_among_others() -> None:
    broken = [np.array([1.0]), np.array([np.nan]), np.array([1.0])]
    assert np.isnan(max_difference([np.array([1.0])] * 3, broken))


def test_one_score_that_is_no_number_fails_the_bundle(bundle: Path, source: BundleSource) -> None:
    stored, cache = source.stored, source.cache
    samples = choose_samples(cache, stored, "test", 8)
    reference = reference_answers(stored, cache, samples, 12)
    reference.logits[3][0, 0] = np.nan
    parity = measure_parity(model_of(bundle), stored, cache, samples, reference)
    with pytest.raises(ExportError, match="max_logits_difference is nan"):
        check_parity("onnx", parity, ExportConfig())


def test_other_weights_are_found_out(bundle: Path, source: BundleSource) -> None:
    stored, cache = source.stored, source.cache
    samples = choose_samples(cache, stored, "test", 8)
    with torch.no_grad():
        stored.model.decoder.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    reference = reference_answers(stored, cache, samples, 12)
    parity = measure_parity(model_of(bundle), stored, cache, samples, reference)
    assert parity.max_logits_difference > 0.01
    assert parity.agreement < 1.0
    assert parity.max_input_difference == 0.0


def test_samples_are_spread_over_the_split_and_of_both_kinds(source: BundleSource) -> None:
    samples = choose_samples(source.cache, source.stored, "test", 20)
    assert len(samples) == 20
    assert len({sample.image for sample in samples}) == 8
    prompts = {sample.text for sample in samples}
    assert "describe the image" in prompts
    assert len(prompts) > 5
    everything = choose_samples(source.cache, source.stored, "test", 10_000)
    assert len(everything) == 8 * 6  # five questions and one caption prompt an image


def test_a_format_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="named twice"):
        ExportConfig(formats=["onnx", "onnx"])


def test_the_figure_of_a_vlm_is_that_of_its_questions() -> None:
    """As evaluation has it: a caption in other words is no wrong answer."""
    prompt = "describe the image"
    samples = [
        PromptSample(0, "what is it?", [5], ["a cat"]),
        PromptSample(0, prompt, [6], ["a black cat"]),
        PromptSample(1, "and this?", [7], ["dog"]),
    ]
    assert _match(["A cat.", "one cat", "bird"], samples, prompt) == 0.5
    assert _match(["a black cat"], samples[1:2], prompt) == 1.0
