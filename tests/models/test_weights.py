"""Weights are stored under the names of the plain model, and fit entirely or not at all."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from plumbline.errors import CheckpointError
from plumbline.models.weights import load_weights, plain_state, read_tensors, save_weights


class Tied(nn.Module):
    """Input and output embedding share their tensor; one buffer beside them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("empty", torch.zeros(0))


class Wrapped(nn.Module):
    """What data parallelism makes of a model: everything below `module.`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_weights_come_back_exactly_and_tied_tensors_stay_tied(tmp_path: Path) -> None:
    model, other = Tied(0), Tied(1)
    model.norm.running_mean.add_(0.5)  # type: ignore[union-attr, operator]
    save_weights(model, tmp_path / "w.safetensors")
    assert not equal_states(model, other)
    load_weights(other, tmp_path / "w.safetensors")
    assert equal_states(model, other)
    assert other.head.weight is other.embedding.weight


def test_a_shared_tensor_is_stored_once(tmp_path: Path) -> None:
    save_weights(Tied(), tmp_path / "w.safetensors")
    names = set(load_file(tmp_path / "w.safetensors"))
    assert "embedding.weight" in names
    assert "head.weight" not in names


def test_wrappers_leave_no_trace_in_the_names() -> None:
    plain = plain_state(Tied()).keys()
    assert plain_state(Wrapped(Tied())).keys() == plain
    compiled = torch.compile(Tied())  # lazily: nothing is compiled before a call
    assert isinstance(compiled, nn.Module)
    assert next(iter(compiled.state_dict())).startswith("_orig_mod.")
    assert plain_state(compiled).keys() == plain
    assert plain_state(Wrapped(compiled)).keys() == plain


@pytest.mark.parametrize("wrap", [Wrapped, torch.compile])
def test_weights_reach_a_wrapped_model_too(wrap: object, tmp_path: Path) -> None:
    model, other = Tied(0), Tied(1)
    save_weights(model, tmp_path / "w.safetensors")
    assert callable(wrap)
    load_weights(wrap(other), tmp_path / "w.safetensors")
    assert equal_states(model, other)


def test_a_part_is_loaded_by_its_prefix(tmp_path: Path) -> None:
    whole = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(3, 3)})
    save_weights(whole, tmp_path / "w.safetensors")
    part = nn.Linear(2, 2)
    load_weights(part, tmp_path / "w.safetensors", prefix="a.")
    assert equal_states(part, whole["a"])


def test_missing_and_unexpected_tensors_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    save_weights(nn.ModuleDict({"a": nn.Linear(2, 2)}), tmp_path / "w.safetensors")
    other = nn.ModuleDict({"b": nn.Linear(2, 2)})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "missing ['b.bias', 'b.weight'], unexpected ['a.bias', 'a.weight']" in text
    assert "w.safetensors" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"other shape \['weight'\]"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 64])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: not readable as safetensors"):
        read_tensors(path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_are_readable_by_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
        (tmp_path / "other").write_text("", encoding="utf-8")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("w.safetensors", "other")]
    assert modes == [mode, mode]
