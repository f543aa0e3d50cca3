"""Weights on disk: safetensors under the names of the plain model."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plumbline.errors import CheckpointError

WEIGHTS = "model.safetensors"


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.")


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights under the names of the plain model, on the CPU, each shared tensor once."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        state[_plain_name(name)] = tensor.detach().cpu().contiguous()
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights alone, without wrappers of compilation or data parallelism."""
    save_file(plain_state(model), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
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
    own = plain_state(model)
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path}: does not fit the model; missing {missing[:3]}, unexpected {unexpected[:3]}, "
            f"other shape {shapes[:3]}"
        )
    wrapped = {
        name: state[_plain_name(name)] for name in model.state_dict() if _plain_name(name) in state
    }
    model.load_state_dict(wrapped, strict=False)  # the second name of a shared tensor is not there
