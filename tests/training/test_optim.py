"""Parameters are grouped by part and kind, and updated as torch's own AdamW does it."""

from typing import Any

import pytest
import torch
from torch import nn

from plumbline.errors import ConfigError
from plumbline.training.config import OptimConfig
from plumbline.training.optim import build_optimizer, parameter_groups, set_lr


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projector = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
        self.projector_bias = nn.Parameter(torch.zeros(4))
        self.decoder = nn.ModuleDict({"embed": nn.Embedding(5, 4), "out": nn.Linear(4, 5)})
        self.scale = nn.Parameter(torch.tensor(1.0))


def config(**settings: Any) -> OptimConfig:
    return OptimConfig.model_validate({"lr": 0.1, "weight_decay": 0.5, **settings})


def by_name(model: nn.Module, settings: OptimConfig) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(model, settings)
    found = {name: (g.lr, g.weight_decay) for g in groups for name in g.names}
    assert sum(len(g.names) for g in groups) == len(found)
    return found


def test_norms_biases_and_scalars_do_not_decay() -> None:
    assert by_name(Model(), config()) == {
        "projector.0.weight": (0.1, 0.0),
        "projector.0.bias": (0.1, 0.0),
        "projector.1.weight": (0.1, 0.5),
        "projector.1.bias": (0.1, 0.0),
        "projector_bias": (0.1, 0.0),
        "decoder.embed.weight": (0.1, 0.5),
        "decoder.out.weight": (0.1, 0.5),
        "decoder.out.bias": (0.1, 0.0),
        "scale": (0.1, 0.0),
    }


def test_everything_decays_when_it_is_set() -> None:
    found = by_name(Model(), config(decay_norms_and_biases=True))
    assert set(found.values()) == {(0.1, 0.5)}


def test_a_part_has_its_own_rate_and_decay_and_the_longest_prefix_wins() -> None:
    parts = {
        "decoder": {"lr": 0.01},
        "decoder.out": {"weight_decay": 0.2},
        "projector": {"lr": 0.3, "weight_decay": 0.0},
    }
    found = by_name(Model(), config(parts=parts))
    assert found["decoder.embed.weight"] == (0.01, 0.5)
    assert found["decoder.out.weight"] == (0.1, 0.2)
    assert found["projector.1.weight"] == (0.3, 0.0)
    assert found["projector_bias"] == (0.1, 0.0)  # a prefix ends at a dot


def test_frozen_parameters_are_in_no_group() -> None:
    model = Model()
    model.decoder.requires_grad_(False)
    assert not [n for n in by_name(model, config()) if n.startswith("decoder")]


def test_an_unknown_part_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        parameter_groups(Model(), config(parts={"decodr": {"lr": 0.1}}))
    text = str(caught.value)
    assert "optim.parts.decodr" in text
    assert "decoder, projector, projector_bias, scale" in text


def test_a_part_that_is_frozen_cannot_be_tuned() -> None:
    model = Model()
    model.decoder.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"optim\.parts\.decoder: no trainable parameter"):
        parameter_groups(model, config(parts={"decoder": {"lr": 0.1}}))


def test_a_model_without_a_trainable_parameter_is_refused() -> None:
    model = Model().requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        parameter_groups(model, config())


def test_each_group_is_scaled_from_its_own_peak() -> None:
    optimizer = build_optimizer(Model(), config(parts={"decoder": {"lr": 0.4}}))
    for factor in (0.5, 0.25):  # not compounded
        set_lr(optimizer, factor)
        assert {group["lr"] for group in optimizer.param_groups} == {0.1 * factor, 0.4 * factor}


def test_updates_agree_with_plain_adamw() -> None:
    settings = config(betas=[0.8, 0.95], eps=1e-6)
    ours, plain = Model().double(), Model().double()
    optimizer = build_optimizer(ours, settings)
    decays = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95), eps=1e-6, foreach=False)
    for step in range(5):
        random = torch.Generator().manual_seed(step)
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=random, dtype=torch.float64)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
