"""What the records hold arrives at the store once, whatever dies on the way."""

import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plumbline.files import sha256_file
from plumbline.tracking.forwarder import (
    ATTEMPTS,
    Forwarder,
    follow,
    forward_once,
    main,
)
from plumbline.tracking.forwarder_state import Progress
from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.mlflow_store import clean_name
from plumbline.tracking.run_store import (
    RECORD_TAG,
    Metric,
    RejectedError,
    UnavailableError,
    as_text,
    describe,
    flatten,
)
from plumbline.tracking.trackers import TRACKERS

MLFLOW = TRACKERS["mlflow"]

URI = "http://user:secret@example.org"
PIPELINE = "20260102-131415-repro-4711"
Event = dict[str, Any]


@dataclass
class FakeRun:
    """What a store knows of one run."""

    name: str
    tags: dict[str, str]
    start_ms: int
    parent: str | None
    status: str = "RUNNING"
    end_ms: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)


class FakeStore:
    """A store in memory that can be away: it fails before it does anything."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.calls = 0
        self.away_at: frozenset[int] = frozenset()
        self.away = False

    def _answer(self) -> None:
        self.calls += 1
        if self.away or self.calls in self.away_at:
            raise UnavailableError("nobody there")

    def open_run(
        self, name: str, tags: Mapping[str, str], start_ms: int, parent: str | None
    ) -> str:
        self._answer()
        for index, run in enumerate(self.runs):
            if run.tags[RECORD_TAG] == tags[RECORD_TAG]:
                return str(index)
        self.runs.append(FakeRun(name, dict(tags), start_ms, parent))
        return str(len(self.runs) - 1)

    def log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._answer()
        self.runs[int(run)].metrics.extend(metrics)
        self.runs[int(run)].params.update(params or {})
        self.runs[int(run)].tags.update(tags or {})

    def log_artifact(self, run: str, path: Path) -> None:
        self._answer()
        if path.name == "huge.bin":
            raise RejectedError(f"{path}: too large")
        self.runs[int(run)].artifacts.append(path)

    def set_status(self, run: str, status: str, end_ms: int | None) -> None:
        self._answer()
        self.runs[int(run)].status = status
        self.runs[int(run)].end_ms = end_ms

    def run(self, name: str) -> FakeRun:
        (found,) = (run for run in self.runs if run.name == name)
        return found

    def series(self, run: str, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.run(run).metrics if m.name == metric]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def forwarder_of(root: Path, store: FakeStore, uri: str = URI) -> Forwarder:
    return Forwarder(root, Progress.load(root, MLFLOW, uri), lambda: store)


def start_event(key: str = "vqa") -> Event:
    return {
        "event": "start",
        "time": 100.0,
        "stage": "finetune",
        "key": key,
        "config": {"seed": 0, "optim": {"lr": 1e-4, "betas": [0.9, 0.95]}, "name": "a"},
        "git": {"commit": "c0ffee", "dirty": False},
        "dvc": {"stage": f"finetune@{key}", "exp": "swp-1", "baseline": None},
        "host": "box",
    }


def metrics_event(step: int, **values: Any) -> Event:
    return {"event": "metrics", "time": 100.0 + step, "step": step, "values": values}


def end_event(status: str = "ok", error: str | None = None) -> Event:
    return {"event": "end", "time": 200.0, "status": status, "seconds": 9.5, "error": error}


def write_record(
    root: Path, *events: Event | str, key: str = "vqa", pipeline: str = PIPELINE
) -> Path:
    """Append events to a record; a string goes in as it is."""
    path = root / RUNS / pipeline / f"finetune@{key}-1.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for event in events:
            file.write(event if isinstance(event, str) else json.dumps(event) + "\n")
    return path


@contextmanager
def writer_of(path: Path) -> Iterator[None]:
    """A living stage: it holds the lock of its record."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_record_becomes_a_child_run_of_its_pipeline(tmp_path: Path, store: FakeStore) -> None:
    write_record(
        tmp_path,
        start_event(),
        metrics_event(1, loss=2.5, lr=1e-4),
        metrics_event(2, loss="nan", lr=1e-4),
        {
            "event": "facts",
            "time": 150.0,
            "values": {"rows": 12, "data.sha256": "12e4567", "compiled": True, "flops": "inf"},
        },
        {"event": "artifact", "time": 151.0, "path": "/x/plot.png"},
        end_event(),
    )
    assert forward_once(forwarder_of(tmp_path, store))

    parent, child = store.run(PIPELINE), store.run("finetune@vqa")
    assert store.runs[int(child.parent or "-1")] is parent
    assert child.params == {
        "seed": "0",
        "optim.lr": "0.0001",
        "optim.betas": "[0.9, 0.95]",
        "name": "a",
    }
    assert child.metrics[0] == Metric("loss", 2.5, 101_000, 1)
    assert math.isnan(store.series("finetune@vqa", "loss")[1][1])
    assert store.series("finetune@vqa", "lr") == [(1, 1e-4), (2, 1e-4)]
    assert store.series("finetune@vqa", "facts/rows") == [(0, 12.0)]
    assert store.series("finetune@vqa", "facts/flops") == [(0, math.inf)]
    assert store.series("finetune@vqa", "facts/seconds") == [(0, 9.5)]
    expected = {
        "dvc.stage": "finetune@vqa",
        "dvc.exp": "swp-1",
        "git.commit": "c0ffee",
        "git.dirty": "false",
        "data.sha256": "12e4567",
        "compiled": "true",
    }
    assert child.tags.items() >= expected.items()
    assert "dvc.baseline" not in child.tags
    assert "error" not in child.tags
    assert child.artifacts == [Path("/x/plot.png")]
    assert (child.status, child.start_ms, child.end_ms) == ("FINISHED", 100_000, 200_000)
    # The pipeline starts when its name says, long before this toy stage.
    assert (parent.status, parent.start_ms, parent.end_ms) == (
        "FINISHED",
        1_767_359_655_000,
        200_000,
    )


def test_nested_figures_are_metrics_by_dotted_name(tmp_path: Path, store: FakeStore) -> None:
    figures = {
        "accuracy": 0.5,
        "classes": {"cat": {"f1": 0.25, "support": 3}, "dog": {"f1": "nan"}},
    }
    flops = {"samples": 4, "step": {"encoder": 7, "note": "estimated"}, "shapes": [1, 2]}
    write_record(
        tmp_path,
        start_event(),
        metrics_event(0, **figures),
        {"event": "facts", "time": 150.0, "values": {"flops": flops}},
        end_event(),
    )
    assert forward_once(forwarder_of(tmp_path, store))
    run = store.run("finetune@vqa")
    found = {m.name: m.value for m in run.metrics if m.name != "facts/seconds"}
    assert math.isnan(found.pop("classes.dog.f1"))
    assert found == {
        "accuracy": 0.5,
        "classes.cat.f1": 0.25,
        "classes.cat.support": 3.0,
        "facts/flops.samples": 4.0,
        "facts/flops.step.encoder": 7.0,
    }
    assert run.tags["flops.step.note"] == "estimated"
    assert run.tags["flops.shapes"] == "[1, 2]"
    assert "flops.samples" not in run.tags


def test_a_record_that_grows_is_continued_by_the_next_forwarder_without_doubles(
    tmp_path: Path, store: FakeStore
) -> None:
    path = write_record(tmp_path, start_event(), metrics_event(1, loss=3.0))
    with writer_of(path):
        assert forwarder_of(tmp_path, store).forward_pending()
        assert not forwarder_of(tmp_path, store).forward_pending()
        write_record(tmp_path, metrics_event(2, loss=2.0))
        assert forwarder_of(tmp_path, store).forward_pending()
        assert store.run("finetune@vqa").status == "RUNNING"
    write_record(tmp_path, metrics_event(3, loss=1.0), end_event())
    forward_once(forwarder_of(tmp_path, store))
    forward_once(forwarder_of(tmp_path, store))
    assert store.series("finetune@vqa", "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [run.status for run in store.runs] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize("call", range(1, 11))
def test_whatever_call_fails_the_next_forwarder_delivers_the_rest_once(
    tmp_path: Path, store: FakeStore, call: int
) -> None:
    write_record(
        tmp_path,
        start_event(),
        *(metrics_event(step, loss=float(step)) for step in range(2500)),
        {"event": "facts", "time": 150.0, "values": {"rows": 12}},
        end_event(),
    )
    store.away_at = frozenset({call})
    assert not forward_once(forwarder_of(tmp_path, store))
    assert forward_once(forwarder_of(tmp_path, store))
    assert len(store.runs) == 2
    assert store.series("finetune@vqa", "loss") == [(s, float(s)) for s in range(2500)]
    assert store.series("finetune@vqa", "facts/rows") == [(0, 12.0)]
    assert [run.status for run in store.runs] == ["FINISHED", "FINISHED"]


def test_runs_are_found_again_when_the_state_is_lost(tmp_path: Path, store: FakeStore) -> None:
    write_record(tmp_path, start_event(), metrics_event(1, loss=3.0), end_event())
    forward_once(forwarder_of(tmp_path, store))
    (tmp_path / MLFLOW.state).write_text('{"cut', encoding="utf-8")
    forward_once(forwarder_of(tmp_path, store))
    assert [run.name for run in store.runs] == [PIPELINE, "finetune@vqa"]


def test_each_store_gets_everything_once(tmp_path: Path, store: FakeStore) -> None:
    write_record(tmp_path, start_event(), metrics_event(1, loss=3.0), end_event())
    other = FakeStore()
    for _ in range(2):
        forward_once(forwarder_of(tmp_path, store))
        forward_once(forwarder_of(tmp_path, other, "http://b.example.org"))
    assert store.series("finetune@vqa", "loss") == other.series("finetune@vqa", "loss")
    assert "secret" not in (tmp_path / MLFLOW.state).read_text(encoding="utf-8")


def test_a_deleted_database_is_filled_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write_record(tmp_path, start_event(), end_event())
    for _ in range(2):  # no file stands behind the fake: as if it had been deleted
        store = FakeStore()
        forward_once(forwarder_of(tmp_path, store, uri))
        assert len(store.runs) == 2


def test_a_broken_line_is_skipped_and_an_unfinished_one_awaited(
    tmp_path: Path, store: FakeStore
) -> None:
    path = write_record(
        tmp_path, start_event(), '{"event": "met\n', "\xff\n", "[1]\n", metrics_event(1, loss=3.0)
    )
    half = json.dumps(metrics_event(2, loss=2.0))
    write_record(tmp_path, half[:20])
    forwarder = forwarder_of(tmp_path, store)
    with writer_of(path):
        forwarder.forward_pending()
        assert store.series("finetune@vqa", "loss") == [(1, 3.0)]
        write_record(tmp_path, half[20:] + "\n")
        forwarder.forward_pending()
        assert store.series("finetune@vqa", "loss") == [(1, 3.0), (2, 2.0)]


def test_a_killed_stage_is_marked_so(tmp_path: Path, store: FakeStore) -> None:
    write_record(tmp_path, start_event(), metrics_event(1, loss=3.0), '{"event": "metr')
    forward_once(forwarder_of(tmp_path, store))
    assert store.series("finetune@vqa", "loss") == [(1, 3.0)]
    assert [run.status for run in store.runs] == ["KILLED", "KILLED"]


def test_a_failed_stage_tells_its_error_and_fails_its_pipeline(
    tmp_path: Path, store: FakeStore
) -> None:
    write_record(tmp_path, start_event("a"), end_event(), key="a")
    write_record(
        tmp_path, start_event("b"), end_event("failed", "DataError: no valid rows"), key="b"
    )
    forward_once(forwarder_of(tmp_path, store))
    assert store.run("finetune@a").status == "FINISHED"
    assert store.run("finetune@b").status == "FAILED"
    assert store.run("finetune@b").tags["error"] == "DataError: no valid rows"
    assert store.run(PIPELINE).status == "FAILED"


def test_a_pipeline_opens_again_for_a_later_stage(tmp_path: Path, store: FakeStore) -> None:
    write_record(tmp_path, start_event("a"), end_event(), key="a")
    forward_once(forwarder_of(tmp_path, store))
    with writer_of(write_record(tmp_path, start_event("b"), key="b")):
        forward_once(forwarder_of(tmp_path, store))
        assert store.run(PIPELINE).status == "RUNNING"
    write_record(tmp_path, end_event(), key="b")
    forward_once(forwarder_of(tmp_path, store))
    assert [run.status for run in store.runs] == ["FINISHED"] * 3


def test_the_newest_pipeline_is_copied_first(tmp_path: Path, store: FakeStore) -> None:
    newer = "20260203-000000-repro-1"
    for pipeline in (PIPELINE, newer):
        write_record(tmp_path, start_event(), end_event(), pipeline=pipeline)
    forward_once(forwarder_of(tmp_path, store))
    assert [run.name for run in store.runs if run.parent is None] == [newer, PIPELINE]


def test_what_the_store_refuses_does_not_hold_up_the_rest(
    tmp_path: Path, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = {"event": "artifact", "time": 1.0, "path": "/x/huge.bin"}
    write_record(tmp_path, start_event(), artifact, metrics_event(1, loss=3.0), end_event())
    assert forward_once(forwarder_of(tmp_path, store))
    assert store.series("finetune@vqa", "loss") == [(1, 3.0)]
    assert store.run("finetune@vqa").status == "FINISHED"
    assert "huge.bin: too large" in caplog.text


def test_a_record_without_a_start_is_left_out(tmp_path: Path, store: FakeStore) -> None:
    write_record(tmp_path, "nothing that we wrote\n", key="foreign")
    write_record(tmp_path, start_event(), end_event())
    assert forward_once(forwarder_of(tmp_path, store))
    assert [run.name for run in store.runs] == [PIPELINE, "finetune@vqa"]


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_following_ends_after_the_idle_time_and_closes_the_pipeline(
    tmp_path: Path, store: FakeStore
) -> None:
    write_record(tmp_path, start_event(), end_event())
    clock = Clock()
    assert follow(forwarder_of(tmp_path, store), 20.0, sleep=clock.sleep, clock=clock)
    assert clock.now == pytest.approx(20.0, abs=1.0)
    assert store.run(PIPELINE).status == "FINISHED"


def test_following_lasts_as_long_as_a_silent_stage_lives(tmp_path: Path, store: FakeStore) -> None:
    path = write_record(tmp_path, start_event())
    clock = Clock()
    writer = writer_of(path)
    writer.__enter__()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now == 100.0:
            write_record(tmp_path, end_event())
            writer.__exit__(None, None, None)

    assert follow(forwarder_of(tmp_path, store), 20.0, sleep=sleep, clock=clock)
    assert clock.now == pytest.approx(120.0, abs=1.0)
    assert store.run("finetune@vqa").status == "FINISHED"


def test_a_dead_server_is_left_alone_after_a_few_attempts_and_one_line(
    tmp_path: Path, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_record(tmp_path, start_event(), metrics_event(1, loss=3.0), end_event())
    before = sha256_file(path)
    store.away = True
    clock = Clock()
    assert not follow(forwarder_of(tmp_path, store), 20.0, sleep=clock.sleep, clock=clock)
    assert store.calls == ATTEMPTS
    assert len(caplog.records) == 1
    assert sha256_file(path) == before

    store.away = False
    forward_once(forwarder_of(tmp_path, store))
    assert store.series("finetune@vqa", "loss") == [(1, 3.0)]


def test_a_server_that_comes_back_while_a_stage_runs_gets_everything(
    tmp_path: Path, store: FakeStore
) -> None:
    path = write_record(tmp_path, start_event(), metrics_event(1, loss=3.0))
    clock = Clock()
    writer = writer_of(path)
    writer.__enter__()
    store.away = True

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 300.0 and store.away:
            store.away = False
            write_record(tmp_path, end_event())
            writer.__exit__(None, None, None)

    assert follow(forwarder_of(tmp_path, store), 20.0, sleep=sleep, clock=clock)
    assert store.calls < 30  # it backs off
    assert store.series("finetune@vqa", "loss") == [(1, 3.0)]
    assert [run.status for run in store.runs] == ["FINISHED", "FINISHED"]


def test_a_record_that_came_at_the_last_moment_is_noticed(tmp_path: Path, store: FakeStore) -> None:
    write_record(tmp_path, start_event(), end_event())
    forwarder = forwarder_of(tmp_path, store)
    forward_once(forwarder)
    assert not forwarder.has_new_records()
    write_record(tmp_path, start_event("late"), key="late")
    assert forwarder.has_new_records()


def test_a_second_forwarder_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    path = write_record(tmp_path, start_event(), end_event())
    (tmp_path / MLFLOW.lock).touch()
    with writer_of(tmp_path / MLFLOW.lock):
        assert main(["--root", str(tmp_path), "--once"]) == 0
    assert not (tmp_path / MLFLOW.state).exists()
    assert path.exists()


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("recall@10", "recall_at_10"),
        ("val/loss", "val/loss"),
        ("/val//../loss/", "val/loss-e3da42e2"),
        ("a=b%", "a_b_-ed807636"),
        ("größe", "gr__e-d353a267"),
        ("..", "-5ec1f7e7"),
        ("x" * 300, "x" * 241 + "-0d4e2ca9"),
    ],
)
def test_names_become_what_mlflow_takes(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


def test_no_two_names_share_a_series() -> None:
    names = ["größe", "grüße", "gr__e", "a b", "a\u00a0b", "a/b", "a//b", "..", "", "/"]
    names += ["x" * 300, "x" * 301, "x" * 250]
    cleaned = {clean_name(name) for name in names}
    assert len(cleaned) == len(names)
    assert max(map(len, cleaned)) <= 250


def test_settings_are_flattened_to_dotted_keys() -> None:
    config = {"a": {"b": {"c": 1}, "d": None}, "e": [{"f": True}], "g": {}, "h": "text"}
    assert {key: as_text(value) for key, value in flatten(config)} == {
        "a.b.c": "1",
        "a.d": "null",
        "e": '[{"f": true}]',
        "g": "{}",
        "h": "text",
    }


def test_no_password_is_logged() -> None:
    error = OSError(f"cannot reach {URI}/api\nTraceback")
    assert describe(error) == "OSError: cannot reach http://***@example.org/api"
