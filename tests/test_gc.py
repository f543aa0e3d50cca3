"""What `plumbline gc` offers to remove: never what a stopped run or the tracker still wants."""

import json
import os
from pathlib import Path

import pytest

from plumbline.files import STATE_DIR, exclusive_lock, write_json
from plumbline.gc import removable
from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.trackers import TRACKERS


def state(root: Path, run: str, *steps: str) -> Path:
    for step in steps:
        (root / ".ckpt/finetune@vqa" / run / step).mkdir(parents=True)
    return root / ".ckpt/finetune@vqa" / run


def test_the_state_that_has_come_furthest_stays_whatever_the_times_of_files(tmp_path: Path) -> None:
    behind, ahead = state(tmp_path, "aa", "step-9"), state(tmp_path, "bb", "step-2", "step-10")
    copy = state(tmp_path, "cc", "step-99.bak", "best")
    os.utime(ahead, (1, 1))
    assert list(removable(tmp_path)) == [copy, behind]


def test_a_state_that_a_process_holds_stays(tmp_path: Path) -> None:
    held = state(tmp_path, "aa", "step-9")
    state(tmp_path, "bb", "step-10")
    with exclusive_lock(held.with_name("aa.lock")):
        assert list(removable(tmp_path)) == []
    assert list(removable(tmp_path)) == [held]


def test_compiled_programs_go_where_no_training_runs(tmp_path: Path) -> None:
    programs, state_dir = tmp_path / STATE_DIR / "compiled", state(tmp_path, "aa", "step-9")
    programs.mkdir(parents=True)
    with exclusive_lock(state_dir.with_name("aa.lock")):
        assert list(removable(tmp_path)) == []
    assert list(removable(tmp_path)) == [programs]


def record(root: Path, pipeline: str) -> Path:
    file = root / RUNS / pipeline / "finetune@vqa-1.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"event": "start"}) + "\n", encoding="utf-8")
    return file.parent


def test_records_that_the_tracker_has_not_had_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLUMBLINE_TRACKING", raising=False)
    had, under_way, unknown, newest = (record(tmp_path, f"2026010{n}") for n in range(4))
    assert list(removable(tmp_path)) == []
    copied = {
        f"{folder.name}/finetune@vqa-1.jsonl": {"offset": 1, "status": status}
        for folder, status in ((had, "ok"), (under_way, None), (newest, "ok"))
    }
    write_json(tmp_path / TRACKERS["mlflow"].state, {"store": {"records": copied, "pipelines": {}}})
    assert list(removable(tmp_path)) == [had]
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")  # there is nobody to have them
    assert list(removable(tmp_path)) == [had, under_way, unknown]


def test_features_go(tmp_path: Path) -> None:
    (tmp_path / STATE_DIR / "features/ab").mkdir(parents=True)
    (tmp_path / STATE_DIR / "features/ab.lock").touch()
    assert list(removable(tmp_path)) == [tmp_path / STATE_DIR / "features/ab"]
