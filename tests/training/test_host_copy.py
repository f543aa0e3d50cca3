"""Copies of tensors are of their moment, and lie in buffers that stay."""

import pytest
import torch
from torch import Tensor

from plumbline.training.host_copy import HostCopy

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])]


def tensors(device: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    made = {
        "matrix": torch.randn(64, 32, generator=random),
        "view": torch.randn(8, 4, generator=random).T,  # no copy of it is contiguous by itself
        "half": torch.randn(5, generator=random).to(torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    return {name: tensor.to(device) for name, tensor in made.items()}


@pytest.mark.parametrize("device", DEVICES)
def test_copies_are_of_their_moment_whatever_comes_after(device: str) -> None:
    here, copy = tensors(device), HostCopy()
    expected = {name: tensor.cpu().clone() for name, tensor in here.items()}
    copy.take(here.items(), at=3)
    for tensor in here.values():  # as the next update, in the same stream
        tensor.zero_()
    assert copy.at == 3
    read = copy.read()
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        assert read[name].device.type == "cpu"
        assert read[name].is_contiguous()
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_buffers_stay_and_are_pinned_for_a_gpu(device: str) -> None:
    copy = HostCopy()
    copy.take(tensors(device).items(), at=0)
    first = {name: tensor.data_ptr() for name, tensor in copy.read().items()}
    changed = {name: tensor + 1 for name, tensor in tensors(device).items()}
    copy.take(changed.items(), at=1)
    assert {name: tensor.data_ptr() for name, tensor in copy.read().items()} == first
    for name, tensor in changed.items():
        assert torch.equal(copy.read()[name], tensor.cpu())
    pinned = {name: t.is_pinned() for name, t in copy.read().items() if t.numel()}
    assert set(pinned.values()) == {device == "cuda"}


def test_what_is_gone_is_left_out_and_another_shape_gets_a_buffer_of_its_own() -> None:
    copy = HostCopy()
    copy.take([("a", torch.ones(2)), ("b", torch.ones(3))], at=0)
    copy.take([("b", torch.full((2, 2), 5.0))], at=1)
    assert [*copy.read()] == ["b"]
    torch.testing.assert_close(copy.read()["b"], torch.full((2, 2), 5.0), rtol=0, atol=0)
