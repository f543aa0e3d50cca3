"""What a model is made of, by part."""

from collections.abc import Callable
from typing import Any

import pytest

FORMS = ["causal_lm_stream", "masked_lm_rows", "seq2seq", "features", "image", "align_image", "vlm"]


@pytest.mark.parametrize("name", FORMS)
def test_the_parts_add_up_to_the_model(
    ask: Callable[..., Any], open_target: Any, name: str
) -> None:
    found = ask(name, "parameters")
    model = open_target(name).job.model
    assert found["all"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["all"]["bytes"] == 4 * found["all"]["parameters"]
    for key in ("parameters", "forward_flops", "step_flops"):
        assert found["all"][key] == sum(part[key] for part in found["parts"])
    assert found["all"]["forward_flops"] < found["all"]["step_flops"]
    assert found["all"]["step_flops"] <= 3 * found["all"]["forward_flops"]
    assert found["samples"] == 6


def test_a_frozen_part_trains_nothing_and_costs_no_gradients(ask: Callable[..., Any]) -> None:
    found = ask("align_image", "parameters", "align.align_image.train.freeze=[image_encoder]")
    image = next(part for part in found["parts"] if part["part"] == "image_encoder")
    assert image["trained"] == 0
    assert image["step_flops"] == image["forward_flops"] > 0


def test_a_batch_of_twice_the_samples_costs_twice_as_much(ask: Callable[..., Any]) -> None:
    one, two = (ask("image", "parameters", "--samples", n)["all"] for n in ("4", "8"))
    assert two["step_flops"] == 2 * one["step_flops"]
