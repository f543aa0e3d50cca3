"""Moments in 8 bits: near those of AdamW, a quarter of their bytes, and kept exactly."""

from typing import Any

import torch
from torch import nn

from plumbline.training.checkpoint import _restore_optimizer, optimizer_tensors
from plumbline.training.config import OptimConfig
from plumbline.training.optim import build_optimizer


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 64))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        loss = (net(torch.randn(16, 128, generator=generator)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def config(name: str) -> OptimConfig:
    return OptimConfig.model_validate({"name": name, "lr": 1e-3, "weight_decay": 0.1})


def kept_bytes(optimizer: torch.optim.Optimizer) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, tensor in optimizer_tensors(optimizer):
        number = name.partition(".")[0]
        sizes[number] = sizes.get(number, 0) + tensor.numel() * tensor.element_size()
    return sizes


def test_the_moments_of_large_tensors_take_a_quarter_and_steps_are_those_of_adamw() -> None:
    plain, small = model(), model()
    begun = [p.detach().clone() for p in plain.parameters()]
    plain_optimizer = build_optimizer(plain, config("adamw"))
    small_optimizer = build_optimizer(small, config("adamw_8bit"))
    train(plain, plain_optimizer, range(20))
    train(small, small_optimizer, range(20))
    for one, other, first in zip(plain.parameters(), small.parameters(), begun, strict=True):
        moved = (one - first).norm()
        assert (one - other).norm() < 0.05 * moved
    whole, packed = kept_bytes(plain_optimizer), kept_bytes(small_optimizer)
    largest = max(whole, key=lambda number: whole[number])
    assert packed[largest] < 0.3 * whole[largest]


def test_a_training_goes_on_exactly_from_its_stored_moments() -> None:
    whole, parted = model(), model()
    optimizer: Any = build_optimizer(whole, config("adamw_8bit"))
    train(whole, optimizer, range(6))
    before: Any = build_optimizer(parted, config("adamw_8bit"))
    train(parted, before, range(3))
    stored = {name: tensor.clone() for name, tensor in optimizer_tensors(before)}
    assert {tensor.dtype for tensor in stored.values()} >= {torch.uint8}
    resumed = model()
    resumed.load_state_dict(parted.state_dict())
    after = build_optimizer(resumed, config("adamw_8bit"))
    _restore_optimizer(after, stored)
    train(resumed, after, range(3, 6))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
