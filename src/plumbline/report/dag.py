"""The stages of the selection as a graph, laid out in layers for drawing.

Edges are those of dvc.yaml; one that follows from others (`tokenize_text` also reads what
`validate` wrote) is left out of the drawing. It is not read here: DVC refuses dvc.yaml as a
dependency, so the page would depend on what is not in its key. A test compares both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from plumbline.errors import ConfigError
from plumbline.report.selection import Selection

STAGES = {
    "resolve_weights": "Which files a checkpoint of others has",
    "list_objects": "Which objects lie below a URL in an object store",
    "prepare": "Bring a source into the canonical columns",
    "validate": "Every row is clean or in quarantine with its reason",
    "detect_shapes": "What the data looks like and whether it can be trained on",
    "tokenize_text": "Tokenizer, token ids and decoded media, each distinct value once",
    "pretrain_alignment": "Images or audio and their captions learn to meet in one space",
    "evaluate_alignment": "Recall@k both ways, embeddings and examples",
    "export_alignment": "A bundle that finds images or audio by texts, where one is asked for",
    "finetune": "A task's model learns on top of what it starts from",
    "evaluate_model": "Figures and predictions of a task's model",
    "export_model": "A bundle that runs by itself",
    "report": "One self-contained page on everything of the current selection",
}
"""Stage -> what it does, in the words of dvc.yaml, without the stages that only keep the books."""

BOX_WIDTH, BOX_HEIGHT = 152, 44
_GAP_X, _GAP_Y, _MARGIN = 16, 26, 2
_THREAD_WIDTH = 12  # room for an edge that passes a layer
_SWEEPS = 8

_UNREPORTED = ("list_objects@", "prepare@")
"""What leaves nothing that the page reads."""
Edge = tuple[str, str]


@dataclass(frozen=True)
class Box:
    """A stage with its place; x and y are of the upper left corner."""

    stage: str
    key: str
    x: float
    y: float

    @property
    def group(self) -> str:
        """What its key names: objects, weights, data, align, task; nothing where it runs once."""
        if not self.key:
            return ""
        if self.stage in ("list_objects", "resolve_weights"):
            return self.stage.rpartition("_")[2]
        if self.stage.endswith("_alignment"):
            return "align"
        return "task" if self.stage in ("finetune", "evaluate_model", "export_model") else "data"


@dataclass(frozen=True)
class Drawing:
    """A graph ready to be drawn, in pixels."""

    width: float
    height: float
    boxes: list[Box]
    paths: list[str]
    """One SVG path per edge."""


def stage_graph(selection: Selection) -> dict[str, set[str]]:
    """Every stage of the selection with the stages that it depends on, as dvc.yaml has them."""
    graph: dict[str, set[str]] = {}
    for name in selection.objects:
        graph[f"list_objects@{name}"] = set()
    for name, objects in selection.datasets.items():
        graph[f"prepare@{name}"] = {f"list_objects@{objects}"} if objects else set()
        graph[f"validate@{name}"] = {f"prepare@{name}"}
        graph[f"detect_shapes@{name}"] = {f"validate@{name}"}
        graph[f"tokenize_text@{name}"] = {f"validate@{name}", f"detect_shapes@{name}"}
    for name, data in selection.align.items():
        cache = f"tokenize_text@{data}"
        graph[f"pretrain_alignment@{name}"] = {cache}
        graph[f"evaluate_alignment@{name}"] = {cache, f"pretrain_alignment@{name}"}
        graph[f"export_alignment@{name}"] = {cache, f"pretrain_alignment@{name}"}
    for name, task in selection.tasks.items():
        cache, model = f"tokenize_text@{task.data}", f"finetune@{name}"
        graph[model] = {cache}
        if alignment := selection.alignment_under(name):
            graph[model].add(f"pretrain_alignment@{alignment}")
        if other := selection.task_under(name):
            graph[model].add(f"finetune@{other}")
        graph[f"evaluate_model@{name}"] = {cache, model}
        graph[f"export_model@{name}"] = {cache, model}
    graph["report"] = {node for node in graph if not node.startswith(_UNREPORTED)}
    for name in selection.weights:
        graph[f"resolve_weights@{name}"] = set(selection.makers_of(name))
        for user in selection.users_of(name):
            graph[user].add(f"resolve_weights@{name}")
    return graph


def essential_edges(graph: dict[str, set[str]]) -> list[Edge]:
    """The edges that do not follow from others.

    Raises:
        ConfigError: tasks start from each other in a circle.
    """
    above: dict[str, set[str]] = {}
    edges = []
    for node in _in_order(graph):
        direct = graph[node]
        implied = set().union(*(above[parent] for parent in direct)) if direct else set()
        above[node] = direct | implied
        edges += [(parent, node) for parent in graph if parent in direct - implied]
    return edges


def _in_order(graph: dict[str, set[str]]) -> list[str]:
    try:
        known = {node: sorted(parents) for node, parents in graph.items()}
        return list(TopologicalSorter(known).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ConfigError(f"tasks: they start from each other in a circle: {circle}") from None


def draw(selection: Selection) -> Drawing:
    """Lay the stages out from top to bottom, each below all that it depends on."""
    graph = stage_graph(selection)
    edges = essential_edges(graph)
    layer = _layers(graph, edges)
    chains = {edge: _chain(edge, layer) for edge in edges}
    rows = _order(graph, layer, chains.values())
    place, width = _place(rows)
    boxes = []
    for node in graph:
        stage, _, key = node.partition("@")
        boxes.append(Box(stage, key, *place[node]))
    height = len(rows) * (BOX_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    return Drawing(width, height, boxes, [_path(chain, place) for chain in chains.values()])


def _layers(graph: dict[str, set[str]], edges: list[Edge]) -> dict[str, int]:
    layer = dict.fromkeys(graph, 0)
    for parent, child in edges:  # in topological order of the children
        layer[child] = max(layer[child], layer[parent] + 1)
    return layer


def _chain(edge: Edge, layer: dict[str, int]) -> list[str]:
    """The edge as steps from layer to layer; on its way it gets a thread in each."""
    parent, child = edge
    between = range(layer[parent] + 1, layer[child])
    return [parent, *(f"|{parent}|{child}|{at}" for at in between), child]


def _order(
    graph: dict[str, set[str]], layer: dict[str, int], chains: Iterable[list[str]]
) -> list[list[str]]:
    """Nodes and threads by layer, so ordered that few edges cross (barycentre sweeps)."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for node in graph:
        rows[layer[node]].append(node)
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in chains:
        for thread in chain[1:-1]:
            rows[int(thread.rsplit("|", 1)[1])].append(thread)
        for upper, lower in pairwise(chain):
            below.setdefault(upper, []).append(lower)
            above.setdefault(lower, []).append(upper)
    for sweep in range(_SWEEPS):
        near, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for before, row in pairwise(order):
            at = {node: index for index, node in enumerate(before)}
            row.sort(key=lambda node: _mean([at[n] for n in near.get(node, []) if n in at]))
    return rows


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _place(rows: list[list[str]]) -> tuple[dict[str, tuple[float, float]], float]:
    """Upper left corners, every row in the middle; and the width of the drawing."""
    spans = [[_THREAD_WIDTH if n.startswith("|") else BOX_WIDTH for n in row] for row in rows]
    totals = [sum(span) + _GAP_X * (len(span) - 1) for span in spans]
    width = max(totals)
    place = {}
    for at, (row, span, total) in enumerate(zip(rows, spans, totals, strict=True)):
        x = _MARGIN + (width - total) / 2
        for node, room in zip(row, span, strict=True):
            place[node] = (x, float(_MARGIN + at * (BOX_HEIGHT + _GAP_Y)))
            x += room + _GAP_X
    return place, width + 2 * _MARGIN


def _path(chain: list[str], place: dict[str, tuple[float, float]]) -> str:
    """A curve from the lower edge of the first box to the upper edge of the last."""

    def middle(node: str) -> float:
        return place[node][0] + (_THREAD_WIDTH if node.startswith("|") else BOX_WIDTH) / 2

    x, y = middle(chain[0]), place[chain[0]][1] + BOX_HEIGHT
    parts = [f"M{x:g} {y:g}"]
    for node in chain[1:]:
        next_x, next_y = middle(node), place[node][1]
        bend = (y + next_y) / 2
        parts.append(f"C{x:g} {bend:g} {next_x:g} {bend:g} {next_x:g} {next_y:g}")
        x, y = next_x, next_y
        if node.startswith("|"):
            y += BOX_HEIGHT
            parts.append(f"V{y:g}")
    return " ".join(parts)
