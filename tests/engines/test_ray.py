"""A cluster of two nodes computes what one machine does, whichever worker or node is lost."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import plumbline.engines.node as node_module
from plumbline.engines.base import Work, open_engine
from plumbline.errors import ConfigError, DataError
from plumbline.files import sha256_file
from plumbline.stages import detect_shapes, prepare, tokenize_text, validate
from tests.engines.local_cluster import LocalNodes, two_nodes

DOING = Work("doubled", "numbers")


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalNodes]:
    with two_nodes() as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def twice(number: int) -> int:
    return 2 * number


def slowly(number: int) -> int:
    time.sleep(0.1)
    return 2 * number


def refused(number: int) -> int:
    raise DataError(f"file {number}: is damaged")


def test_results_come_in_the_order_of_the_items(nodes: LocalNodes, project: Path) -> None:
    with open_engine("ray") as engine:
        assert list(engine.map(twice, iter(range(50)), DOING)) == list(range(0, 100, 2))
    assert not list(project.rglob("cluster-*"))


def test_an_error_of_ours_arrives_as_it_was_raised(nodes: LocalNodes, project: Path) -> None:
    with open_engine("ray") as engine, pytest.raises(DataError) as error:
        list(engine.map(refused, [1], DOING))
    assert str(error.value) == "file 1: is damaged"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mark": ".plumbline/cluster-other"}, "is not the folder of this run"),
        ({"code": "other"}, "runs other code of plumbline"),
        ({"versions": (("numpy", "0.1"),)}, "this run 0.1; install the same requirements.lock"),
    ],
)
def test_a_node_that_is_not_the_same_is_refused(
    nodes: LocalNodes, project: Path, monkeypatch: pytest.MonkeyPatch, changed: Any, said: str
) -> None:
    from dataclasses import replace

    from plumbline.engines import ray_cluster

    def describe(root: Path, mark: Path) -> node_module.Run:
        found = node_module.describe_run(root, mark)
        if "versions" in changed:
            rest = [pair for pair in found.versions if pair[0] != "numpy"]
            return replace(found, versions=tuple(sorted([*rest, *changed["versions"]])))
        return replace(found, **changed)

    monkeypatch.setattr(ray_cluster, "describe_run", describe)
    with open_engine("ray") as engine, pytest.raises(ConfigError, match=said) as error:
        list(engine.map(twice, [1], DOING))
    assert "\n" not in str(error.value)


def test_another_ray_than_that_of_the_cluster_is_refused(
    nodes: LocalNodes, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.__version__", "1.2.3")
    with pytest.raises(ConfigError, match=r"ersion mismatch.*requirements\.lock") as error:
        open_engine("ray").__enter__()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "names no cluster; start one with ray start --head"),
        ("ray://127.0.0.1:10001", "names no cluster"),
        ("127.0.0.1:9", r"no cluster answers there \(Connection refused\); start one"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, said: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=said):
        open_engine("ray").__enter__()
    assert time.monotonic() - started < 10


def configure(folder: Path, engine: str, source: dict[str, Any]) -> None:
    dataset = {
        "path": str(folder / "none"),
        "weights": str(folder / "none"),
        "engine": engine,
        "prepare": source,
        "validate": {
            "views": {"caption": ["image", "caption"], "qa": ["image", "question", "answer"]},
            "split": {"val": 0.1, "test": 0.1},
            "leaks": {"near_images": "report"},
        },
        "detect_shapes": {},
        "tokenize": {"tokenizer": {"vocab_size": 400}},
    }
    Path("params.yaml").write_text(yaml.safe_dump({"datasets": {"data": dataset}}), "utf-8")


def run_data_stages(
    folder: Path, engine: str, images: int, during: Callable[[], None] | None = None
) -> dict[str, str]:
    """All data stages in a folder of their own; digest of each file that they wrote."""
    source = {"source": "scenes", "images": images, "image_size": 32, "faulty_share": 0.05}
    configure(folder, engine, source)
    for stage in (prepare, validate, detect_shapes, tokenize_text):
        if during and stage is not detect_shapes:
            threading.Thread(target=during, daemon=True).start()
        stage.main(["data"])
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for place in ("work", "metrics")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    def run(name: str, *options: Any, **more: Any) -> dict[str, str]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "none").touch()
        monkeypatch.chdir(tmp_path / name)
        return run_data_stages(tmp_path / name, *options, **more)

    return run


def test_the_data_stages_write_the_bytes_of_one_machine(
    nodes: LocalNodes, digests: Callable[..., dict[str, str]]
) -> None:
    """Raw rows, clean set, quarantine, report and cache."""
    local = digests("local", "local", 150)
    assert digests("ray", "ray", 150) == local
    written = {place.split("/")[1] for place in local}
    assert {"raw", "clean", "quarantine", "cache", "distributions"} <= written
    report = json.loads(Path("work/quarantine/data/report.json").read_text(encoding="utf-8"))
    assert report["rows_quarantined"] > 10


@pytest.mark.slow
def test_workers_that_are_killed_in_every_stage_change_no_byte(
    nodes: LocalNodes, digests: Callable[..., dict[str, str]]
) -> None:
    killed = []
    local = digests("local", "local", 3000)

    def kill() -> None:
        end = time.monotonic() + 60
        while not (found := nodes.kill_workers()) and time.monotonic() < end:
            time.sleep(0.05)  # they load Python first
        killed.append(found)

    ray = digests("ray", "ray", 3000, during=kill)
    assert ray == local
    assert sum(killed) >= 2


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_changes_no_byte(
    nodes: LocalNodes, digests: Callable[..., dict[str, str]]
) -> None:
    killed = []

    def kill() -> None:
        time.sleep(3)
        if not killed:
            killed.append(len(list(Path().rglob("*.parquet"))))
            nodes.kill_second()

    local = digests("local", "local", 3000)
    try:
        ray = digests("ray", "ray", 3000, during=kill)
    finally:
        nodes.mend()
    assert killed
    assert ray == local


def test_a_node_that_is_killed_while_it_computes_loses_no_item(
    nodes: LocalNodes, project: Path
) -> None:
    with open_engine("ray") as engine:
        results = engine.map(slowly, iter(range(60)), DOING)
        found = [next(results) for _ in range(10)]
        nodes.kill_second()
        try:
            found += results
        finally:
            nodes.mend()
    assert found == list(range(0, 120, 2))
