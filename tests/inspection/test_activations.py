"""What flows through a model, and where its attention goes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from plumbline.inspection.activations import describe
from plumbline.inspection.attention import AttentionWatch, head_entropies

FORMS = {
    "causal_lm_stream": ("decoder.model.layers.0.self_attn", 2),
    "masked_lm_rows": ("encoder.bert.encoder.layer.0.attention.self", 2),
    "seq2seq": ("net.model.decoder.layers.0.encoder_attn", 2),
    "features": ("encoder.layers.encoder.layer.0.attention.self", 2),
    "align_image": ("image_encoder.vit.encoder.layers.encoder_layer_0.self_attention", 2),
    "vlm": ("decoder.model.layers.0.self_attn", 2),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_kind_shows_layers_heads_and_predictions(ask: Callable[..., Any], name: str) -> None:
    found = ask(name, "activations")
    module, heads = FORMS[name]
    shown = [row for row in found["attention"] if row["name"] == module]
    assert [row["head"] for row in shown] == list(range(heads))
    assert all(0 <= row["share"] <= 1 + 1e-6 for row in shown)
    assert found["layers"]
    assert found["predictions"]
    assert found["not_finite"] == []
    assert math.isfinite(found["loss"])


PACKED = [
    (name, f"tasks.{name}.train.task.rows=packed")
    for name in ("causal_lm_rows", "masked_lm_rows", "seq2seq")
]


@pytest.mark.parametrize("call", [*((name,) for name in FORMS), *PACKED], ids=" ".join)
def test_watching_the_attention_does_not_change_the_loss(
    open_target: Any, call: tuple[str, ...]
) -> None:
    target = open_target(*call)
    model, batch = target.job.model.eval(), target.batch()
    with torch.no_grad():
        plain = target.job.task.loss(model, batch)
        with AttentionWatch(model, lambda module, weights: None):
            watched = target.job.task.loss(model, batch)
        again = target.job.task.loss(model, batch)
    torch.testing.assert_close(watched.total, plain.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.total, plain.total, rtol=0, atol=0)


def test_entropy_is_that_of_known_weights() -> None:
    even = torch.full((1, 1, 2, 4), 0.25)
    assert head_entropies(even) == [pytest.approx((math.log(4), 1.0))]
    sharp = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])  # the first head sees one key alone
    (entropy, share), other = head_entropies(sharp)
    assert math.isnan(entropy)
    assert math.isnan(share)
    assert other == pytest.approx((math.log(2), 1.0))


def test_statistics_are_those_of_numpy_and_leave_out_what_is_not_finite() -> None:
    values = np.array([[0.0, 1.5, -4.0], [0.0, math.nan, math.inf]], np.float32)
    finite = values[np.isfinite(values)]
    assert describe(torch.from_numpy(values)) == {
        "shape": [2, 3],
        "mean": pytest.approx(finite.mean()),
        "std": pytest.approx(finite.std()),
        "zeros": 0.5,
        "largest": 4.0,
        "not_finite": 2,
    }


def test_a_layer_that_is_not_finite_is_named_first(open_target: Any) -> None:
    from argparse import Namespace

    from plumbline.inspection.activations import inspect

    target = open_target("features")
    with torch.no_grad():
        target.job.model.encoder.projection.weight.fill_(math.inf)
    report = inspect(target, Namespace(samples=None, depth=None, tensors=None))
    assert report.data["not_finite"][0] == "encoder.projection"
    assert "NOT FINITE: encoder.projection first" in report.text


@pytest.mark.parametrize(
    ("name", "head"),
    [("features", "pain"), ("causal_lm_stream", "tokens"), ("align_image", "texts")],
)
def test_probabilities_sum_to_one_and_the_tensors_are_written(
    ask: Callable[..., Any], tmp_path: Path, name: str, head: str
) -> None:
    file = tmp_path / "x.safetensors"
    found = ask(name, "activations", "--tensors", str(file))
    tensors = load_file(file)
    probabilities = tensors[f"{head}: probabilities"]
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
    assert {row["name"] for row in found["layers"]} <= set(tensors)
    for row in found["predictions"]:
        assert list(tensors[row["name"]].shape) == row["shape"]


def test_numbers_have_no_probabilities(ask: Callable[..., Any]) -> None:
    names = [row["name"] for row in ask("regression", "activations")["predictions"]]
    assert names == ["age: logits", "dose: logits"]
