"""The table of trackers: which are fed, what is said of those that cannot be, what each shows."""

import json
import logging
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import ConfigError
from plumbline.tracking import forwarders
from plumbline.tracking.forwarder import main
from plumbline.tracking.forwarder_state import waiting
from plumbline.tracking.forwarders import RUNS, ensure_forwarders
from plumbline.tracking.record import record_run
from plumbline.tracking.trackers import TRACKERS, VARIABLE, Tracker, selected

ONES = ["tensorboard", "wandb"]


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout as the working folder, with tracking off."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "off")
    return tmp_path


def write_run(steps: int = 5) -> Path:
    """Record a run; its file."""
    Path("metrics.json").write_text('{"f1": 0.5}', encoding="utf-8")
    config = {"seed": 7, "optim": {"lr": 3e-4}, "prompt": "a | b"}
    with record_run(stage="finetune", key="vqa", config=config) as run:
        for step in range(steps):
            run.metrics(step, {"train/loss": 1 / (step + 3), "recall@10": step / 700})
        run.metrics(steps, {"train/loss": math.nan})
        run.facts({"rows": 12, "data.sha256": "ab12"})
        run.artifact(Path("metrics.json"))
    assert run.path is not None
    return run.path


def recorded(path: Path, name: str) -> list[tuple[int, float, float]]:
    """(step, value, time) of a series of the record."""
    events: list[Any] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    points = [e for e in events if e["event"] == "metrics" and name in e["values"]]
    return [(e["step"], float(e["values"][name]), round(e["time"], 3)) for e in points]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, ["mlflow"]),
        ("off", []),
        ("mlflow", ["mlflow"]),
        ("tensorboard, mlflow,tensorboard", ["tensorboard", "mlflow"]),
        ("wandb", ["wandb"]),
    ],
)
def test_the_environment_names_the_trackers(
    monkeypatch: pytest.MonkeyPatch, value: str | None, names: list[str]
) -> None:
    monkeypatch.delenv(VARIABLE)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert list(selected()) == names


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tensorbord", "tracker 'tensorbord' is unknown; did you mean tensorboard?"),
        ("off,mlflow", "off, alone, for none"),
    ],
)
def test_an_unknown_tracker_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    refused = pytest.raises(ConfigError, match=f"^{VARIABLE} = '{value}': ")
    with refused as error, record_run(stage="align", config={}):
        raise AssertionError
    assert said in str(error.value)
    assert not Path(RUNS).exists()


def test_a_tracker_that_is_not_installed_is_said_in_a_line_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, checkout: Path
) -> None:
    lacking = Tracker("plumbline.tracking.wandb_store", "nowhere_to_be_found", extra="wandb")
    path = write_run()
    monkeypatch.setattr(forwarders, "_spawn_forwarder", lambda *arguments: 1 / 0)
    with caplog.at_level(logging.WARNING):
        ensure_forwarders(checkout, {"wandb": lacking})
    (line,) = caplog.messages
    assert line == (
        "tracker wandb: nowhere_to_be_found is not installed: pip install 'plumbline[wandb]'; the "
        f"records wait for it in {RUNS}"
    )
    assert path.exists()


def test_each_tracker_has_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, checkout: Path
) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        forwarders, "_spawn_forwarder", lambda root, name, tracker: started.append(name)
    )
    monkeypatch.setattr(Tracker, "missing", lambda tracker: "")
    monkeypatch.setenv(VARIABLE, "mlflow,tensorboard,wandb")
    write_run()
    assert started == ["mlflow", "tensorboard", "wandb"] * 2
    files = [(t.state, t.lock, t.log, t.store_lock) for t in selected().values()]
    assert len({path for each in files for path in each}) == 4 * 3


def test_what_waits_for_a_tracker_is_counted(checkout: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = TRACKERS["tensorboard"]
    address = tracker.address_of(checkout)
    assert waiting(checkout, tracker, address) == []
    name = write_run().relative_to(checkout / RUNS).as_posix()
    assert waiting(checkout, tracker, address) == [name]
    assert main(["--root", str(checkout), "--tracker", "tensorboard", "--once"]) == 0
    assert waiting(checkout, tracker, address) == []
    assert waiting(checkout, tracker, "tensorboard:///elsewhere") == [name]


def series_of_tensorboard(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Series and texts of a run, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    series = {
        tag: [(point.step, point.value, round(point.wall_time, 3)) for point in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }
    texts = {
        tag: read.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in read.Tags()["tensors"]
    }
    return series, texts


def test_tensorboard_shows_the_series_settings_and_facts_of_the_record(checkout: Path) -> None:
    pytest.importorskip("tensorboard")
    path = write_run()
    for _ in range(2):  # the second has nothing to do
        assert main(["--root", str(checkout), "--tracker", "tensorboard", "--once"]) == 0
    folder = checkout / ".plumbline/tensorboard" / path.parent.name
    (run,) = folder.iterdir()
    assert run.name == path.stem.replace("@", "_")
    series, texts = series_of_tensorboard(run)
    for name in ("train/loss", "recall@10"):
        expected = [
            (s, pytest.approx(v, rel=1e-6, nan_ok=True), t) for s, v, t in recorded(path, name)
        ]
        assert series[name] == expected
    assert series["facts/rows"][0][:2] == (0, 12)
    assert "| optim.lr | 0.0003 |" in texts["settings"]
    assert "| prompt | a \\| b |" in texts["settings"]
    assert "| data.sha256 | ab12 |" in texts["facts"]
    assert "| status | FINISHED |" in texts["status"]
    assert "| dvc.stage | finetune@vqa |" in texts["tags"]


def records_of(file: Path) -> Iterator[Any]:
    """The records of W&B's offline file: LevelDB's log of its messages, after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def values(items: Any) -> dict[str, Any]:
    return {
        ".".join([*item.nested_key] or [item.key]): json.loads(item.value_json) for item in items
    }


def series_of_wandb(file: Path, name: str) -> list[tuple[int, float, float]]:
    rows = [values(r.history.item) for r in records_of(file) if r.HasField("history")]
    return [
        (row["global_step"], float(row[name]), round(row["_timestamp"], 3))
        for row in rows
        if name in row
    ]


def test_wandb_has_the_series_settings_and_facts_of_the_record_offline(checkout: Path) -> None:
    pytest.importorskip("wandb")
    path = write_run()
    for _ in range(2):
        forward(checkout, "wandb")
    (file,) = (checkout / ".plumbline/wandb").glob("offline-run-*/*.wandb")
    for name in ("train/loss", "recall@10"):
        assert series_of_wandb(file, name) == [
            (s, pytest.approx(v, nan_ok=True), t) for s, v, t in recorded(path, name)
        ]
    records = list(records_of(file))
    (run,) = (r.run for r in records if r.HasField("run"))
    assert (run.project, run.display_name, run.run_group) == (
        "plumbline",
        "finetune@vqa",
        path.parent.name,
    )
    config = {
        k: v for r in records if r.HasField("config") for k, v in values(r.config.update).items()
    }
    assert config["settings"]["optim.lr"] == "0.0003"
    summary = {
        k: v for r in records if r.HasField("summary") for k, v in values(r.summary.update).items()
    }
    assert (summary["facts/rows"], summary["data.sha256"]) == (12, "ab12")
    assert summary["status"] == "FINISHED"
    (left,) = (r.exit for r in records if r.HasField("exit"))
    assert left.exit_code == 0
    assert (file.parent / "files/metrics.json").read_text(encoding="utf-8") == '{"f1": 0.5}'


def forward(checkout: Path, tracker: str, *, wait: bool = True) -> "subprocess.Popen[bytes]":
    """A forwarder in a process of its own: once, or until it is killed."""
    command = [sys.executable, "-m", "plumbline.tracking.forwarder", "--root", str(checkout)]
    process = subprocess.Popen(
        [*command, "--tracker", tracker, *(["--once"] if wait else [])],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if wait:
        assert process.wait(120) == 0, process.stderr and process.stderr.read()
    return process


@pytest.mark.parametrize("name", ONES)
def test_a_run_whose_forwarder_was_killed_is_written_from_its_start(
    checkout: Path, name: str
) -> None:
    pytest.importorskip(name)
    with record_run(stage="finetune", key="vqa", config={"seed": 1}) as run:
        assert run.path is not None
        run.metrics(1, {"loss": 3.0})
        process = forward(checkout, name, wait=False)
        until = time.monotonic() + 60
        while waiting_for(checkout, name) or not (checkout / TRACKERS[name].state).exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)  # wandb has a process of its own beside it
        process.wait()
        run.metrics(2, {"loss": 2.0})
    forward(checkout, name)
    if name == "wandb":
        (file,) = (checkout / ".plumbline/wandb").glob("offline-run-*/*.wandb")
        found = series_of_wandb(file, "loss")
    else:
        (folder,) = (checkout / ".plumbline/tensorboard").glob("*/*")
        found = series_of_tensorboard(folder)[0]["loss"]
    assert [(step, value) for step, value, _ in found] == [(1, 3.0), (2, 2.0)]


def waiting_for(checkout: Path, name: str) -> list[str]:
    tracker = TRACKERS[name]
    return waiting(checkout, tracker, tracker.address_of(checkout))
