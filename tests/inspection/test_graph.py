"""The architecture, as text and as files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from plumbline.errors import ConfigError
from plumbline.inspection.graph import as_dot, as_mermaid, as_text, build_tree


def test_shapes_are_those_of_the_batch(ask: Callable[..., Any]) -> None:
    tree = ask("causal_lm_stream", "graph")
    assert tree["module"] == "CausalLm"
    batch, seq = 6, 24
    decoder = tree["children"][0]
    body, head = decoder["children"]
    (labelled, _) = head["outputs"][""]  # logits are made where a label is
    assert labelled == batch * seq
    assert body["outputs"] == {"last_hidden_state": [batch, seq, 16]}
    layers = next(child for child in body["children"] if child["name"] == "layers")
    assert [child["name"] for child in layers["children"]] == ["0-1"]


@pytest.mark.parametrize("name", ["seq2seq", "features", "align_image"])
def test_every_kind_has_a_tree(ask: Callable[..., Any], name: str) -> None:
    tree = ask(name, "graph", "--depth", "1")
    assert tree["children"]
    assert all(child["children"] == [] for child in tree["children"])
    assert any(child["outputs"] for child in tree["children"])


def test_what_is_not_called_says_so() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    text = as_text(build_tree(model, {"": {"": [5, 4]}, "0": {"": [5, 3]}}))
    assert text.splitlines() == [
        "Sequential  [5, 4]  25 parameters",
        "  0: Linear  [5, 3]  9 parameters",
        "  1: Linear  not called by itself  16 parameters",
    ]


def test_neighbours_that_are_alike_are_one_line() -> None:
    layers = [nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2)]
    tree = build_tree(nn.Sequential(*layers), {})
    assert [child.name for child in tree.children] == ["0-1", "2", "3"]


def test_files_for_graphviz_and_mermaid_have_a_node_and_an_edge_each() -> None:
    tree = build_tree(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), {"1": {"": [7, 3]}})
    dot, mermaid = as_dot(tree), as_mermaid(tree)
    assert dot.startswith("digraph model {")
    assert dot.endswith("}")
    assert dot.count("->") == mermaid.count("-->") == 2
    assert '"1: ReLU<br/>[7, 3]"' in mermaid
    assert '"1: ReLU\\n[7, 3]"' in dot


def test_the_file_is_written_by_its_ending(ask: Callable[..., Any], tmp_path: Path) -> None:
    ask("features", "graph", "--out", str(tmp_path / "model.mmd"))
    assert (tmp_path / "model.mmd").read_text(encoding="utf-8").startswith("flowchart LR\n")
    with pytest.raises(ConfigError, match=r"model\.png: ends in none of \.txt, \.dot, \.mmd"):
        ask("features", "graph", "--out", str(tmp_path / "model.png"))
