"""Formats of graphs that settings choose by name.

No torch here, and nothing of a kind's settings: a training does not depend on how it is exported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plumbline.registry import Registry


@dataclass(frozen=True)
class ExportFormat:
    """How the graphs of a model are written, and opened again where a bundle runs."""

    writer: str
    """`module:function`, a `plumbline.export.graphs.WriteGraphs`, or a `ConvertGraphs` where it is
    made from another format."""
    reader: str
    """File of code that a bundle copies, such as plumbline/export/runtime/format_onnx.py; of ours
    it imports what is in every bundle alone. Its `open_graph` is a
    `plumbline.export.runtime.files.OpenGraph`."""
    packages: tuple[str, ...] = ()
    """What is pinned in the bundle's requirements; a reader may import what is not, and whoever
    asks for the format is told."""
    made_from: str = ""
    """The format whose files it is made from; "": from the model."""
    loses: str = ""
    """What it rounds, in words: then its figure is measured beside that of the checkpoint, with
    which it need not agree. "": nothing, and it has to."""


FORMATS: Registry[ExportFormat] = Registry("format")

FORMATS.register(
    "onnx",
    ExportFormat(
        writer="plumbline.export.onnx_writer:write_graphs",
        reader="plumbline/export/runtime/format_onnx.py",
        packages=("onnxruntime",),
    ),
)
FORMATS.register(
    "torchscript",
    ExportFormat(
        writer="plumbline.export.torchscript:write_graphs",
        reader="plumbline/export/runtime/format_torchscript.py",
    ),
)
FORMATS.register(
    "onnx_fp16",
    ExportFormat(
        writer="plumbline.export.onnx_precision:write_fp16",
        reader="plumbline/export/runtime/format_onnx.py",
        packages=("onnxruntime",),
        made_from="onnx",
        loses="weights are held in 16 bits, and computed with in 32",
    ),
)
FORMATS.register(
    "onnx_int8",
    ExportFormat(
        writer="plumbline.export.onnx_precision:write_int8",
        reader="plumbline/export/runtime/format_onnx.py",
        packages=("onnxruntime",),
        made_from="onnx",
        loses="linear layers are computed in 8 bits, other weights are held in 16",
    ),
)


def check_order(formats: Sequence[str]) -> None:
    """Refuse a format that is made from one that is not written before it.

    Raises:
        ValueError: names both.
    """
    for number, name in enumerate(formats):
        other = FORMATS[name].made_from
        if other and other not in formats[:number]:
            raise ValueError(f"{name} is made from {other}: name {other} before it")
