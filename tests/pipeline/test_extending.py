"""A project adds its own kinds from `plugins/` and `conf/` alone, as docs/extending.md says."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sklearn.metrics

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
        (checkout.folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, checkout.folder / name)
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: waves")
    stage(checkout, "check_params", "--write")
    stage(checkout, "check_params")
    for name in ("prepare", "validate", "detect_shapes", "tokenize_text"):
        stage(checkout, name, "waves")
    for task in ("forecast", "tempo", "beat", "spell"):
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


def test_a_network_of_one_s_own_learns_and_is_exported(extended: Checkout) -> None:
    assert metrics(extended, "beat")["accuracy"] > 0.9
    bundle = extended.folder / "exports/beat/metadata.json"
    formats = json.loads(bundle.read_text(encoding="utf-8"))["formats"]
    assert {result["status"] for result in formats.values()} == {"ok"}


def test_an_edit_of_a_network_of_one_s_own_reruns_its_task_alone(extended: Checkout) -> None:
    def settings() -> dict[str, str]:
        folder = extended.folder / "work/settings"
        return {p.as_posix(): p.read_text(encoding="utf-8") for p in folder.rglob("*.json")}

    before = settings()
    file = extended.folder / "plugins/_filters.py"
    kept = file.read_text(encoding="utf-8")
    file.write_text(kept.replace("kernel_size=9, padding=4", "kernel_size=7, padding=3"), "utf-8")
    stage(extended, "digest_code")
    stage(extended, "check_params")
    changed = {Path(name).parent.name for name, text in settings().items() if before[name] != text}
    names = {Path(name).stem for name, text in settings().items() if before[name] != text}
    file.write_text(kept, encoding="utf-8")
    stage(extended, "digest_code")
    stage(extended, "check_params")
    assert names == {"beat", "digests", "report"}
    assert changed == {"finetune", "settings"}


def test_the_new_encoder_loss_and_schedule_serve_a_task_that_was_there(extended: Checkout) -> None:
    assert metrics(extended, "tempo")["accuracy"] > 0.9
    with (extended.folder / "models/tasks/tempo/train.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-2 * 0.3 ** ((len(rates) - 1 - 2) // 20))


FORMATS = {"forecast": ["onnx", "torchscript", "pt2"], "tempo": ["onnx", "torchscript"]}


def test_a_decoder_of_one_s_own_learns_and_answers_alone(extended: Checkout) -> None:
    # 7 letters and an end: a wave that is known so far leaves about one next letter, or two.
    found = metrics(extended, "spell")
    assert found["perplexity"] < 2.2
    bundle = extended.folder / "exports/spell"
    described = json.loads((bundle / "metadata.json").read_text(encoding="utf-8"))["formats"]
    assert sorted(described) == ["onnx", "torchscript"]
    for written in described.values():
        assert written["status"] == "ok"
        assert written["parity"]["max_logits_difference"] < 1e-4
        assert written["parity"]["token_agreement"] == 1.0
    done = run_alone(bundle, "--selftest", without="plumbline")
    assert json.loads(done.stdout)["selftest"] == "ok", done.stderr
    asked = ("--prompt", "dfggfd", "--max-new-tokens", "12", "--temperature", "0")
    said = json.loads(run_alone(bundle, *asked, without="plumbline").stdout)["text"]
    known = extended.run(sys.executable, "-m", "plumbline", "predict", "spell", *asked).stdout
    assert json.loads(known)["text"] == said
    assert set(said) <= set("abcdefg")
    assert len(said) == 12


def run_alone(bundle: Path, *arguments: str, without: str) -> subprocess.CompletedProcess[str]:
    """Run a bundle's own script where one package is not installed."""
    code = f"import sys; sys.path.insert(0, {str(bundle)!r}); sys.modules[{without!r}] = None"
    run = f"{code}; import runpy; sys.argv = ['inference.py', *{arguments!r}]; "
    run += f"runpy.run_path({str(bundle / 'inference.py')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", run], cwd=bundle, capture_output=True, text=True, check=False
    )


def test_the_new_metric_is_computed_listed_and_shown_first(extended: Checkout) -> None:
    folder = extended.folder / "work/evaluation/tasks/tempo"
    rows = pq.read_table(folder / "predictions.parquet").to_pydict()
    expected = sklearn.metrics.matthews_corrcoef(rows["label"], rows["prediction"])
    listed = json.loads((extended.folder / "metrics/tasks/tempo.json").read_text(encoding="utf-8"))
    assert metrics(extended, "tempo")["matthews"] == pytest.approx(expected, rel=1e-9)
    assert listed["matthews"] == pytest.approx(expected, rel=1e-9)
    assert 0.8 < expected <= 1


def test_an_edit_of_a_metric_reruns_evaluations_alone(extended: Checkout) -> None:
    named = {
        path.relative_to(extended.folder / "work/code").parts[0].removesuffix(".json")
        for path in (extended.folder / "work/code").rglob("*.json")
        if "plugins/_scores.py" in path.read_text(encoding="utf-8")
    }
    assert named == {"evaluate_model", "evaluate_alignment"}


def test_the_bundles_run_by_themselves_and_agree_with_the_models(extended: Checkout) -> None:
    for task, kind in (("forecast", "forecast"), ("tempo", "classification")):
        bundle = extended.folder / "exports" / task
        assert json.loads((bundle / "contract.json").read_text(encoding="utf-8"))["task"] == kind
        formats = json.loads((bundle / "metadata.json").read_text(encoding="utf-8"))["formats"]
        assert sorted(formats) == sorted(FORMATS[task])
        for described in formats.values():
            assert described["status"] == "ok"
            assert described["parity"]["max_logits_difference"] < 1e-4
        done = run_alone(bundle, "--selftest", without="torch")
        assert json.loads(done.stdout)["selftest"] == "ok", done.stderr


def test_the_new_format_answers_where_there_is_no_plumbline(extended: Checkout) -> None:
    bundle = extended.folder / "exports/forecast"
    asked = ("--features", "selftest/0.npy", "--format", "pt2")
    for package in ("plumbline", "plugins"):
        assert json.loads(run_alone(bundle, *asked, without=package).stdout)["next"]
    done = run_alone(bundle, "--selftest", "--format", "pt2", without="onnxruntime")
    assert json.loads(done.stdout) == {
        **{"selftest": "ok", "format": "pt2"},
        **{"answers": 4, "preprocessing": 0},
    }
    done = run_alone(bundle, *asked, without="torch")
    assert done.stderr == "error: format pt2 needs torch: pip install torch\n"
    for file in ("model.pt2", "runtime/format_pt2.py", "README.md"):
        assert str(extended.folder).encode() not in (bundle / file).read_bytes()
    assert "| `model.pt2` |" in (bundle / "README.md").read_text(encoding="utf-8")


def test_the_new_kind_is_asked_and_evaluated_from_the_command_line(extended: Checkout) -> None:
    file = extended.folder / "exports/forecast/selftest/0.npy"
    said = json.loads(
        extended.run(
            *(sys.executable, "-m", "plumbline", "predict", "forecast", "--features", str(file))
        ).stdout
    )
    assert len(said["next"]) == 2
    figures = json.loads(
        extended.run(
            *(sys.executable, "-m", "plumbline", "evaluate", "models/tasks/forecast"),
            *("--data", "waves"),
        ).stdout
    )
    assert figures == pytest.approx(metrics(extended, "forecast"))


def test_the_new_kind_is_in_the_report(extended: Checkout) -> None:
    stage(extended, "report")
    page = (extended.folder / "report/index.html").read_text(encoding="utf-8")
    assert "Forecast of a sequence" in page
    assert "unchanged" in page.lower()


def test_a_new_kind_is_nothing_to_the_code_of_the_others(
    extended: Checkout, tmp_path: Path
) -> None:
    """Its folder is in its own closures, and in that of the stage that reads all settings."""
    stage(extended, "digest_code")
    named = {
        path.relative_to(extended.folder / "work/code").as_posix()
        for path in (extended.folder / "work/code").rglob("*.json")
        if "plugins/forecast/" in path.read_text(encoding="utf-8")
    }
    stages = ("finetune", "evaluate_model", "export_model")
    assert named == {"check_params.json", *(f"{name}/forecast.json" for name in stages)}


def test_a_plugin_is_nothing_to_stages_that_read_none_of_its_tables(extended: Checkout) -> None:
    """`waves.py` has a source, an encoder, a loss, a metric and a schedule; `pt2.py` a format."""
    stage(extended, "digest_code")
    files = ("plugins/pt2.py", "plugins/_pt2.py", "plugins/_pt2_reader.py")
    read = {
        path.relative_to(extended.folder / "work/code").parts[0]
        for path in (extended.folder / "work/code").rglob("*.json")
        if any(file in path.read_text(encoding="utf-8") for file in files[1:])
    }
    # A training does not depend on how it is exported.
    assert read == {"export_alignment.json", "export_model"}
    of_export = extended.folder / "work/code/export_model/forecast.json"
    assert set(files) <= json.loads(of_export.read_text(encoding="utf-8"))["files"].keys()
    without = {
        path.stem
        for path in (extended.folder / "work/code").glob("*.json")
        if "plugins/waves.py" not in path.read_text(encoding="utf-8")
    }
    assert {"validate", "detect_shapes", "tokenize_text"} <= without
    assert "prepare" not in without


def test_no_file_of_the_project_was_touched(extended: Checkout) -> None:
    changed = extended.run("git", "status", "--porcelain", "-uall").stdout.splitlines()
    made = {f"metrics/tasks/{task}.json" for task in ("forecast", "tempo", "beat", "spell")}
    made |= {"metrics/data/waves.json"}
    assert {line[3:] for line in changed if line.startswith("??")} == {*FILES, *made}
    edited = {line[3:] for line in changed if not line.startswith("??")}
    assert edited == {"conf/config.yaml", "params.yaml"}  # the experiment that is chosen


def test_inspection_knows_the_new_task(extended: Checkout) -> None:
    asked = (sys.executable, "-m", "plumbline", "inspect", "forecast", "parameters", "--json")
    parts = json.loads(extended.run(*asked).stdout)["parts"]
    assert [part["part"] for part in parts] == ["encoder", "head"]
    seen = json.loads(extended.run(*asked[:5], "activations", "--json").stdout)
    assert [row["name"] for row in seen["predictions"]] == ["next: logits"]


def test_settings_of_plugins_are_checked_like_all_others(extended: Checkout) -> None:
    wrong = {
        "tasks.forecast.train.model.encoder.width=0": "train.model.encoder.width = 0: ",
        "tasks.tempo.train.task.loss=briar": "did you mean brier?",
        "+tasks.tempo.train.trainer.schedule.options.fctor=0.5": "did you mean factor?",
        "tasks.tempo.export.formats=[pt3]": "did you mean pt2?",
    }
    for override, message in wrong.items():
        _, task, section = override.split(".")[:3]
        name = "export_model" if section == "export" else "finetune"
        command = (sys.executable, "-m", f"stages.{name}", task, override)
        done = extended.run(*command, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


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
    words = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", words):
        assert (ROOT / "docs" / target).exists(), target


def test_every_kind_of_extension_is_on_the_page() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    tables = set()
    for file in Path(ROOT / "src/plumbline").rglob("*.py"):
        tables |= set(
            re.findall(r"^([A-Z_]+): Registry\[", file.read_text(encoding="utf-8"), re.MULTILINE)
        )
    assert {name for name in tables if f"`{name}`" not in page} == set()
