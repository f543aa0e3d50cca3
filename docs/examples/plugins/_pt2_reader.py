"""Runs what `plugins/_pt2.py` writes; a copy of this file does so in a bundle."""

from collections.abc import Sequence
from pathlib import Path

import torch

from plumbline.export.runtime.files import Array, Floats, Graph


def open_graph(path: Path, threads: int) -> Graph:
    """Open one part of the model: an `OpenGraph`."""
    torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def run(inputs: Sequence[Array]) -> list[Floats]:
        with torch.inference_mode():
            out = module(*(torch.from_numpy(array) for array in inputs))
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]

    return run
