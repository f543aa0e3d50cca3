"""Writes what `plugins/pt2.py` registers: programs of `torch.export`."""

from pathlib import Path

import torch

from plumbline.export.graphs import GraphSpec, Written


def write_graphs(specs: dict[str, GraphSpec], out: Path) -> Written:
    """Write a file for each part: a `WriteGraphs`."""
    parts = {part: f"{part}.pt2" for part in specs}
    for part, spec in specs.items():
        torch.export.save(export_program(spec), out / parts[part])
    return Written(parts, description={"device": "cpu"})


def export_program(spec: GraphSpec) -> torch.export.ExportedProgram:
    """Export a graph whose lengths may differ where the spec says so."""
    # One name is one length, whichever inputs it is of.
    names = {name for axes in spec.dynamic.values() for name in axes.values()}
    dims = {name: torch.export.Dim(name) for name in sorted(names)}
    shapes = tuple(
        {axis: dims[name] for axis, name in spec.dynamic[given].items()} for given in spec.inputs
    )
    program = torch.export.export(spec.module, tuple(spec.inputs.values()), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        # The shapes alone: the rest tells in which files of which machine the code lies.
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program
