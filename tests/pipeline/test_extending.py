"""A project adds its own kinds from `plugins/` and `conf/` alone, as docs/extending.md says."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from plumbline.report.collect import figures_of
from tests.pipeline.checkout import ROOT, Checkout, make_checkout

EXAMPLES = ROOT / "docs/examples"
FILES = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.rglob("*")
    if path.is_file() and path.suffix in (".py", ".yaml")
)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the examples copied in, after the stages that they take part in."""
    checkout = make_checkout(tmp_path_factory.mktemp("extending") / "project")
    for name in FILES:
        assert not (checkout.folder / name).exists()
        shutil.copy(EXAMPLES / name, checkout.folder / name)
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: waves")
    stage(checkout, "check_params", "--write")
    stage(checkout, "check_params")
    for name in ("prepare", "validate", "detect_shapes", "tokenize_text"):
        stage(checkout, name, "waves")
    for task in ("forecast", "tempo"):
        for name in ("finetune", "evaluate_model", "export_model"):
            stage(checkout, name, task)
    return checkout


def stage(checkout: Checkout, name: str, *arguments: str) -> None:
    checkout.run(sys.executable, "-m", f"stages.{name}", *arguments)


def metrics(checkout: Checkout, task: str) -> dict[str, float]:
    return figures_of(checkout.folder / f"work/evaluation/tasks/{task}")


def test_the_new_task_learns(extended: Checkout) -> None:
    found = metrics(extended, "forecast")
    assert found["mse"] < 0.3 * found["unchanged_mse"]
    assert found["samples"] > 10


def test_the_new_encoder_loss_and_schedule_serve_a_task_that_was_there(extended: Checkout) -> None:
    assert metrics(extended, "tempo")["accuracy"] > 0.9
    with (extended.folder / "models/tasks/tempo/train.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-2 * 0.3 ** ((len(rates) - 1 - 2) // 20))


def test_models_and_bundles_are_whole(extended: Checkout) -> None:
    for task, kind in (("forecast", "forecast"), ("tempo", "classification")):
        spec = json.loads(
            (extended.folder / f"models/tasks/{task}/model.json").read_text(encoding="utf-8")
        )
        assert spec["kind"] == kind
        bundle = extended.folder / "exports" / task
        assert (bundle / "model.safetensors").is_file()
        assert json.loads((bundle / "contract.json").read_text(encoding="utf-8"))["formats"] == {}


def test_no_file_of_the_project_was_touched(extended: Checkout) -> None:
    changed = extended.run("git", "status", "--porcelain", "-uall").stdout.splitlines()
    made = {"metrics/tasks/forecast.json", "metrics/tasks/tempo.json"}
    assert {line[3:] for line in changed if line.startswith("??")} == {*FILES, *made}
    edited = {line[3:] for line in changed if not line.startswith("??")}
    assert edited == {"conf/config.yaml", "params.yaml"}  # the experiment that is chosen


def test_inspection_knows_the_new_task(extended: Checkout) -> None:
    asked = (sys.executable, "-m", "plumbline.inspect", "forecast", "parameters", "--json")
    parts = json.loads(extended.run(*asked).stdout)["parts"]
    assert [part["part"] for part in parts] == ["encoder", "head"]


def test_settings_of_plugins_are_checked_like_all_others(extended: Checkout) -> None:
    wrong = {
        "tasks.forecast.train.model.encoder.width=0": "train.model.encoder.width = 0: ",
        "tasks.tempo.train.task.loss=briar": "did you mean brier?",
        "+tasks.tempo.train.trainer.schedule.options.fctor=0.5": "did you mean factor?",
    }
    for override, message in wrong.items():
        task = override.split(".")[1]
        command = (sys.executable, "-m", "stages.finetune", task, override)
        done = extended.run(*command, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_kind_without_graphs_says_so(extended: Checkout) -> None:
    asked = ("stages.export_model", "forecast", "tasks.forecast.export.formats=[onnx]")
    done = extended.run(sys.executable, "-m", *asked, check=False)
    assert done.returncode == 1
    assert "models of kind forecast have no graphs: set export.formats to []" in done.stderr


def test_a_plugin_costs_stages_without_torch_nothing(extended: Checkout) -> None:
    code = "import sys, stages.validate; sys.exit('torch' in sys.modules)"
    extended.run(sys.executable, "-c", code)


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    shown = dict(
        re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    )
    assert shown
    for name, text in shown.items():
        assert text == (EXAMPLES / name).read_text(encoding="utf-8")
    for name in FILES:
        assert name in page
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page):
        assert (ROOT / "docs" / target).exists(), target


def test_every_kind_of_extension_is_on_the_page() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    tables = set()
    for file in Path(ROOT / "src/plumbline").rglob("*.py"):
        tables |= set(
            re.findall(r"^([A-Z_]+): Registry\[", file.read_text(encoding="utf-8"), re.MULTILINE)
        )
    assert {name for name in tables if f"`{name}`" not in page} == set()
