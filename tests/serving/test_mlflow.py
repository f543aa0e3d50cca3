"""A bundle as a model of MLflow: signature, rows, the registry, and `mlflow models serve`."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from plumbline.cli.main import call
from plumbline.errors import CheckpointError, ConfigError, OutputError
from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.export.provenance import describe_provenance, dvc_md5
from plumbline.export.runtime.model import TYPES
from plumbline.files import read_json, staged_folder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.serving.bundles import copy_bundle
from plumbline.serving.mlflow_model import BundleModel
from plumbline.serving.mlflow_registry import COLUMNS, LISTS, input_columns, register_bundle
from tests.export.conftest import CONFIG

BundleOf = Callable[..., Path]


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """A bundle's own modules go with the test."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "runtime"]:
        del sys.modules[name]


def opened(bundle: Path, **config: str) -> BundleModel:
    model = BundleModel()
    context = SimpleNamespace(artifacts={"bundle": str(bundle)}, model_config=config)
    model.load_context(context)
    return model


def test_every_type_of_a_field_has_a_column() -> None:
    fields = {f"a_{kind}": kind for kind in TYPES}
    columns = {column.name: column for column in input_columns(fields, ["a_text"])}
    assert list(columns) == list(fields)
    assert {kind for kind in TYPES if kind not in COLUMNS and kind not in LISTS} == {
        "turns",
        "flag",
    }
    assert [name for name, column in columns.items() if column.required] == ["a_text"]
    types = {name: str(column.type) for name, column in columns.items()}
    assert types["a_file"] == "DataType.binary"
    assert types["a_integer"] == "DataType.double", "whole numbers could not be left out of a row"
    assert types["a_files"] == types["a_texts"] == "Array(string)"


def test_rows_are_answered_as_the_bundle_answers_and_a_gap_is_a_field_left_out(
    bundle: Path,
) -> None:
    png = (bundle / "selftest/0.png").read_bytes()
    model = opened(bundle)
    text = base64.b64encode(png).decode()
    rows = pd.DataFrame(
        [
            {"image": png, "question": "what color is it?", "describe": None},
            {"image": png, "question": float("nan"), "describe": True},
            {"image": text, "question": "what color is it?"},
        ]
    )
    answers = model.predict(None, rows)
    asked = [
        model.model.predict({"image": png, "question": "what color is it?"}),
        model.model.predict({"image": png, "describe": True}),
    ]
    assert answers == [*asked, asked[0]]
    assert asked[0] != asked[1]


def test_a_whole_number_stays_one_in_a_column_with_gaps(bundle_of: BundleOf) -> None:
    model = opened(bundle_of("causal_lm_rows", "torchscript"))
    rows = pd.DataFrame([{"prompt": "a", "max_new_tokens": 2.0}, {"prompt": "a"}])
    short, long = model.predict(None, rows)
    assert short == model.model.predict({"prompt": "a", "max_new_tokens": 2})
    assert long == model.model.predict({"prompt": "a"})
    with pytest.raises(MlflowException, match="row 0: max_new_tokens: not of type integer"):
        model.predict(None, pd.DataFrame([{"prompt": "a", "max_new_tokens": 2.5}]))


def test_a_row_that_cannot_be_answered_is_named(bundle: Path) -> None:
    model = opened(bundle)
    png = (bundle / "selftest/0.png").read_bytes()
    rows = pd.DataFrame([{"image": png, "question": "a"}, {"image": b"none", "question": "a"}])
    with pytest.raises(MlflowException, match="row 1: image: cannot be decoded") as refused:
        model.predict(None, rows)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_two_bundles_in_one_process_answer_each_by_its_own_code(
    bundle: Path, bundle_of: BundleOf
) -> None:
    first, second = opened(bundle), opened(bundle_of("features"))
    assert first.model.contract["task"] == "vlm"
    assert second.model.contract["task"] != "vlm"
    png = (bundle / "selftest/0.png").read_bytes()
    stored = read_json(bundle / "selftest/selftest.json")["answers"][0]
    (answer,) = first.predict(None, pd.DataFrame([{**stored["request"], "image": png}]))
    assert answer["answer"] == stored["answer"]["answer"]


def test_a_format_is_chosen_when_it_is_logged(bundle: Path) -> None:
    assert opened(bundle).model.format == "onnx"
    assert opened(bundle, format="torchscript").model.format == "torchscript"


def test_what_cannot_be_registered_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"--format onx: .* has only onnx, torchscript"):
        call(["register", str(bundle), "--format", "onx"])
    with pytest.raises(ConfigError, match="--name"):
        call(["register", str(bundle), "--name", "a/b"])
    with pytest.raises(ConfigError, match="vqa: no bundle"):
        call(["register", "vqa"])
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_copied_without_what_lies_beside_it(bundle: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        copy_bundle(bundle if name == "first" else tmp_path / "first", tmp_path / name)
        (tmp_path / "first/.venv").mkdir(exist_ok=True)
        (tmp_path / "first/.venv/x").write_bytes(b"x")
    assert not (tmp_path / "second/.venv").exists()
    assert read_json(tmp_path / "second/digests.json") == read_json(bundle / "digests.json")
    (tmp_path / "first/vision.onnx").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"vision\.onnx: its bytes changed"):
        copy_bundle(tmp_path / "first", tmp_path / "third")


@pytest.fixture
def named(vlm_folder: Path, scenes_cache: Path, tmp_path: Path) -> Path:
    """A bundle that says what it was made of, and answers at the length of `plumbline predict`."""
    source = BundleSource(
        load_model(vlm_folder),
        TrainingCache(scenes_cache),
        {},
        threads=1,
        provenance=describe_provenance("export_model@vqa", {"model": vlm_folder}),
    )
    config = CONFIG.model_copy(update={"max_new_tokens": 64, "parity_samples": 3})
    with staged_folder(tmp_path / "vqa") as partial:
        write_bundle(source, config, partial)
    return tmp_path / "vqa"


def test_a_server_that_does_not_answer_is_one_line_without_its_password(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(OutputError) as refused:
        register_bundle(named, tmp_path, "vqa")
    assert str(refused.value).startswith(f"http://***@127.0.0.1:{port}: ")
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_registered_version_has_signature_example_and_what_made_it(
    named: Path, vlm_folder: Path, tmp_path: Path
) -> None:
    made = [register_bundle(named, tmp_path, "vqa", format) for format in (None, "torchscript")]
    assert [(each.name, each.version) for each in made] == [("vqa", "1"), ("vqa", "2")]
    assert made[0].uri == "models:/vqa/1"
    import mlflow

    loaded = mlflow.pyfunc.load_model(made[1].uri)
    inputs = {column.name: column.required for column in loaded.metadata.signature.inputs}
    assert inputs.pop("image") is True
    assert not any(inputs.values())
    tags = mlflow.MlflowClient().get_model_version("vqa", "1").tags
    assert tags["plumbline.model"] == loaded.metadata.metadata["plumbline.model"]
    assert tags["plumbline.model"] == dvc_md5(vlm_folder)
    stored = read_json(named / "selftest/selftest.json")["answers"][0]
    assert set(loaded.metadata.signature.outputs.input_names()) == set(stored["answer"])
    (answer,) = loaded.predict(loaded.input_example)
    assert answer["answer"] == stored["answer"]["answer"]


@pytest.mark.slow
def test_mlflow_serves_the_answers_of_the_task_without_plumbline_and_torch(
    named: Path, vlm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with `plumbline predict` on the model that the bundle was made of."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    call(["register", str(named)])
    call(["register", str(named), "--format", "torchscript"])
    from mlflow import MlflowClient

    uri = f"sqlite:///{project}/mlflow.db"
    client = MlflowClient(uri)
    versions = client.search_model_versions("name = 'vqa'")
    assert sorted(version.version for version in versions) in ([1, 2], ["1", "2"])
    assert versions[0].tags["plumbline.model"] == dvc_md5(vlm_folder)

    png = (named / "selftest/0.png").read_bytes()
    image = tmp_path / "0.png"
    image.write_bytes(png)
    command = [sys.executable, "-m", "plumbline", "predict", "vqa", "--model", str(vlm_folder)]
    command += ["--image", str(image), "--question", "what color is the circle?"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    known = json.loads(asked.stdout)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for package in ("plumbline", "torch"):
        (tmp_path / "without" / package).mkdir(parents=True)
        absent = f"raise ModuleNotFoundError('{package}', name='{package}')"
        (tmp_path / "without" / package / "__init__.py").write_text(absent, encoding="utf-8")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PYTHONPATH"] = str(tmp_path / "without")
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/vqa/1"]
    serve += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "serve.log").open("wb")
    server = subprocess.Popen(
        serve, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        rows = [
            {"image": base64.b64encode(png).decode(), "question": "what color is the circle?"},
            {"image": base64.b64encode(png).decode(), "describe": True},
        ]
        status, said = post(port, {"dataframe_records": rows}, server)
        assert status == 200, said
        first, second = said["predictions"]
        assert first["answer"] == known["answer"]
        assert second["answer"] != first["answer"], "a gap in a column of flags was taken for one"
        status, said = post(port, {"dataframe_records": [{"question": "no image"}]}, server)
        assert status == 400, said
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
        log.close()


def post(
    port: int, body: dict[str, Any], server: "subprocess.Popen[bytes]"
) -> tuple[int, dict[str, Any]]:
    """Ask, as soon as the server listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    end = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end, "no answer in three minutes"
            assert server.poll() is None, "it ended"
            time.sleep(1)
