"""What earlier runs of the stages tell: the newest of each, and how it ended."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.past_runs import newest_runs
from plumbline.tracking.record import record_run


def write(root: Path, pipeline: str, stage: str, key: str, *events: dict[str, object]) -> Path:
    path = root / RUNS / pipeline / f"{stage}@{key}-1.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"event": "start", "stage": stage, "key": key}, *events]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def end(status: str, seconds: float, error: str | None = None) -> dict[str, object]:
    return {"event": "end", "status": status, "seconds": seconds, "error": error}


def test_the_newest_run_of_each_stage_counts(tmp_path: Path) -> None:
    write(tmp_path, "20260101-000000-repro-1", "finetune", "a-1", end("ok", 9.0))
    write(tmp_path, "20260102-000000-repro-1", "finetune", "a-1", end("failed", 2.0, "Error: x"))
    write(tmp_path, "20260101-000000-repro-1", "prepare", "b", end("ok", 1.5))
    newest = newest_runs(tmp_path)
    assert set(newest) == {"finetune@a-1", "prepare@b"}
    assert (newest["finetune@a-1"].status, newest["finetune@a-1"].error) == ("failed", "Error: x")
    assert newest_runs(tmp_path, status="ok")["finetune@a-1"].seconds == 9.0


def test_a_record_without_an_end_is_of_a_run_that_goes_on_or_was_killed(tmp_path: Path) -> None:
    step = {"event": "metrics", "step": 12, "values": {}}
    path = write(tmp_path, "20260101-000000-repro-1", "finetune", "a", step)
    assert newest_runs(tmp_path)["finetune@a"].status == "killed"
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # as its writer does
        run = newest_runs(tmp_path)["finetune@a"]
        assert (run.status, run.seconds, run.last_step()) == ("running", None, 12)
    finally:
        os.close(descriptor)


def test_what_a_stage_records_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")
    with record_run(stage="report", config={}):
        assert newest_runs(tmp_path)["report"].status == "running"
    run = newest_runs(tmp_path)["report"]
    assert run.status == "ok"
    assert run.seconds is not None


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"event": "end"\n'])
def test_a_broken_record_is_no_run(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "20260101-000000-repro-1", "prepare", "b")
    path.write_text(text, encoding="utf-8")
    assert newest_runs(tmp_path) == {}
