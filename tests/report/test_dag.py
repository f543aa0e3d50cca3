import itertools
from pathlib import Path

import pytest
import yaml

from plumbline.errors import ConfigError
from plumbline.report.dag import BOX_HEIGHT, BOX_WIDTH, STAGES, draw, essential_edges, stage_graph
from plumbline.report.selection import Selection

ROOT = Path(__file__).resolve().parents[2]
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
KEEPS_BOOKS = {"check_params", "digest_code"}
"""They make no result: what they write is settings and digests of code."""

NONE = "data/.gitkeep"
PARAMS = {
    "objects": {"bucket": {"url": "s3://photos"}},
    "weights": {
        "siglip": {"set": "theirs", "path": "checkpoints/siglip"},
        "qwen": {"set": "theirs", "path": NONE},
        "own": {"set": "own", "path": "models/tasks/vqa"},
    },
    "datasets": {
        "scenes": {"path": NONE, "weights": NONE},
        "stored": {"path": "work/objects/bucket.jsonl", "weights": NONE},
        "photos": {"path": "data/photos", "weights": "work/tokenizers/theirs"},
    },
    "align": {
        "image": {"data": "scenes", "weights": NONE},
        "photo": {"data": "photos", "weights": "work/weights/theirs"},
    },
    "tasks": {
        "vqa": {"data": "scenes", "start": "models/align/image", "weights": NONE},
        "cross": {"data": "photos", "start": "models/align/image", "weights": NONE},
        "scratch": {"data": "photos", "start": "work/cache/photos", "weights": NONE},
        "further": {"data": "scenes", "start": "models/tasks/vqa", "weights": NONE},
        "second": {"data": "photos", "start": "work/cache/photos", "weights": "work/weights/own"},
    },
}


def selection() -> Selection:
    return Selection.from_params(**PARAMS)


def edges_of_dvc() -> set[tuple[str, str]]:
    """Edges between stages as DVC finds them: a dep that is an out, is in one or holds one."""
    outs: dict[str, str] = {}
    deps: dict[str, list[str]] = {}
    for stage, entry in DAG.items():
        if stage in KEEPS_BOOKS:
            continue
        loop = entry.get("foreach", "").strip("${}")
        for key, item in PARAMS[loop].items() if loop else [("", {})]:
            names = {"${key}": key, **{f"${{item.{name}}}": v for name, v in item.items()}}
            body = entry["do"] if loop else entry
            node = f"{stage}@{key}" if loop else stage

            def fill(path: object, names: dict[str, str] = names) -> str:
                text = next(iter(path)) if isinstance(path, dict) else str(path)
                for name, value in names.items():
                    text = text.replace(name, str(value))
                return text

            deps[node] = [fill(path) for path in body["deps"]]
            for path in [*body.get("outs", []), *body.get("metrics", [])]:
                outs[fill(path)] = node
    return {
        (parent, node)
        for node, paths in deps.items()
        for path in paths
        for out, parent in outs.items()
        if f"{out}/".startswith(f"{path}/") or f"{path}/".startswith(f"{out}/")
    }


def test_the_graph_is_that_of_dvc_yaml() -> None:
    graph = stage_graph(selection())
    assert {(parent, node) for node in graph for parent in graph[node]} == edges_of_dvc()


def test_stages_are_described_in_the_words_of_dvc_yaml() -> None:
    words = {name: entry.get("do", entry)["desc"] for name, entry in DAG.items()}
    assert {name: words[name] for name in words if name not in KEEPS_BOOKS} == STAGES


def test_a_task_that_starts_from_nothing_has_no_alignment_above_it() -> None:
    edges = essential_edges(stage_graph(selection()))
    above = {"finetune@scratch"}
    for parent, node in reversed(edges):
        if node in above:
            above.add(parent)
    assert "tokenize_text@photos" in above
    assert not any("alignment" in node or "scenes" in node for node in above)


def test_an_edge_that_follows_from_others_is_left_out() -> None:
    edges = essential_edges(stage_graph(selection()))
    assert ("validate@scenes", "tokenize_text@scenes") not in edges
    assert ("detect_shapes@scenes", "tokenize_text@scenes") in edges
    assert ("tokenize_text@scenes", "finetune@vqa") not in edges
    assert ("tokenize_text@photos", "finetune@cross") in edges
    assert ("finetune@vqa", "finetune@further") in edges


def test_boxes_do_not_overlap_and_lie_inside_the_drawing() -> None:
    drawing = draw(selection())
    assert len(drawing.boxes) == len(stage_graph(selection()))
    for one, other in itertools.combinations(drawing.boxes, 2):
        assert abs(one.x - other.x) >= BOX_WIDTH or abs(one.y - other.y) >= BOX_HEIGHT
    for box in drawing.boxes:
        assert 0 <= box.x <= drawing.width - BOX_WIDTH
        assert 0 <= box.y <= drawing.height - BOX_HEIGHT


def test_every_stage_stands_below_what_it_depends_on() -> None:
    graph = stage_graph(selection())
    y = {f"{box.stage}@{box.key}".rstrip("@"): box.y for box in draw(selection()).boxes}
    assert all(y[parent] < y[node] for node in graph for parent in graph[node])


def test_an_empty_selection_is_drawn_too() -> None:
    assert [box.stage for box in draw(Selection.from_params({}, {}, {}, {}, {})).boxes] == [
        "report"
    ]


def test_tasks_that_start_from_each_other_are_refused() -> None:
    tasks = {
        "a": {"data": "scenes", "start": "models/tasks/b"},
        "b": {"data": "scenes", "start": "models/tasks/a"},
    }
    with pytest.raises(ConfigError, match="in a circle: finetune@"):
        draw(Selection.from_params({}, {}, {"scenes": {}}, {}, tasks))
