"""Formats of graphs that settings choose by name.

No torch here, and nothing of a kind's settings: a training does not depend on how it is exported.
"""

from dataclasses import dataclass

from plumbline.registry import Registry


@dataclass(frozen=True)
class ExportFormat:
    """How the graphs of a model are written, and opened again where a bundle runs."""

    writer: str
    """`module:function`, a `plumbline.export.graphs.WriteGraphs`."""
    reader: str
    """File of code that a bundle copies, such as plumbline/export/runtime/format_onnx.py; of ours
    it imports what is in every bundle alone. Its `open_graph` is a
    `plumbline.export.runtime.files.OpenGraph`."""
    packages: tuple[str, ...] = ()
    """What is pinned in the bundle's requirements; a reader may import what is not, and whoever
    asks for the format is told."""


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
