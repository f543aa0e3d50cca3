"""The architecture of a model as a tree of modules, with what each gives for a real batch."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import nn

from plumbline.errors import ConfigError
from plumbline.files import atomic_write
from plumbline.inspection.outputs import run_loss, tensors_of
from plumbline.inspection.result import Report
from plumbline.inspection.target import Target
from plumbline.models.device import to_device


@dataclass(frozen=True)
class Node:
    """A module, or several alike that follow one another, such as the layers of a transformer."""

    name: str
    """Within its parent; `0-3` for four alike."""
    module: str
    """Its class."""
    outputs: dict[str, list[int]]
    """Name within the output -> shape, of the first call; empty where it is not called."""
    parameters: int
    """With all below it; of one, where several are alike."""
    children: list["Node"] = field(default_factory=list)


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Run one batch through a model and describe its modules.

    Raises:
        ConfigError: the file to write has an ending that is none of .txt, .dot, .mmd.
    """
    writer = WRITERS[_ending(options.out)] if options.out else None
    job = target.job
    device = target.machine.device
    batch = to_device(target.batch(options.samples), device)
    shapes: dict[str, dict[str, list[int]]] = {}

    def seen(name: str, module: nn.Module, output: object) -> None:
        shapes.setdefault(name, {key: list(t.shape) for key, t in tensors_of(output)})

    model = job.model.to(device)
    run_loss(model, lambda: job.task.loss(model, batch), seen)
    tree = build_tree(model, shapes, options.depth)
    if writer is not None:
        atomic_write(options.out, writer(tree) + "\n")
    return Report(as_text(tree), asdict(tree))


def _ending(path: Path) -> str:
    if path.suffix not in WRITERS:
        raise ConfigError(f"--out {path}: ends in none of {', '.join(WRITERS)}")
    return path.suffix


def build_tree(
    model: nn.Module, shapes: Mapping[str, dict[str, list[int]]], depth: int | None = None
) -> Node:
    """Make the tree of a model.

    Args:
        model: its modules are the nodes.
        shapes: full name of a module -> shapes of its outputs.
        depth: levels below the model that are kept; None: all.
    """

    def build(name: str, own: str, module: nn.Module, levels: int | None) -> Node:
        children: list[Node] = []
        if levels != 0:
            for key, child in module.named_children():
                full = f"{name}.{key}" if name else key
                children.append(build(full, key, child, None if levels is None else levels - 1))
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return Node(
            own, type(module).__name__, shapes.get(name, {}), parameters, _join_alike(children)
        )

    return build("", "", model, depth)


def _join_alike(nodes: list[Node]) -> list[Node]:
    """Make one of neighbours that are numbered and differ in nothing but their number."""
    joined: list[Node] = []
    for node in nodes:
        before = joined[-1] if joined else None
        alike = before is not None and replace(before, name="") == replace(node, name="")
        if before is not None and alike and node.name.isdigit():
            joined[-1] = replace(before, name=f"{before.name.split('-')[0]}-{node.name}")
        else:
            joined.append(node)
    return joined


def _shapes(node: Node) -> str:
    return ", ".join(f"{name} {shape}".strip() for name, shape in node.outputs.items())


def as_text(tree: Node) -> str:
    """One line per node, indented by its level."""
    lines: list[str] = []

    def add(node: Node, level: int) -> None:
        label = f"{node.name}: {node.module}" if node.name else node.module
        given = _shapes(node) or ("not called by itself" if not node.children else "")
        count = f"{node.parameters:,} parameters" if node.parameters else ""
        notes = "  ".join(note for note in (given, count) if note)
        lines.append(f"{'  ' * level}{label}  {notes}".rstrip())
        for child in node.children:
            add(child, level + 1)

    add(tree, 0)
    return "\n".join(lines)


def _numbered(tree: Node) -> Iterator[tuple[int, int | None, Node]]:
    """(number, number of the parent, node), parents first."""
    waiting: list[tuple[int | None, Node]] = [(None, tree)]
    number = 0
    while waiting:
        parent, node = waiting.pop(0)
        yield number, parent, node
        waiting += [(number, child) for child in node.children]
        number += 1


def _label(node: Node, line: str) -> str:
    parts = [f"{node.name}: {node.module}" if node.name else node.module, _shapes(node)]
    count = f"{node.parameters:,} parameters" if node.parameters else ""
    return line.join(part.replace('"', "'") for part in [*parts, count] if part)


def as_dot(tree: Node) -> str:
    """A graph for Graphviz."""
    lines = ["digraph model {", "  rankdir=LR;", "  node [shape=box, fontname=monospace];"]
    for number, parent, node in _numbered(tree):
        lines.append(f'  n{number} [label="{_label(node, chr(92) + "n")}"];')
        if parent is not None:
            lines.append(f"  n{parent} -> n{number};")
    return "\n".join([*lines, "}"])


def as_mermaid(tree: Node) -> str:
    """A flowchart for Mermaid."""
    lines = ["flowchart LR"]
    for number, parent, node in _numbered(tree):
        lines.append(f'  n{number}["{_label(node, "<br/>")}"]')
        if parent is not None:
            lines.append(f"  n{parent} --> n{number}")
    return "\n".join(lines)


WRITERS = {".txt": as_text, ".dot": as_dot, ".mmd": as_mermaid}
