"""ONNX files: checked, with dynamic shapes, and without a trace of where they were written."""

import logging
import warnings
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Protocol

import onnx
import torch
from onnxscript import ir

from plumbline.export.graphs import GraphSpec, Written

OPSET = 20

EXTERNAL_BYTES = 1_500_000_000
"""Weights beyond this lie in a file of their own: a protocol buffer holds 2 GiB at most."""


def write_graphs(specs: dict[str, GraphSpec], out: Path) -> Written:
    """Write the format `onnx`: a `WriteGraphs`."""
    parts = {part: f"{part}.onnx" for part in specs}
    description = {part: write_onnx(spec, out / parts[part]) for part, spec in specs.items()}
    return written_graphs(parts, out, description)


def written_graphs(parts: dict[str, str], out: Path, description: Mapping[str, object]) -> Written:
    """What was written into `out`, with the files that the graphs refer to."""
    names = [external_name(out / file) for file in parts.values()]
    external = [name for name in names if (out / name).exists()]
    return Written(parts, external, {**description})


def write_onnx(spec: GraphSpec, path: Path) -> dict[str, object]:
    """Export a graph and check the file; the same model gives the same bytes anywhere.

    Returns:
        opset, ir_version, nodes, and the shapes of inputs and outputs.

    Raises:
        torch.onnx.OnnxExporterError: the model cannot be expressed in ONNX.
        onnx.checker.ValidationError: the file is not valid.
    """
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it tells of every node it removes
    with warnings.catch_warnings():
        # One name for the batch of several inputs is what is wanted, not an oversight.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            spec.module,
            tuple(spec.inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(spec.dynamic[name] for name in spec.inputs),
            input_names=list(spec.inputs),
            output_names=spec.outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.producer_version = torch.__version__.split("+")[0]
    return save_graph(program.model, path)


def save_graph(model: ir.Model, path: Path) -> dict[str, object]:
    """Save a graph and check the file; results and errors as `write_onnx`."""
    _clear_origin(model)
    held = [value.const_value for value in model.graph.initializers.values()]
    weights = sum(value.nbytes for value in held if value is not None)
    external = external_name(path) if weights > EXTERNAL_BYTES else None
    ir.save(model, path, external_data=external)
    # By path, since weights in a file beside it are found in no other way.
    onnx.checker.check_model(str(path), full_check=True)
    return _describe(model)


def external_name(path: Path) -> str:
    """Name of the file beside `path` that holds the weights of a large model."""
    return f"{path.name}.data"


class _Described(Protocol):
    """Anything of a graph that says where it comes from."""

    doc_string: str | None

    @property
    def metadata_props(self) -> MutableMapping[str, str]: ...


def _clear_origin(model: ir.Model) -> None:
    """Remove stack traces and source paths."""
    holders: list[_Described] = [model, model.graph, *model.graph.inputs]
    holders += model.graph.initializers.values()
    for node in model.graph.all_nodes():
        holders += [node, *node.outputs]
    # Local functions have nodes and values of their own, which the graph does not list.
    for function in model.functions.values():
        holders += [function, *function.inputs]
        for node in function.all_nodes():
            holders += [node, *node.outputs]
    for holder in holders:
        holder.metadata_props.clear()
        holder.doc_string = None


def _describe(model: ir.Model) -> dict[str, object]:
    return {
        "opset": model.opset_imports[""],
        "ir_version": model.ir_version,
        "nodes": sum(1 for _ in model.graph.all_nodes()),
        "inputs": {value.name: _shape(value) for value in model.graph.inputs},
        "outputs": {value.name: _shape(value) for value in model.graph.outputs},
    }


def _shape(value: ir.Value) -> list[int | str]:
    assert value.shape is not None, "the exporter knows every shape"
    # A length that may differ has the name that the plan gave it.
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]
