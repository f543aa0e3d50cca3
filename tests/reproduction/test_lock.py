"""dvc.lock is read as what reads what."""

from pathlib import Path

import pytest

from plumbline.errors import CheckpointError
from plumbline.reproduction.lock import feeds, in_dag_order, read_graph, read_lock, with_upstream
from tests.reproduction.sides import stages

LOCK = """
schema: '2.0'
stages:
  second:
    cmd: python -m stages.second
    deps:
    - {path: work/first/rows.txt, hash: md5, md5: aa, size: 3}
    - {path: src/second, hash: md5, md5: cc.dir, size: 3, nfiles: 2}
    params:
      params.yaml:
        seed: 7
    outs:
    - {path: work/second, hash: md5, md5: bb.dir, size: 9, nfiles: 1}
  first:
    cmd: python -m stages.first
    outs:
    - {path: work/first, hash: md5, md5: dd.dir, size: 9, nfiles: 1}
"""


def test_a_lock_gives_what_each_stage_read_and_wrote(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    second = read_lock(tmp_path / "dvc.lock")["second"]
    assert second.deps == {"work/first/rows.txt": "aa", "src/second": "cc.dir"}
    assert second.outs == {"work/second": "bb.dir"}
    assert second.params == {"params.yaml:seed": 7}


def test_a_file_within_an_output_makes_the_order(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    graph = read_graph(read_lock(tmp_path / "dvc.lock"))
    assert graph["second"] == {("first", "work/first")}
    assert in_dag_order(graph) == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"dvc\.lock: missing; run dvc repro"),
        ("stages: [1, 2]", r"dvc\.lock: not a lock of DVC"),
        ("stages: {a: {cmd: x, outs: [{path: y}]}}", r"not a lock of DVC \('md5'\)"),
        ("a: b: c", r"not a lock of DVC"),
    ],
)
def test_what_is_no_lock_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dvc.lock").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_lock(tmp_path / "dvc.lock")


@pytest.mark.parametrize(
    ("out", "dep", "expected"),
    [
        ("models/a", "models/a", True),
        ("models/a", "models", True),
        ("models/a", "models/a/val.csv", True),
        ("models/a", "models/ab", False),
        ("models/ab", "models/a", False),
    ],
)
def test_a_place_feeds_what_it_holds_and_what_holds_it(out: str, dep: str, expected: bool) -> None:
    assert feeds(out, dep) is expected


def test_a_circle_is_refused() -> None:
    graph = {"a": frozenset({("b", "x")}), "b": frozenset({("a", "y")})}
    with pytest.raises(CheckpointError, match="a, b read from each other in a circle"):
        in_dag_order(graph)


def test_targets_bring_what_they_need_and_nothing_else() -> None:
    assert with_upstream(["train"], stages()) == {"draw", "clean", "train"}


def test_a_target_without_its_key_means_all_keys() -> None:
    entry = stages()["draw"]
    assert with_upstream(["draw"], {"draw@a": entry, "draw@b": entry}) == {"draw@a", "draw@b"}


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(CheckpointError, match=r"tune: no stage of dvc\.lock; it has draw, clean"):
        with_upstream(["tune"], stages())
