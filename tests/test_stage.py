"""The edge of a stage: its command line, its exit codes, its one-line errors."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import yaml

from plumbline import paths
from plumbline.code_digest import digest_tree
from plumbline.config import Config
from plumbline.errors import ConfigError, DataError
from plumbline.params import installed_versions
from plumbline.stage import StageSpec, parse_call, run_stage, settings_text


class Settings(Config):
    seed: int
    train: dict[str, float]


class Placed(Settings):
    engine: Literal["local", "ray"] = "local"


KEYED = StageSpec(
    name="finetune",
    schema=Settings,
    group="tasks",
    sections=lambda key: {"seed": "seed", "train": f"tasks.{key}.train"},
)
SINGLE = StageSpec(name="report", schema=Config, sections=lambda key: {})


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 0\ntasks: {vqa: {train: {lr: 0.1}}}\n", encoding="utf-8")


def test_a_key_and_overrides_become_settings() -> None:
    call = parse_call(KEYED, ["vqa", "seed=3", "tasks.vqa.train.lr=0.5"])
    assert call.key == "vqa"
    assert call.plain == {"seed": 3, "train": {"lr": 0.5}}


class Export(Config):
    enabled: bool = False


class Newer(Settings):
    export: Export = Export()


def test_a_section_with_defaults_may_be_left_out_by_entries_older_than_it() -> None:
    newer = StageSpec(
        name="export_model",
        schema=Newer,
        group="tasks",
        sections=lambda key: {**KEYED.sections(key), "export": f"tasks.{key}.export"},
    )
    assert parse_call(newer, ["vqa"]).config.export == Export()
    assert parse_call(newer, ["vqa", "+tasks.vqa.export.enabled=true"]).config.export.enabled
    # An entry that is not there is none that is older, and a section without defaults is needed.
    with pytest.raises(ConfigError, match=r"tasks\.vqq.*not there; tasks holds vqa"):
        parse_call(newer, ["vqq"])
    with pytest.raises(ConfigError, match=r"tasks\.vqa\.train: not there"):
        parse_call(newer, ["vqa", "~tasks.vqa.train", "+tasks.vqa.export.enabled=true"])


def test_what_shapes_nothing_is_read_and_is_in_no_key_and_no_output(tmp_path: Path) -> None:
    spec = replace(KEYED, schema=Placed, unkeyed=lambda key: {"engine": f"tasks.{key}.engine"})
    assert parse_call(spec, ["vqa"]).config.engine == "local"  # it may be left out
    call = parse_call(spec, ["vqa", "+tasks.vqa.engine=ray"])
    assert call.config.engine == "ray"
    params = {"seed": 0, "tasks": {"vqa": {"train": {"lr": 0.1}, "engine": "ray"}}}
    assert "ray" not in settings_text(spec, "vqa", params, [])
    call.store(tmp_path)
    assert "ray" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tasks\.vqa\.engine = 'rya'"):
        parse_call(spec, ["vqa", "+tasks.vqa.engine=rya"])


def test_a_stage_without_group_takes_no_key() -> None:
    assert parse_call(SINGLE, []).key == ""
    assert parse_call(SINGLE, ["seed=1"]).plain == {}


@pytest.mark.parametrize("arguments", [[], ["seed=3"], ["--cfg", "job"], ["-h"]])
def test_a_missing_key_says_what_is_wanted(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"python -m stages\.finetune <key of tasks>"):
        parse_call(KEYED, arguments)


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.vqq\.train: not there; tasks holds vqa"):
        parse_call(KEYED, ["vqq"])


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="--verbose: unknown option"):
        parse_call(KEYED, ["vqa", "--verbose"])


def test_cfg_job_prints_the_resolved_settings_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_call(KEYED, ["vqa", "seed=3", "--cfg", "job"])
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out) == {"seed": 3, "train": {"lr": 0.1}}


@pytest.fixture
def recorded() -> Path:
    """What `digest_code` and `check_params` write for the stage; its module."""
    module = Path("stages/finetune.py")
    module.parent.mkdir()
    module.write_text("STEPS = 1\n", encoding="utf-8")
    code, settings = paths.code("finetune"), paths.settings("finetune", "vqa")
    for file in (code, settings):
        file.parent.mkdir(parents=True, exist_ok=True)
    digests = {"stages/finetune.py": digest_tree(module)}
    code.write_text(json.dumps({"files": digests, "libraries": ["torch"]}), encoding="utf-8")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["versions"] = installed_versions()
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    settings.write_text(settings_text(KEYED, "vqa", params, ["torch"]), encoding="utf-8")
    return module


def test_settings_of_a_stage_are_what_it_reads_and_the_versions_of_its_code(recorded: Path) -> None:
    parse_call(KEYED, ["vqa"])
    assert json.loads(paths.settings("finetune", "vqa").read_text(encoding="utf-8")) == {
        "seed": 0,
        "tasks.vqa.train": {"lr": 0.1},
        "versions.torch": installed_versions()["torch"],
    }


def test_a_setting_that_changed_since_is_refused_and_an_override_is_not(recorded: Path) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("lr: 0.1", "lr: 0.2"), encoding="utf-8")
    told = (
        r"work/settings/finetune/vqa\.json is stale: tasks\.vqa\.train\.lr: 0\.1 there, 0\.2 in "
        r"params\.yaml; run dvc repro"
    )
    with pytest.raises(ConfigError, match=told):
        parse_call(KEYED, ["vqa"])
    assert parse_call(KEYED, ["vqa", "seed=3"]).plain["seed"] == 3
    Path("params.yaml").write_text(text + "other: 1\n", encoding="utf-8")
    parse_call(KEYED, ["vqa"])  # nobody reads that


def test_code_that_changed_since_is_refused_and_a_comment_is_not(recorded: Path) -> None:
    recorded.write_text("STEPS = 1  # A comment.\n", encoding="utf-8")
    parse_call(KEYED, ["vqa"])
    recorded.write_text("STEPS = 2\n", encoding="utf-8")
    told = (
        r"work/code/finetune\.json is stale: stages/finetune\.py has changed since; run dvc repro"
    )
    with pytest.raises(ConfigError, match=told):
        parse_call(KEYED, ["vqa"])
    with pytest.raises(ConfigError, match=told):
        parse_call(KEYED, ["vqa", "seed=3"])


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> list[str]:
    seen: list[str] = []

    def main(arguments: Sequence[str]) -> None:
        seen.extend(arguments)
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["stage", "vqa", "seed=1"])
    run_stage(main)
    return seen


def test_main_gets_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == ["vqa", "seed=1"]


def test_an_error_of_ours_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, DataError("row 3 is empty"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: row 3 is empty\n"


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, KeyboardInterrupt())
    assert ended.value.code == 130


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, ZeroDivisionError())
