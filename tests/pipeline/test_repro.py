"""The DAG through dvc, on the smoke preset."""

import csv
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from dvc.utils.serialize import load_yaml

from plumbline import paths
from plumbline.config import check_config
from plumbline.files import digest_of, read_json, verify_digests
from plumbline.params import read_params
from plumbline.stages.specs import specs
from tests.pipeline.checkout import STAGES, Checkout, make_checkout

LR = "tasks.vqa.train.trainer.optim.lr"


def test_every_stage_left_its_output(reproduced: Checkout) -> None:
    for place in (
        "work/cache/scenes/tokenizer.json",
        "models/align/image/model.safetensors",
        "models/tasks/vqa/model.safetensors",
        "metrics/align/image.json",
        "metrics/tasks/vqa.json",
        "exports/vqa/inference.py",
        "report/index.html",
    ):
        assert (reproduced.folder / place).is_file(), place


DVC_LINES = re.compile(
    r"Running stage '.*':|> python -m stages\..*|(Generating|Updating) lock file 'dvc\.lock'|"
    r"To track the changes with git, run:|\s+git add .*|Use `dvc push` to send your updates .*|"
    r"To enable auto staging, run:|\s+dvc config core\.autostage true|"
)


WARNINGS = (
    ": no split is given: ",
    ": rows that repeat another one, ",
    " is frozen: its features of ",
)
"""What stages say beside their own line: of the data, and of what they keep on disk."""


def test_each_stage_says_one_line_and_nothing_else_is_printed(reproduced: Checkout) -> None:
    log = (reproduced.folder / ".plumbline/repro.log").read_text(encoding="utf-8")
    lines = [line for line in log.splitlines() if not DVC_LINES.fullmatch(line)]
    lines = [line for line in lines if not any(words in line for words in WARNINGS)]
    assert [line.partition(": ")[0] for line in lines] == ["digest_code", "check_params", *STAGES]
    for line in lines:
        figures, _, place = line.partition(": ")[2].rpartition("; see ")
        switched_off = "export.enabled is false" in figures
        assert switched_off or any(character.isdigit() for character in figures), line
        assert (reproduced.folder / place).exists(), line


def test_metrics_fit_a_terminal(reproduced: Checkout) -> None:
    shown = reproduced.run("dvc", "metrics", "show").stdout.splitlines()
    assert 0 < max(len(line.rstrip()) for line in shown) <= 120


def test_a_second_repro_runs_nothing(reproduced: Checkout) -> None:
    assert reproduced.stages_run("dvc", "repro") == []


def test_metrics_are_listed_by_dvc(reproduced: Checkout) -> None:
    shown = json.loads(reproduced.run("dvc", "metrics", "show", "--json").stdout)
    files = next(iter(shown.values()))["data"]
    assert "exact_match" in files["metrics/tasks/vqa.json"]["data"]
    assert "image_to_text_recall_at_1" in files["metrics/align/image.json"]["data"]


def test_plots_are_drawn_by_dvc(reproduced: Checkout) -> None:
    done = reproduced.run("dvc", "plots", "show", "--out", "dvc_plots")
    assert done.stderr == ""
    page = (reproduced.folder / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    for key in ("align/image", "tasks/vqa"):
        for name in ("training_loss", "validation_loss", "learning_rate"):
            assert f"work/curves/{key}/{name}.csv" in page.replace("\\/", "/")


def test_the_settings_of_every_stage_are_stored_beside_the_digests_of_its_outputs(
    reproduced: Checkout,
) -> None:
    """By a digest in the committed dvc.lock, and as a copy that gives the same settings again."""
    params = read_params(reproduced.folder)
    lock = load_yaml(reproduced.folder / "dvc.lock")["stages"]
    copies = {
        "prepare": "work/raw/{}/config.json",
        "validate": "work/quarantine/{}/config.json",
        "detect_shapes": "work/distributions/clean/{}/config.json",
        "tokenize_text": "work/cache/{}/config.json",
        "pretrain_alignment": "models/align/{}/config.json",
        "evaluate_alignment": "work/evaluation/align/{}/config.json",
        "export_alignment": "exports/align/{}/config.json",
        "finetune": "models/tasks/{}/config.json",
        "evaluate_model": "work/evaluation/tasks/{}/config.json",
        "export_model": "exports/{}/config.json",
        "report": "report/config.json",
    }
    checked = 0
    for spec in specs():
        for key in params[spec.group] if spec.group else [""]:
            used = check_config(spec.schema_for(key, params), spec.sections(key), params)
            left = set(spec.unkeyed(key))  # it shapes nothing, and is in no output
            expected = digest_of(used.model_dump(mode="json", exclude=left))
            stage = lock[f"{spec.name}@{key}" if key else spec.name]
            place = paths.settings(spec.name, key)
            (digest,) = [d["md5"] for d in stage["deps"] if d["path"] == place.as_posix()]
            content = (reproduced.folder / place).read_bytes()
            assert hashlib.md5(content, usedforsecurity=False).hexdigest() == digest
            stored = json.loads(content)
            values = {field: stored[place] for field, place in spec.sections(key).items()}
            again = spec.schema_for(key, params).model_validate(values)
            assert digest_of(again.model_dump(mode="json", exclude=left)) == expected, spec.name
            if spec.name in copies:
                copy = read_json(reproduced.folder / copies[spec.name].format(key))
                assert digest_of(copy) == expected, spec.name
                checked += 1
    assert checked == len(copies)


def test_nothing_but_metrics_and_the_lock_is_new_in_git(reproduced: Checkout) -> None:
    committed = reproduced.run("git", "show", "--name-only", "--format=", "HEAD").stdout.split()
    assert {Path(name).parts[0] for name in committed} == {"dvc.lock", "metrics"}


def test_outputs_hold_no_path_of_the_machine(reproduced: Checkout) -> None:
    mark = str(reproduced.folder).encode()
    for top in ("models", "metrics", "exports", "report", "work/evaluation"):
        for file in (reproduced.folder / top).rglob("*"):
            if file.is_file():
                assert mark not in file.read_bytes(), file


def test_a_changed_lr_reruns_its_task_alone_and_back_again_nothing(reproduced: Checkout) -> None:
    before = (reproduced.folder / "dvc.lock").read_text(encoding="utf-8")
    changed = reproduced.stages_run("dvc", "exp", "run", "-S", f"{LR}=0.003")
    # The experiment composes params.yaml, so that is checked first.
    expected = ["check_params", "finetune@vqa", "evaluate_model@vqa", "export_model@vqa", "report"]
    assert changed == expected
    reproduced.run("git", "checkout", "params.yaml")
    again = reproduced.run("dvc", "repro", "-v")
    assert "Running stage" not in again.stdout, again.stdout + again.stderr
    assert (reproduced.folder / "dvc.lock").read_text(encoding="utf-8") == before


def test_an_edit_in_conf_is_refused_with_the_difference(reproduced: Checkout) -> None:
    reproduced.replace("conf/config.yaml", "seed: 0", "seed: 7")
    try:
        done = reproduced.run("dvc", "repro", check=False)
        assert done.returncode != 0
        assert "seed: 0 there, 7 in conf/" in done.stderr
        assert "plumbline params" in done.stderr
    finally:
        reproduced.replace("conf/config.yaml", "seed: 7", "seed: 0")
    assert reproduced.stages_run("dvc", "repro") == []


def test_a_hand_edited_params_file_is_refused(reproduced: Checkout) -> None:
    reproduced.replace("params.yaml", "seed: 0\nthreads", "seed: 3\nthreads")
    done = reproduced.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "params.yaml is stale" in done.stderr
    reproduced.run("git", "checkout", "params.yaml")


def test_killed_in_the_middle_of_training_it_ends_in_the_same_bits(reproduced: Checkout) -> None:
    weights = reproduced.folder / "models/tasks/vqa/digests.json"
    expected = weights.read_text(encoding="utf-8")
    state = reproduced.folder / ".ckpt" / "finetune@vqa"
    process = reproduced.start("python", "-m", "stages.finetune", "vqa")
    try:
        deadline = time.monotonic() + 120
        while not list(state.glob("*/step-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(state.glob("*/step-*"))
    weights.unlink()
    done = reproduced.run("python", "-m", "stages.finetune", "vqa")
    assert "resuming after optimiser step" in done.stderr
    assert weights.read_text(encoding="utf-8") == expected
    assert not list(state.glob("*/step-*"))


PROCESSES = "align.image.train.trainer.processes"
SHARDED = "align.image.train.trainer.shard_layers"


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["false", "true"])
def test_two_processes_train_through_dvc(reproduced: Checkout, sharded: str) -> None:
    """The same losses, and the same folder, written by one of them."""
    place = reproduced.folder / "models/align/image"
    alone = {path.name: path.read_bytes() for path in place.iterdir()}
    settings = ["-S", f"{PROCESSES}=2", "-S", f"{SHARDED}={sharded}"]
    changed = reproduced.stages_run("dvc", "exp", "run", *settings, "pretrain_alignment@image")
    assert changed == ["check_params", "pretrain_alignment@image"]
    assert {path.name for path in place.iterdir()} == set(alone)
    one, two = (json.loads(text) for text in (alone["metrics.json"], read_text(place)))
    assert two["samples"] == one["samples"]
    assert two["best"]["value"] == pytest.approx(one["best"]["value"], rel=1e-4)
    reproduced.run("git", "checkout", "params.yaml")
    assert reproduced.stages_run("dvc", "repro") == []


def read_text(folder: Path) -> str:
    return (folder / "metrics.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_stage_whose_process_dies_ends_and_goes_on_when_run_again(reproduced: Checkout) -> None:
    """FP22: all end within the limit, with one line and no half checkpoint."""
    command = ["python", "-m", "stages.pretrain_alignment", "image"]
    longer = [f"{PROCESSES}=2", f"{PROCESSES.replace('processes', 'epochs')}=40"]
    state = reproduced.folder / ".ckpt" / "pretrain_alignment@image"
    model = reproduced.folder / "models/align/image/model.safetensors"
    before = model.read_bytes()
    launcher = reproduced.start(*command, *longer, errors=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(state.glob("*/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
        assert launcher.poll() is None, "it ended before one could be killed"
    processes = psutil.Process(launcher.pid).children()
    assert len(processes) == 2
    processes[1].kill()
    _, errors = launcher.communicate(timeout=60)  # not the half hour that collectives wait
    assert launcher.returncode == 1
    assert "process 1 of 2 was ended by SIGKILL; the last checkpoint stands" in errors
    assert "Traceback" not in errors
    assert not any(process.is_running() for process in processes)
    assert model.read_bytes() == before
    for folder in state.glob("*/step-*"):
        verify_digests(folder)
    again = reproduced.start(*command, *longer, errors=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while "resuming" not in (line := again.stderr.readline()) and time.monotonic() < deadline:
        assert line, "it did not resume"
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == 143
    shutil.rmtree(state)


@pytest.mark.slow
def test_a_queued_grid_gives_a_row_per_point(reproduced: Checkout) -> None:
    grid = ["-S", f"{LR}=0.001,0.003", "-S", "align.image.train.trainer.optim.lr=0.001,0.002"]
    reproduced.run("dvc", "exp", "run", "--queue", "-n", "grid", *grid)
    reproduced.run("dvc", "queue", "start", "-j", "1")
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        status = reproduced.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        time.sleep(3)
    table = reproduced.run("dvc", "exp", "show", "--csv", "--no-pager").stdout
    rows = [r for r in csv.DictReader(io.StringIO(table)) if r["Experiment"].startswith("grid")]
    assert len(rows) == 4
    assert len({(r[LR], r["align.image.train.trainer.optim.lr"]) for r in rows}) == 4
    assert all(r["exact_match"] for r in rows)


@pytest.mark.slow
def test_a_clean_run_in_another_folder_has_the_same_lock(
    reproduced: Checkout, tmp_path: Path
) -> None:
    other = make_checkout(tmp_path / "elsewhere" / "deeper")
    other.run("dvc", "repro")
    assert (other.folder / "dvc.lock").read_text(encoding="utf-8") == (
        reproduced.folder / "dvc.lock"
    ).read_text(encoding="utf-8")
