"""Weights on disk: safetensors under the names of the plain model."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypeIs

from plumbline.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

WEIGHTS = "model.safetensors"


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.")


def is_spread(tensor: Tensor) -> "TypeIs[DTensor]":
    """Whether a tensor is spread over processes that train together."""
    # Not by its type, whose import takes half a second that most uses of a model need not wait.
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor [...] with all of its parts, which all processes ask for if it is spread."""
    return tensor.full_tensor() if is_spread(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of one that is not spread."""
    return tensor.to_local() if is_spread(tensor) else tensor


def spread_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A tensor that every process has, spread over them as `pattern` is."""
    if not is_spread(pattern):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(pattern.device)
    return distribute_tensor(there, pattern.device_mesh, pattern.placements, src_data_rank=None)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights under the names of the plain model, on the CPU, each shared tensor once."""
    return {name: tensor.cpu().contiguous() for name, tensor in plain_tensors(model)}


def plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights as in `plain_state`, but where they are; all processes that share a model draw it."""
    for name, tensor in _distinct(model):
        yield name, whole(tensor.detach())


_LEFT_OUT = "_plumbline_left_out"


def leave_out(model: nn.Module, names: Collection[str]) -> None:
    """Let tensors be no part of what is saved and loaded: they never train and lie elsewhere.

    Args:
        model: the one that is saved.
        names: of its state dict.
    """
    setattr(model, _LEFT_OUT, frozenset(names))


def _distinct(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model under plain names, each shared one once."""
    seen: set[int] = set()
    left_out: frozenset[str] = getattr(model, _LEFT_OUT, frozenset())
    for name, tensor in model.state_dict().items():
        if name in left_out:
            continue
        here = local(tensor)
        if here.numel() and here.data_ptr() in seen:
            continue
        seen.add(here.data_ptr())
        yield _plain_name(name), tensor


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights alone, without wrappers of compilation or data parallelism."""
    save_tensors(plain_state(model), path)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file that whoever the umask lets may read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path)  # makes a file of its own, for the owner alone
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error})") from None


def read_named(path: Path, rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Read some tensors of a safetensors file, and no others.

    Args:
        path: of the file.
        rename: name -> the one under which it is returned; None: it is not read.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            names = {name: rename(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
            return {own: tensors.get_tensor(name) for name, own in names.items() if own is not None}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error})") from None


def load_weights(model: nn.Module, path: Path, *, prefix: str = "") -> None:
    """Load weights into a model; every tensor must fit.

    Args:
        model: receives the weights.
        path: a file of `save_weights`.
        prefix: take only the tensors whose name begins so, without that beginning.

    Raises:
        CheckpointError: unreadable, or names and shapes differ; the text lists them.
    """
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_tensors(path).items()
        if name.startswith(prefix)
    }
    own = dict(_distinct(model))
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path}: does not fit the model; missing {missing[:3]}, unexpected {unexpected[:3]}, "
            f"other shape {shapes[:3]}"
        )
    wrapped = {
        name: spread_like(state[_plain_name(name)], tensor)
        for name, tensor in model.state_dict().items()
        if _plain_name(name) in state
    }
    model.load_state_dict(wrapped, strict=False)  # the second name of a shared tensor is not there
