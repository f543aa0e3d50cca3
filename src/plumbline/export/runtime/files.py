"""The files of a bundle, each checked before it is used, and the graphs in them."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .guard import BundleError as BundleError
from .guard import check_file, read_digests
from .guard import printable as printable

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Graph = Callable[[Sequence[Array]], list[Floats]]
"""A part of the model: arrays in, arrays out, in the order of its inputs and outputs."""


class InputError(Exception):
    """A request that cannot be answered; the text is one line."""


class TooLargeError(InputError):
    """An input beyond the limits of the contract."""


class Files:
    """The files of a bundle, each checked against digests.json before it is used."""

    def __init__(self, folder: Path) -> None:
        """Read the list of digests.

        Raises:
            BundleError: it is missing or damaged.
        """
        self.folder, self.digests = folder, read_digests(folder)

    def check(self, name: str) -> Path:
        """Compare a file with its digest and return its path.

        Raises:
            BundleError: it is not listed, missing, or its bytes have changed.
        """
        return check_file(self.folder, self.digests, name)

    def read(self, name: str) -> bytes:
        """The checked bytes of a file."""
        return self.check(name).read_bytes()


def open_graph(path: Path, format: str, threads: int) -> Graph:
    """Open one part of the model.

    Raises:
        BundleError: its format needs a package that is not installed.
    """
    return _open_onnx(path, threads) if format == "onnx" else _open_torchscript(path, threads)


def _open_onnx(path: Path, threads: int) -> Graph:
    # Its official builds send what models and machines they meet to their maker unless told before.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Waiting threads that spin take the processors from the workers beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.use_deterministic_compute, options.log_severity_level = True, 3
    # The CPU alone, wherever it runs: parity was measured on it.
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Sequence[Array]) -> list[Floats]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def _open_torchscript(path: Path, threads: int) -> Graph:
    try:
        import torch
    except ImportError:
        raise BundleError("format torchscript needs torch: pip install torch") from None
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
