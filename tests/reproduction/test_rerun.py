"""A rerun takes nothing from its caller, and what DVC says becomes times and a reason."""

import json
import os
import sys
from pathlib import Path

import pytest

from plumbline.errors import ConfigError, OutputError
from plumbline.reproduction.lock import StageEntry
from plumbline.reproduction.rerun import _Watch, call, environment, open_side, select_preset

FAILING = """Running stage 'prepare@scenes':
> python -m stages.prepare scenes
drew 300 scenes
Generating lock file 'dvc.lock'

Running stage 'validate@scenes':
> python -m stages.validate scenes
WARNING: 2 rows have no caption
error: work/raw/scenes: no rows are left
ERROR: failed to reproduce 'validate@scenes': failed to run: python -m stages.validate scenes
"""


def watched(text: str) -> tuple[_Watch, list[str]]:
    shown: list[str] = []
    watch = _Watch(shown.append)
    for line in text.splitlines(keepends=True):
        watch.read(line)
    return watch, shown


def test_the_end_of_what_the_failed_stage_said_is_the_reason() -> None:
    watch, shown = watched(FAILING)
    outcome = watch.outcome(255)
    assert outcome.failed == "validate@scenes"
    assert outcome.error == (
        "WARNING: 2 rows have no caption\nerror: work/raw/scenes: no rows are left"
    )
    assert list(outcome.seconds) == ["prepare@scenes", "validate@scenes"]
    assert [line.split()[0] for line in shown] == ["prepare@scenes", "validate@scenes"]


def test_a_run_that_ends_well_has_no_reason() -> None:
    outcome = watched("Running stage 'prepare@scenes':\n")[0].outcome(0)
    assert (outcome.failed, outcome.error) == (None, None)


def test_dvc_that_fails_before_any_stage_is_told() -> None:
    outcome = watched("ERROR: './dvc.yaml' is invalid.\n")[0].outcome(255)
    assert (outcome.failed, outcome.error) == ("dvc repro", "ERROR: './dvc.yaml' is invalid.")


def test_nothing_of_the_caller_reaches_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "GIT_DIR", "PYTHONPATH"):
        monkeypatch.setenv(name, "/somewhere")
    monkeypatch.setenv("PLUMBLINE_DATA", "/data")
    found = environment()
    assert {"DVC_ROOT", "DVC_EXP_NAME", "GIT_DIR", "PYTHONPATH"}.isdisjoint(found)
    assert found["PLUMBLINE_DATA"] == "/data"
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_command_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"sh -c .*: second$"):
        call(tmp_path, "sh", "-c", "echo first >&2; echo error: second >&2; exit 3")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "smoke.yaml").touch()
    return tmp_path


def test_an_unknown_preset_is_refused_with_those_there_are(conf: Path) -> None:
    with pytest.raises(ConfigError, match="preset smok: not in conf/experiment, which has smoke"):
        select_preset(conf, "smok")


def test_a_config_without_a_place_for_a_preset_is_refused(conf: Path) -> None:
    (conf / "conf" / "config.yaml").write_text("defaults: [_self_]\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: has no line `- experiment:`"):
        select_preset(conf, "smoke")


def test_a_side_has_the_figures_of_its_stages_alone(tmp_path: Path) -> None:
    for name in ("a", "left_over"):
        (tmp_path / "metrics").mkdir(exist_ok=True)
        (tmp_path / "metrics" / f"{name}.json").write_text(json.dumps({"x": 1}))
    stage = StageEntry("measure", "", {}, {}, {"metrics/a.json": "0", "metrics/gone.json": "0"})
    side = open_side(tmp_path, {"measure": stage}, lambda: tmp_path)
    assert side.figures == {"metrics/a.json": {"a:x": 1}}


def test_the_files_of_a_folder_are_read_from_the_cache(tmp_path: Path) -> None:
    entry = tmp_path / "files" / "md5" / "ab" / "cd.dir"
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps([{"md5": "1", "relpath": "x/y"}]))
    side = open_side(tmp_path, {}, lambda: tmp_path)
    assert side.list_folder("abcd.dir") == {"x/y": "1"}
    assert side.list_folder("abce.dir") is None
