"""Graphs in ONNX, run by ONNX Runtime."""

import os
from collections.abc import Sequence
from pathlib import Path

from .files import Array, Floats, Graph


def open_graph(path: Path, threads: int) -> Graph:
    """Open one part of the model."""
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
