"""A bundle in TorchServe: its handler, driven as TorchServe does, and its archive."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.cli.main import call
from plumbline.errors import CheckpointError, ConfigError, OutputError
from plumbline.files import read_json
from plumbline.serving import torchserve_archive, torchserve_handler
from plumbline.serving.torchserve_archive import HANDLER, find_archiver, write_archive
from plumbline.serving.torchserve_handler import BundleHandler

DRIVER = """
import base64, importlib, inspect, json, sys
sys.modules.update(torch=None, plumbline=None, ts=None)
from pathlib import Path

class Context:
    def __init__(self, folder, config):
        self.system_properties = {"model_dir": folder, "gpu_id": None, "batch_size": 4}
        self.model_yaml_config, self.statuses = config, {}
    def set_response_status(self, code=200, phrase="", idx=0):
        self.statuses[idx] = code

folder, config = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
# As ts.model_loader does: the one class that the module itself defines.
module = importlib.import_module("torchserve_handler")
(service,) = [each for _, each in inspect.getmembers(module, inspect.isclass)
              if each.__module__ == module.__name__]
handler, context = service(), Context(folder, config)
handler.initialize(context)
png = Path(folder, "bundle/selftest/0.png").read_bytes()
whole = {"image": base64.b64encode(png).decode(), "question": "what color is it?"}
rows = [
    {"body": whole},
    {"body": bytearray(json.dumps(whole).encode())},
    {"image": bytearray(png), "question": bytearray("what color is it?".encode())},
    {"image": bytearray(png), "describe": bytearray(b"true")},
    {"body": {**whole, "image": "no base64!"}},
    {"body": b"[1"},
    {"body": [1]},
    {"data": {"question": "what?"}},
    {"image": bytearray(b"no image"), "question": bytearray(b"what?")},
]
lines = handler.handle(rows, context)
print(json.dumps({"answers": [json.loads(line) for line in lines], "statuses": context.statuses}))
"""


def lay_out(bundle: Path, folder: Path) -> Path:
    """The folder that TorchServe unpacks an archive to."""
    folder.mkdir()
    shutil.copytree(bundle, folder / "bundle")
    shutil.copyfile(HANDLER, folder / HANDLER.name)
    return folder


def drive(folder: Path, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", DRIVER, str(folder), json.dumps(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def ask(bundle: Path, *arguments: str) -> dict[str, Any]:
    """What the bundle's own script answers."""
    command = [sys.executable, "-I", "inference.py", *arguments]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_batch_is_answered_as_the_bundle_answers_without_torch_and_plumbline(
    bundle: Path, tmp_path: Path
) -> None:
    done = drive(lay_out(bundle, tmp_path / "model"), {})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    image = ("--image", "selftest/0.png")
    asked = ask(bundle, *image, "--question", "what color is it?")
    assert said["answers"][:4] == [asked, asked, asked, ask(bundle, *image, "--describe")]
    assert said["statuses"] == {str(number): 400 for number in range(4, 9)}
    errors = [answer["error"] for answer in said["answers"][4:]]
    assert errors[0] == "image: no base64"
    assert errors[1].startswith("Expecting")
    assert errors[2] == "expected an object of image, question, describe"
    assert errors[3] == "image: missing"
    assert errors[4].startswith("image: cannot be decoded")


class Context:
    """What TorchServe hands a handler."""

    def __init__(self, folder: Path, format: str) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.model_yaml_config = {"handler": {"format": format}}
        self.statuses: dict[int, int] = {}

    def set_response_status(self, *, code: int, phrase: str, idx: int) -> None:
        self.statuses[idx] = code


@pytest.fixture
def own_path() -> Iterator[None]:
    """A handler imports its bundle's scripts from the top of the path."""
    path, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in ("inference", "runtime"):
            del sys.modules[name]


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_requests_of_a_batch_are_answered_or_refused_each_for_itself(
    bundle: Path, tmp_path: Path, own_path: None, format: str
) -> None:
    context = Context(lay_out(bundle, tmp_path / "model"), format)
    handler = BundleHandler()
    handler.initialize(context)
    assert handler.model.format == format
    png, question = (bundle / "selftest/0.png").read_bytes(), "what color is it?"
    rows: list[dict[str, object]] = [
        {"body": {"image": base64.b64encode(png).decode(), "question": question}},
        {"image": bytearray(png), "question": bytearray(question.encode())},
        {"image": bytearray(png), "describe": bytearray(b"true")},
        {"body": [1]},
        {"body": {"image": "no base64!", "question": question}},
        {"image": bytearray(b"none"), "question": bytearray(b"what?")},
        {"image": bytearray(png), "question": bytearray(b"\xff")},
    ]
    said = [json.loads(line) for line in handler.handle(rows, context)]
    known = handler.model.predict({"image": png, "question": question})
    assert said[:2] == [known, known]
    assert said[2] == handler.model.predict({"image": png, "describe": True})
    assert context.statuses == dict.fromkeys((3, 4, 5, 6), 400)
    assert [list(answer) for answer in said[3:]] == [["error"]] * 4


def test_files_in_lists_are_decoded_one_by_one(own_path: None) -> None:
    two = [base64.b64encode(each).decode() for each in (b"one", b"two")]
    assert torchserve_handler._decoded("images", two, "files") == [b"one", b"two"]
    assert torchserve_handler._decoded("image", None, "file") is None
    assert torchserve_handler._decoded("top_k", 3, "integer") == 3
    with pytest.raises(ValueError, match="images: no base64"):
        torchserve_handler._decoded("images", [3], "files")


def archiver(folder: Path, ending: str) -> str:
    """A program that takes what torch-model-archiver takes, and packs as little."""
    lines = (
        f"#!{sys.executable}",
        "import pathlib, sys, zipfile",
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))",
        "top = pathlib.Path(given['--extra-files'])",
        "out = pathlib.Path(given['--export-path'], given['--model-name'] + '.mar')",
        "with zipfile.ZipFile(out, 'w') as archive:",
        "    for path in top.rglob('*'):",
        "        archive.write(path, path.relative_to(top))",
        "    for name in ('--handler', '--config-file', '--requirements-file'):",
        "        archive.write(given[name], pathlib.Path(given[name]).name)",
        ending,
    )
    program = folder / "archiver"
    program.write_text("\n".join(lines), encoding="utf-8")
    program.chmod(0o755)
    return str(program)


def test_what_the_archiver_is_given_is_published_beside_its_settings(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchserve_archive, "find_archiver", lambda: archiver(tmp_path, ""))
    call(["archive", str(bundle), "--into", str(tmp_path / "store"), "--name", "vqa"])
    store = tmp_path / "store"
    assert sorted(path.name for path in store.iterdir()) == ["config.properties", "vqa.mar"]
    with zipfile.ZipFile(store / "vqa.mar") as archive:
        archive.extractall(tmp_path / "model")
    held = {
        path.relative_to(tmp_path / "model/bundle").as_posix()
        for path in (tmp_path / "model/bundle").rglob("*")
        if path.is_file()
    }
    assert held == {*read_json(bundle / "digests.json"), "digests.json"}
    assert (tmp_path / "model" / HANDLER.name).read_bytes() == HANDLER.read_bytes()
    settings = read_json(bundle / "server.json")
    model = (tmp_path / "model/model-config.yaml").read_text(encoding="utf-8")
    assert f"maxWorkers: {settings['max_concurrent']}\n" in model
    assert "handler:" not in model, "no format was chosen"
    served = (store / "config.properties").read_text(encoding="utf-8")
    assert "load_models=vqa.mar\n" in served
    assert f"inference_address=http://127.0.0.1:{settings['port']}\n" in served
    assert f"management_address=http://127.0.0.1:{settings['port'] + 1}\n" in served


def test_an_archiver_that_fails_is_one_line_and_publishes_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = archiver(tmp_path, "sys.exit('first line\\nno space left')")
    monkeypatch.setattr(torchserve_archive, "find_archiver", lambda: failing)
    with pytest.raises(OutputError, match=r"^torch-model-archiver: no space left$"):
        write_archive(bundle, tmp_path / "store", "vqa")
    assert not list((tmp_path / "store").iterdir())


def test_a_handler_runs_no_code_that_the_bundle_does_not_name(bundle: Path, tmp_path: Path) -> None:
    folder = lay_out(bundle, tmp_path / "model")
    (folder / "bundle/numpy.py").write_text("raise SystemExit('run')", encoding="utf-8")
    done = drive(folder, {})
    assert done.returncode == 1
    assert "ImportError: numpy.py: not listed in digests.json" in done.stderr


def test_a_format_is_chosen_by_the_settings_of_the_model(bundle: Path, tmp_path: Path) -> None:
    folder = lay_out(bundle, tmp_path / "model")
    done = drive(folder, {"handler": {"format": "onx"}})
    assert "format onx: not in this bundle (onnx, torchscript)" in done.stderr


def test_without_the_archiver_the_remedy_is_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchserve_archive, "find_archiver", lambda: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install torch-model-archiver"):
        call(["archive", str(bundle), "--into", str(tmp_path / "store")])
    assert not (tmp_path / "store").exists()


def test_what_cannot_be_archived_is_refused_before_anything_is_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchserve_archive, "find_archiver", lambda: "never-called")
    store = tmp_path / "store"
    with pytest.raises(ConfigError, match=r"--format onx: .* has only onnx, torchscript"):
        call(["archive", str(bundle), "--into", str(store), "--format", "onx"])
    with pytest.raises(ConfigError, match=r"--name"):
        call(["archive", str(bundle), "--into", str(store), "--name", "a/b"])
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    (damaged / "decoder.onnx").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"decoder\.onnx: its bytes changed"):
        call(["archive", str(damaged), "--into", str(store)])
    assert not list(store.glob("*"))


needs_archiver = pytest.mark.skipif(
    find_archiver() is None, reason="torch-model-archiver is not installed"
)


@needs_archiver
def test_an_archive_holds_the_bundle_and_nothing_that_lies_beside_it(
    bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundle_of("features"), tmp_path / "beat"))
    (bundle / ".venv").mkdir()
    (bundle / ".venv/large.bin").write_bytes(b"0" * 1000)
    call(["archive", str(bundle), "--into", str(tmp_path / "store"), "--format", "torchscript"])
    store = tmp_path / "store"
    assert {path.name for path in store.iterdir()} == {"beat.mar", "config.properties"}
    with zipfile.ZipFile(store / "beat.mar") as archive:
        archive.extractall(tmp_path / "model")
    names = {*read_json(bundle / "digests.json"), "digests.json"}
    inside = {
        path.relative_to(tmp_path / "model/bundle").as_posix()
        for path in (tmp_path / "model/bundle").rglob("*")
        if path.is_file()
    }
    assert inside == names
    manifest = read_json(tmp_path / "model/MAR-INF/MANIFEST.json")["model"]
    assert manifest["handler"] == HANDLER.name
    config = (tmp_path / "model" / manifest["configFile"]).read_text(encoding="utf-8")
    assert "handler:\n  format: torchscript\n" in config
    settings = read_json(bundle / "server.json")
    assert f"maxWorkers: {settings['max_concurrent']}\n" in config
    served = (store / "config.properties").read_text(encoding="utf-8")
    assert f"max_request_size={settings['max_body_bytes']}\n" in served
    assert f"inference_address=http://127.0.0.1:{settings['port']}\n" in served


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.slow
@needs_archiver
@pytest.mark.skipif(
    not (shutil.which("torchserve") and shutil.which("java")),
    reason="torchserve or Java is not installed",
)
def test_torchserve_answers_as_the_bundle_does(bundle: Path, tmp_path: Path) -> None:
    made = write_archive(bundle, tmp_path / "store", "vqa")
    ports = free_ports(3)
    text = made.config.read_text(encoding="utf-8")
    for known, port in zip((8080, 8081, 8082), ports, strict=True):
        text = text.replace(f":{known}", f":{port}")
    made.config.write_text(text, encoding="utf-8")
    server = subprocess.Popen(
        ["torchserve", "--foreground", "--ts-config", "config.properties", "--disable-token-auth"],
        cwd=made.config.parent,
        # Where it notes its process: another one that runs is none of ours.
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        image = {"image": (bundle / "selftest/0.png").read_bytes()}
        body = json.dumps(
            {"image": base64.b64encode(image["image"]).decode(), "question": "what?"}
        ).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports[0]}/predictions/vqa",
            body,
            {"Content-Type": "application/json"},
        )
        end = time.monotonic() + 240
        while True:
            try:
                answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < end, "no answer in four minutes"
                assert server.poll() is None, "it ended"
                time.sleep(2)
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # with Java, which outlives its parent
        server.wait(60)
    assert answer == ask(bundle, "--image", "selftest/0.png", "--question", "what?")
