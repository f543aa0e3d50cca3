"""Formats of graphs: chosen from a table, each with what opens it again in a bundle."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from plumbline.errors import ConfigError, ExportError
from plumbline.export.bundle import write_bundle
from plumbline.export.formats import FORMATS, ExportFormat
from plumbline.export.plan import BundleSource
from plumbline.export.runtime import format_torchscript
from plumbline.files import dump_json, read_digests, read_json, write_digests
from plumbline.stages.export_model import schema_of_kind
from tests.export.conftest import settings_of

BundleOf = Callable[..., Path]
SourceOf = Callable[[str], BundleSource]

WRITERS = """
from plumbline.export.torchscript import write_graphs

def copy(specs, out):
    return write_graphs(specs, out)

def fail(specs, out):
    (out / "inner").mkdir()
    for name in ("model.anything", "model.onnx.torchscript.pt", "inner/model"):
        (out / name).write_bytes(b"half")
    raise RuntimeError("no kernel")
"""


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Adds a format, as a plugin does, for the time of a test."""
    (tmp_path / "format_writers.py").write_text(WRITERS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(FORMATS, "_entries", FORMATS.entries())

    def add(name: str, writer: str, reader: str = "") -> None:
        (tmp_path / f"read_{name}.py").write_text(reader, encoding="utf-8")
        FORMATS.register(name, ExportFormat(f"format_writers:{writer}", f"read_{name}.py"))

    yield add
    for name in ("format_writers", *(f"read_{added}" for added in FORMATS)):
        sys.modules.pop(name, None)


def run(bundle: Path, *arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script of a bundle where some packages are not installed."""
    code = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv[1].split())); "
    code += "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", code, without, *arguments],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refused(bundle: Path, *arguments: str) -> str:
    """The one line in which a script ends."""
    done = run(bundle, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip("\n").isprintable()
    return done.stderr


def test_an_unknown_format_is_told_the_nearest(source_of: SourceOf, tmp_path: Path) -> None:
    settings = {"threads": 1, "kind": "regression", "data": "d", "export": {"formats": ["onx"]}}
    said = "format 'onx' is unknown; did you mean onnx"
    with pytest.raises(ValidationError, match=said):
        schema_of_kind("regression").model_validate(settings)
    with pytest.raises(ConfigError, match=said):
        write_bundle(source_of("regression"), settings_of("regression", formats=["onx"]), tmp_path)


def test_a_bundle_brings_what_its_formats_need_and_no_more(bundle_of: BundleOf) -> None:
    bundle = bundle_of("features", "torchscript")
    assert {path.name for path in bundle.glob("runtime/format_*")} == {"format_torchscript.py"}
    packages = (bundle / "requirements.txt").read_text(encoding="utf-8").split()
    assert [line.split("==")[0] for line in packages] == ["numpy"]
    assert "onnx" not in (bundle / "README.md").read_text(encoding="utf-8").lower()
    done = run(bundle, "inference.py", "--selftest", without="onnxruntime plumbline")
    assert json.loads(done.stdout)["format"] == "torchscript", done.stderr
    done = run(bundle, "inference.py", "--selftest", without="torch")
    assert done.stderr == "error: format torchscript needs torch: pip install torch\n"


def test_the_readme_names_the_files_of_every_format(bundle: Path) -> None:
    page = (bundle / "README.md").read_text(encoding="utf-8")
    assert "| `vision.onnx` |" in page
    other = "| `vision.torchscript.pt`, `decoder.torchscript.pt` | the same in another format: "
    assert f"{other}`--format torchscript` |" in page


def test_whatever_a_format_leaves_that_fails_is_removed(
    source_of: SourceOf, tmp_path: Path, register: Callable[..., None]
) -> None:
    register("broken", "fail")
    formats = ["broken", "torchscript"]
    write_bundle(source_of("regression"), settings_of("regression", formats=formats), tmp_path)
    write_digests(tmp_path)
    left = {name for name in read_digests(tmp_path) if "runtime" not in name and "model" in name}
    assert left == {"model.json", "model.safetensors", "model.torchscript.pt"}
    assert not list(tmp_path.glob("broken*"))
    contract = read_json(tmp_path / "contract.json")
    assert list(contract["formats"]) == [contract["default_format"]] == ["torchscript"]
    found = read_json(tmp_path / "metadata.json")["formats"]
    assert found["broken"] == {"status": "failed", "error": "RuntimeError: no kernel"}


OPENS = "from plumbline.export.runtime.format_torchscript import open_graph as open_graph\n"
"""A reader for this process; a bundle without the format that it imports cannot have it."""


def test_a_format_may_be_called_like_a_folder_of_the_bundle(
    source_of: SourceOf, register: Callable[..., None], tmp_path: Path
) -> None:
    """A model that came from a checkpoint has a folder `pretrained` beside its weights."""
    reader = Path(str(format_torchscript.__file__)).read_text(encoding="utf-8")
    register("pretrained", "copy", reader.replace("from .", "from plumbline.export.runtime."))
    out = tmp_path / "out"
    (out / "pretrained").mkdir(parents=True)
    (out / "pretrained/config.json").write_text("{}", encoding="utf-8")
    write_bundle(source_of("features"), settings_of("features", formats=["pretrained"]), out)
    assert (out / "pretrained/config.json").is_file()
    formats = read_json(out / "metadata.json")["formats"]
    assert formats["pretrained"]["status"] == "ok"


def test_two_formats_do_not_write_one_file(
    source_of: SourceOf, tmp_path: Path, register: Callable[..., None]
) -> None:
    register("again", "copy", OPENS)
    formats = ["torchscript", "again"]
    out = tmp_path / "out"
    out.mkdir()
    write_bundle(source_of("regression"), settings_of("regression", formats=formats), out)
    found = read_json(out / "metadata.json")["formats"]
    assert found["torchscript"]["status"] == "ok"
    said = "ExportError: model.torchscript.pt: the bundle has another file of the name"
    assert found["again"] == {"status": "failed", "error": said}
    assert (out / "model.torchscript.pt").is_file()


@pytest.mark.parametrize("module", ["plumbline.files", "plumbline.data.images"])
def test_a_reader_imports_what_its_bundle_has(
    source_of: SourceOf, tmp_path: Path, register: Callable[..., None], module: str
) -> None:
    register("eager", "copy", f"from {module} import __doc__\n{OPENS}")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ExportError, match=rf"imports {module}, which the bundle does not have"):
        write_bundle(source_of("regression"), settings_of("regression", formats=["eager"]), out)


@pytest.fixture
def copy(bundle_of: BundleOf, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_of("regression"), tmp_path / "copy"))


def rename_format(bundle: Path, name: str) -> None:
    """Call the default format otherwise, with digests that fit."""
    contract = read_json(bundle / "contract.json")
    contract["formats"] = {name: contract["formats"]["onnx"]}
    contract["default_format"] = name
    (bundle / "contract.json").write_text(dump_json(contract), encoding="utf-8")
    write_digests(bundle)


SCRIPTS = (("inference.py", "--selftest"), ("server.py", "--port", "0"))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("task", "runtime/format_task.py: not listed in digests.json, so it is not loaded"),
        ("torchscrip", "runtime/format_torchscrip.py: not listed in digests.json"),
        ("onnx.os", "'onnx.os' is no name of a format"),
        ("../../evil", "'../../evil' is no name of a format"),
        ("x/../../evil", "'x/../../evil' is no name of a format"),
        ("\x1b[2J\n", r"'\x1b[2J\n' is no name of a format"),
        ("onnx\u200b", r"'onnx\u200b' is no name of a format"),
        ("%s%", "'%s%' is no name of a format"),
    ],
)
def test_a_format_that_a_contract_makes_up_imports_nothing(
    copy: Path, script: tuple[str, ...], name: str, message: str
) -> None:
    for folder in (copy, copy.parent):  # where the names would lead
        (folder / "evil.py").write_text(f"open({str(copy / 'trace')!r}, 'w')", encoding="utf-8")
    rename_format(copy, name)
    assert message in refused(copy, *script)
    assert not (copy / "trace").exists()


def test_a_format_whose_reader_is_missing_is_one_line(copy: Path) -> None:
    (copy / "runtime/format_onnx.py").unlink()
    said = refused(copy, "inference.py", "--selftest")
    assert said.startswith("error: runtime/format_onnx.py: ")
    write_digests(copy)
    said = refused(copy, "inference.py", "--selftest")
    assert said.startswith("error: runtime/format_onnx.py: not listed in digests.json")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_format_that_is_not_there_is_told_which_are(
    bundle_of: BundleOf, script: tuple[str, ...]
) -> None:
    said = refused(bundle_of("regression"), *script, "--format", "onx")
    assert said == "error: format onx: not in this bundle (onnx, torchscript)\n"


def test_the_help_names_the_formats_of_the_contract(copy: Path) -> None:
    done = run(copy, "inference.py", "--help")
    assert "onnx, torchscript" in done.stdout
    rename_format(copy, "%(prog)d\x1b")
    done = run(copy, "inference.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"%(prog)d\x1b" in done.stdout
