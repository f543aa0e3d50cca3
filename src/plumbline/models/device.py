"""Where and how exactly to compute."""

import contextlib
import os
from contextlib import AbstractContextManager

import torch

from plumbline.batch import Batch, finish, map_tensors
from plumbline.errors import ConfigError


def resolve_device(requested: str) -> torch.device:
    """Turn auto, cpu or cuda into a device.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': no GPU here; use auto or cpu")
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(requested)


def repeat_exactly() -> None:
    """Let the kernels of a GPU give the same bits each time they are run.

    Some sum in the order in which threads come: the gradients of convolutions, attention and
    indexing. An operation that has no other kernel raises a RuntimeError that names it.

    Source: torch.use_deterministic_algorithms; cuBLAS reads its workspace from the environment.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # It would also fill every new tensor, in case one is read before it is written. (A property of
    # the module, which no type checker sees.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def round_float32(precision: str) -> None:
    """Let a GPU multiply what stays float32 beside half precision in TF32, as fast as that.

    Asked for by its name, float32 is whole.
    """
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"  # torch lets convolutions round as such


def resolve_precision(requested: str, device: torch.device) -> str:
    """Turn auto into bf16 on a GPU that has units for it, else fp32.

    A CPU takes bf16 by name alone: what is trained there is the same on any CPU.

    Raises:
        ConfigError: fp16 on a CPU, where gradients cannot be scaled.
    """
    if requested == "fp16" and device.type == "cpu":
        raise ConfigError("precision = 'fp16': needs a GPU; use auto, bf16 or fp32")
    if requested != "auto":
        return requested
    # Without units bf16 is emulated, many times slower than fp32.
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if on_gpu else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype)
    return context


def seed_device(device: torch.device, seed: int) -> None:
    """Seed torch's generators of a device and of the CPU.

    `torch.manual_seed` does it for all devices, also for those that a process has not begun to use:
    of these it writes a stack down each time, which takes longer than a small step's optimiser.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch, also those within mappings; what was deferred is finished there.

    All else stays.
    """
    return finish(map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True)))
