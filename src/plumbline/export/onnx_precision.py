"""ONNX files of lower precision, made from those in float32."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from onnxscript import ir

from plumbline.export.graphs import Written
from plumbline.export.onnx_writer import external_name, save_graph, written_graphs
from plumbline.scratch import scratch_folder


def write_fp16(files: Mapping[str, Path], out: Path) -> Written:
    """Write the format `onnx_fp16`: a `ConvertGraphs`."""
    return _convert(files, out, "fp16", lambda file, folder: load_graph(file))


def write_int8(files: Mapping[str, Path], out: Path) -> Written:
    """Write the format `onnx_int8`: a `ConvertGraphs`."""
    return _convert(files, out, "int8", quantized)


def _convert(
    files: Mapping[str, Path],
    out: Path,
    suffix: str,
    change: Callable[[Path, Path], ir.Model],
) -> Written:
    """Change each graph and hold what is left of its float32 matrices in 16 bits."""
    parts = {part: f"{part}.{suffix}.onnx" for part in files}
    description: dict[str, object] = {}
    for part, file in files.items():
        with scratch_folder() as folder:
            model = change(file, folder)
            hold_in_16_bits(model)
            description[part] = save_graph(model, out / parts[part])
    return written_graphs(parts, out, description)


def load_graph(file: Path) -> ir.Model:
    """Read a graph with all of its weights, in whichever file they lie."""
    # Those beside it would be named and not held: they do not come along into another folder.
    return ir.external_data.load_to_model(ir.load(file))


def hold_in_16_bits(model: ir.Model) -> None:
    """Store the float32 matrices of a graph as float16, each cast to float32 before it is used.

    ONNX Runtime casts them once, when it opens the file, so that a pass takes as long as before. Of
    a graph that computes in float16 as well its CPU has few kernels: it casts to and fro in every
    pass, and that of version 1.31 crashes on an image encoder.
    """
    graph = model.graph
    first = next(iter(graph))
    for name, value in list(graph.initializers.items()):
        weights = value.const_value
        # Biases and gains are small and matter most.
        if weights is None or weights.dtype != ir.DataType.FLOAT or len(weights.shape) < 2:
            continue
        with np.errstate(over="ignore"):
            half = weights.numpy().astype(np.float16)
        if not np.isfinite(half).all():
            continue  # beyond 65504: an infinity for a number is no rounding
        held = ir.Value(
            name=f"{name}_fp16",
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=ir.tensor(half, name=f"{name}_fp16"),
        )
        cast = ir.node("Cast", [held], {"to": ir.DataType.FLOAT.value})
        # The cast takes the name, so that whoever reads the graph finds its weights.
        del graph.initializers[name]
        graph.register_initializer(held)
        graph.insert_before(first, cast)
        (used,) = cast.outputs
        used.shape, used.type, used.name = value.shape, value.type, name
        value.name = None
        ir.convenience.replace_all_uses_with(value, used)


def quantized(file: Path, folder: Path) -> ir.Model:
    """A graph whose linear layers compute in 8 bits.

    Weights are rounded per output, once; inputs per tensor, in every pass, by their largest and
    smallest value. Weights have 7 bits: sums of products of 8 bits saturate on processors without
    instructions for them (VNNI), which would answer otherwise than others.

    Args:
        file: the graph in float32.
        folder: an empty one, for what lies between.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = load_graph(file)
    _split_gemms(model)
    before, after = folder / "before.onnx", folder / "after.onnx"
    # What fits into no protocol buffer, the quantizer too has to write into two files.
    large = (file.parent / external_name(file)).exists()
    ir.save(model, before, external_data=external_name(before) if large else None)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises, through the root, to change a graph that runs
    try:
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )
    finally:
        root.setLevel(level)
    return load_graph(after)


def _split_gemms(model: ir.Model) -> None:
    """Write each linear layer with a bias as a product and a sum, with weights of its own.

    The quantizer turns weights over in place: an embedding that is also the last layer's would be
    turned over for both.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Gemm" or not _is_linear(node):
            continue
        inputs, weights, *bias = node.inputs
        assert weights is not None
        assert weights.const_value is not None
        matrix = weights.const_value.numpy()  # [outputs, inputs] where it is transposed
        matrix = matrix.T if node.attributes.get_int("transB", 0) else matrix
        name = f"{weights.name}_of_{node.name}"
        own = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(matrix), name=name))
        graph.register_initializer(own)
        (result,) = node.outputs
        nodes = [ir.node("MatMul", [inputs, own], name=f"{node.name}_product")]
        if bias:
            nodes.append(ir.node("Add", [nodes[0].outputs[0], bias[0]], name=f"{node.name}_sum"))
            nodes[0].outputs[0].name = f"{node.name}_product"
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], nodes, [result], [nodes[-1].outputs[0]]
        )


def _is_linear(node: ir.Node) -> bool:
    """Whether it is no more than a product with weights and a bias."""
    get = node.attributes.get_float
    weights = node.inputs[1]
    return (
        get("alpha", 1.0) == get("beta", 1.0) == 1.0
        and not node.attributes.get_int("transA", 0)
        and weights is not None
        and weights.is_initializer()
    )
