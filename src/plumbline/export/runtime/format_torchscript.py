"""Graphs in TorchScript, run by PyTorch."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .files import Array, Floats, Graph


def open_graph(path: Path, threads: int) -> Graph:
    """Open one part of the model."""
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        load: Callable[..., torch.nn.Module] = torch.jit.load  # torch leaves it without types
        module = load(str(path), map_location="cpu").eval()

    def run(inputs: Sequence[Array]) -> list[Floats]:
        with torch.inference_mode():
            out = module(*(torch.from_numpy(array) for array in inputs))
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]

    return run
