"""What is frozen gets no gradient, keeps evaluating, and is proven unchanged."""

import pytest
import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError, TrainingError
from plumbline.training.freeze import (
    TrainingMode,
    check_frozen,
    freeze,
    frozen_digests,
    set_training_mode,
)


@pytest.fixture
def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    encoder.register_buffer("scratch", torch.tensor(True), persistent=False)
    return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(3, 1)})


def test_a_frozen_part_gets_no_gradient(model: nn.ModuleDict) -> None:
    """And the rest the one that it has without."""
    x = torch.randn(4, 2)

    def gradients_of_head() -> list[Tensor | None]:
        model.eval().zero_grad()
        model["head"](model["encoder"](x)).square().sum().backward()
        return [parameter.grad for parameter in model["head"].parameters()]

    expected = gradients_of_head()
    freeze(model, ["encoder"])
    torch.testing.assert_close(gradients_of_head(), expected, rtol=0, atol=0)
    assert all(p.grad is None for p in model["encoder"].parameters())


def test_a_frozen_part_keeps_evaluating(model: nn.ModuleDict) -> None:
    x = torch.randn(8, 2)
    expected = model.eval()["encoder"](x)
    freeze(model, ["encoder"])
    before = frozen_digests(model, ["encoder"])
    set_training_mode(model, ["encoder"])
    assert model["head"].training
    assert not any(m.training for m in model["encoder"].modules())
    torch.testing.assert_close(model["encoder"](x), expected, rtol=0, atol=0)
    assert check_frozen(model, ["encoder"], before) == len(before)


def test_a_part_within_a_part_can_be_frozen_alone(model: nn.ModuleDict) -> None:
    freeze(model, ["encoder.1"])
    set_training_mode(model, ["encoder.1"])
    assert model["encoder"][0].weight.requires_grad  # type: ignore[index]
    assert not model["encoder"][1].weight.requires_grad  # type: ignore[index]
    assert not model["encoder"][1].training  # type: ignore[index]
    assert model["encoder"][2].training  # type: ignore[index]


def test_parameters_and_all_buffers_are_digested(model: nn.ModuleDict) -> None:
    assert set(frozen_digests(model, ["encoder"])) == {
        "encoder.0.weight",
        "encoder.0.bias",
        "encoder.1.weight",
        "encoder.1.bias",
        "encoder.1.running_mean",
        "encoder.1.running_var",
        "encoder.1.num_batches_tracked",
        "encoder.scratch",
    }


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "scratch"])
def test_a_change_in_one_element_is_named(model: nn.ModuleDict, name: str) -> None:
    before = frozen_digests(model, ["encoder"])
    tensors = dict(model["encoder"].named_parameters()) | dict(model["encoder"].named_buffers())
    flat = tensors[name].data.view(-1)
    flat[0] = ~flat[0] if flat.dtype == torch.bool else flat[0] + 1e-7
    with pytest.raises(TrainingError, match=rf"encoder\.{name}: frozen, yet changed"):
        check_frozen(model, ["encoder"], before)


def test_an_unknown_part_names_the_known_ones(model: nn.ModuleDict) -> None:
    with pytest.raises(ConfigError, match="freeze: no part 'encodr'; parts are encoder, head"):
        freeze(model, ["encodr"])


def test_nothing_frozen_is_nothing_to_prove(model: nn.ModuleDict) -> None:
    assert check_frozen(model, [], frozen_digests(model, [])) == 0


def test_a_model_is_put_back_into_training_whatever_took_it_out(model: nn.ModuleDict) -> None:
    mode = TrainingMode(model, ["encoder"])
    expected = {name: module.training for name, module in model.named_modules()}
    assert not expected["encoder"]
    assert expected["head"]
    for meddle in (model.eval, model.train, model["head"].eval, model["encoder"].train):
        meddle()
        mode.enter()
        assert {name: module.training for name, module in model.named_modules()} == expected
