"""A project as its user runs and looks at it: run, status, compare, data."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from plumbline.cli.main import call
from plumbline.errors import PlumblineError
from plumbline.files import read_json
from tests.pipeline.checkout import Checkout
from tests.report.outline import Outline


@dataclass
class Said:
    """What a command printed, and its error where it was refused."""

    stdout: str
    stderr: str
    error: str = ""


Ask = Callable[..., Said]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command of plumbline in a checkout, as its command line does."""

    def asked(checkout: Checkout, *arguments: str) -> Said:
        monkeypatch.chdir(checkout.folder)
        for name, value in checkout.environment.items():
            monkeypatch.setenv(name, value)
        error = ""
        try:
            call(arguments)
        except PlumblineError as refused:
            error = str(refused)
        out, err = capsys.readouterr()
        return Said(out, err, error)

    return asked


def test_all_is_current_until_a_setting_or_code_changes(ask: Ask, own: Checkout) -> None:
    assert ask(own, "status").stdout.endswith("all is current\n")
    own.replace("params.yaml", "captions_per_image: 1\n", "captions_per_image: 2\n")
    states = json.loads(ask(own, "status", "--json").stdout)
    found = {state["name"]: (state["state"], state["why"]) for state in states}
    assert found["pretrain_alignment@image"] == ("current", "")
    changed = "tasks.vqa.train.task.captions_per_image: 1 there, 2 in params.yaml"
    assert found["finetune@vqa"] == ("to run", changed)
    assert found["evaluate_model@vqa"] == ("to run", "behind finetune@vqa")


def test_rejected_rows_are_shown_and_come_back_as_they_were(
    ask: Ask, reproduced: Checkout, tmp_path: Path
) -> None:
    account = read_json(reproduced.folder / "work/quarantine/scenes/report.json")
    said = ask(reproduced, "data", "scenes", "--rows", "1").stdout
    assert f"{account['rows_quarantined']} rejected" in said
    for reason, count in account["reasons"].items():
        assert f"\n{reason}: {count} rows\n  rows-00000.parquet, row " in said
    out = tmp_path / "rejected"
    ask(reproduced, "data", "scenes", "--export", str(out), "--reason", "bad_image")
    table = pq.read_table(out / "rejected.parquet")
    assert set(table["reason"].to_pylist()) == {"bad_image"}
    raw = pq.read_table(reproduced.folder / "work/raw/scenes/rows-00000.parquet")
    known = dict(zip(raw["sample_id"].to_pylist(), raw["image"].to_pylist(), strict=True))
    for row in table.select(["sample_id", "image"]).to_pylist():
        assert row["image"] == known[row["sample_id"]]
    files = sorted((out / "media").iterdir())
    assert [file.read_bytes() for file in files] == table["image"].to_pylist()
    again = ask(reproduced, "data", "scenes", "--export", str(out))
    assert again.error == f"{out}: there already; name a new folder"


def test_rows_that_are_others_than_those_judged_are_not_exported(
    ask: Ask, own: Checkout, tmp_path: Path
) -> None:
    raw = own.folder / "work/raw/scenes/rows-00000.parquet"
    table = pq.read_table(raw)
    raw.unlink()  # a link into the cache of DVC
    pq.write_table(table.slice(1), raw)
    out = tmp_path / "rejected"
    done = ask(own, "data", "scenes", "--export", str(out))
    assert "not the row that was judged; run plumbline run" in done.error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data scene", "scene: no such dataset; did you mean scenes?"),
        ("data scenes --reason bad_imag", "no row has it; did you mean bad_image?"),
        ("compare HEAD workspce", "workspce: no commit, .* did you mean workspace?"),
        ("compare nothing", "nothing: no commit, branch, tag or experiment"),
    ],
)
def test_what_is_not_there_is_one_line(
    ask: Ask, reproduced: Checkout, arguments: str, message: str
) -> None:
    done = ask(reproduced, *arguments.split())
    assert "\n" not in done.error
    assert message.split(".*")[0] in done.error
    assert message.split(".*")[-1] in done.error


def test_a_run_checks_says_how_far_it_is_and_what_came_of_it(ask: Ask, own: Checkout) -> None:
    refused = ask(own, "run", "-S", "tasks.vqa.evaluate.max_new_token=8")
    assert refused.stdout == ""
    assert "did you mean tasks.vqa.evaluate.max_new_tokens?" in refused.error
    done = ask(own, "run", "-S", "tasks.vqa.evaluate.max_new_tokens=8", "--name", "short")
    assert done.stderr.startswith("every setting valid: 13 stages\n")
    assert "\nstage 11 of 13: evaluate_model@vqa, " in done.stderr
    assert "Running stage 'finetune@vqa'" not in done.stdout  # nothing of it has changed
    *_, kept, next_step = done.stdout.splitlines()
    assert kept.startswith("kept as experiment short: plumbline compare HEAD short")
    assert next_step == "try it: plumbline try vqa; serve it: exports/vqa/README.md"
    said = ask(own, "compare", "HEAD", "short").stdout.splitlines()
    header, setting, figures, *rows = said
    assert header.split() == ["settings", "that", "differ", "HEAD", "short"]
    assert setting.split() == ["tasks.vqa.evaluate.max_new_tokens", "32", "8"]
    assert figures.split() == ["figures", "HEAD", "short"]
    (recall,) = [row for row in rows if "Image to text recall at 1" in row]
    assert recall.endswith("equal")
    assert recall.count(" to ") == 3  # its name, and an interval on both sides
    compared = json.loads(ask(own, "compare", "HEAD", "short", "--json").stdout)
    assert compared["settings"] == [["tasks.vqa.evaluate.max_new_tokens", 32, 8]]
    versions = ("HEAD", "short", "workspace")
    assert "--html FILE shows up to 5" in ask(own, "compare", *versions).error
    said_page = ask(own, "compare", *versions, "--html", "compared.html").stdout
    assert said_page.startswith("compared.html: 3 versions, ")
    page = Outline((own.folder / "compared.html").read_text(encoding="utf-8"))
    assert ["tasks.vqa.evaluate.max_new_tokens", "32", "8", "8"] in page.rows
    # Three curves of each of two trainings.
    assert page.text.count("short: from") == 6
    assert "finetune@vqa" in (own.folder / ".plumbline/stage_times.svg").read_text("utf-8")


def test_an_experiment_runs_again_under_the_lock_of_another_machine(
    ask: Ask, own: Checkout
) -> None:
    command = ("run", "-S", "tasks.vqa.evaluate.max_new_tokens=8", "-t", "report")
    ask(own, *command)
    own.run("git", "checkout", "-q", "--", "dvc.lock", "params.yaml", "metrics")
    # As in a clone: the record names a list of files that this cache never had.
    lock = own.folder / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    (settings,) = set(re.findall(r"path: work/settings\n +hash: md5\n +md5: (\w+\.dir)", text))
    lock.write_text(text.replace(settings, f"{'0' * 32}.dir"), encoding="utf-8")
    done = ask(own, *command)
    assert "Stage 'check_params' is cached" in done.stdout  # where DVC alone ends in an error
    assert "Running stage" not in done.stdout


def test_without_the_cache_of_dvc_figures_stand_without_intervals(ask: Ask, own: Checkout) -> None:
    shutil.rmtree(own.folder / ".dvc/cache")
    said = ask(own, "compare", "HEAD", "HEAD").stdout
    (recall,) = [row for row in said.splitlines() if "Image to text recall at 1" in row]
    assert recall.count(" to ") == 1
    assert recall.endswith("equal")
