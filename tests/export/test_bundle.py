import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import ExportError
from plumbline.export import onnx_writer
from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.export.provenance import dvc_md5
from plumbline.files import (
    dump_json,
    read_digests,
    read_json,
    sha256_file,
    verify_digests,
    write_digests,
)
from plumbline.kinds.vlm.export import VlmPlan
from plumbline.kinds.vlm.settings import VlmExportConfig
from plumbline.report.collect import collect_export
from tests.export.opening import model_of

ROOT = Path(__file__).parents[2]
SMALL = {"max_new_tokens": 4, "parity_samples": 4, "selftest_samples": 1}


def test_a_bundle_holds_what_is_needed_to_run_it(bundle: Path) -> None:
    names = set(verify_digests(bundle))
    assert names >= {
        "Dockerfile",
        "README.md",
        "contract.json",
        "decoder.onnx",
        "decoder.torchscript.pt",
        "inference.py",
        "metadata.json",
        "model.json",
        "model.safetensors",
        "requirements.txt",
        "runtime/__init__.py",
        "runtime/images.py",
        "runtime/language.py",
        "runtime/page.html",
        "runtime/task.py",
        "selftest/0.png",
        "selftest/selftest.json",
        "server.json",
        "server.py",
        "tokenizer.json",
        "training.json",
        "vision.onnx",
        "vision.torchscript.pt",
    }


def test_whoever_may_read_one_file_may_read_them_all(bundle: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in bundle.rglob("*") if path.is_file()}
    assert modes == {(bundle / "contract.json").stat().st_mode & 0o777}


KINDS_OF = {"task.py": "vlm", "language.py": "language"}
"""Module of the bundle -> the kind that it is from."""


def test_scripts_are_copied_as_they_are_beside_the_decoders(bundle: Path) -> None:
    core = ROOT / "src/plumbline"
    folders = [core / "export/runtime", core / "data"]
    kinds = {name: core / f"kinds/{kind}/runtime.py" for name, kind in KINDS_OF.items()}
    copies = {path.name: path for path in (bundle / "runtime").iterdir()}
    assert not {"headed.py", "audio.py"} & copies.keys()  # what this kind does not need
    copies |= {name: bundle / name for name in ("inference.py", "server.py", "Dockerfile")}
    for name, path in copies.items():
        places = [kinds[name]] if name in kinds else [folder / name for folder in folders]
        source = next(place for place in places if place.exists())
        expected = source.read_text(encoding="utf-8")
        for module in ("plumbline.data.", "plumbline.export.runtime."):
            expected = expected.replace(f"from {module}", "from .")
        expected = expected.replace("from plumbline.kinds.language.runtime ", "from .language ")
        expected = expected.replace("{{title}}", VlmPlan.readme.title)
        assert path.read_text(encoding="utf-8") == expected


def test_requirements_pin_the_four_packages(bundle: Path) -> None:
    lines = (bundle / "requirements.txt").read_text(encoding="utf-8").split()
    assert [line.split("==")[0] for line in lines] == [
        "numpy",
        "onnxruntime",
        "pillow",
        "tokenizers",
    ]


def test_metadata_says_where_the_model_comes_from_and_what_it_is(
    bundle: Path, vlm_folder: Path
) -> None:
    metadata = read_json(bundle / "metadata.json")
    digests = read_digests(vlm_folder)
    assert metadata["source"]["model"] == digests
    assert read_digests(bundle)["model.safetensors"] == digests["model.safetensors"]
    assert metadata["model"]["image_tokens"] == 4
    assert set(metadata["model"]["parameters"]) == {"image_encoder", "decoder", "projector"}
    onnx = metadata["formats"]["onnx"]["decoder"]
    assert onnx["opset"] == 20
    assert onnx["inputs"]["input_ids"] == ["batch", "seq"]
    assert onnx["inputs"]["past_keys"] == [2, "batch", 2, "past", 8]


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_an_exported_model_agrees_with_its_checkpoint(bundle: Path, name: str) -> None:
    parity = read_json(bundle / "metadata.json")["formats"][name]["parity"]
    assert parity["samples"] == 30
    assert 90 < parity["tokens"] < 360  # some answers end before the limit
    assert parity["max_input_difference"] == 0.0
    assert parity["max_logits_difference"] < 1e-4
    assert parity["token_agreement"] == 1.0
    assert parity["exact_match_difference"] == 0.0


def test_a_bundle_tells_nothing_of_its_machine(bundle: Path, vlm_folder: Path) -> None:
    forbidden = [str(ROOT), str(vlm_folder.parent), sys.prefix, "site-packages", "/somewhere"]
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [text for text in forbidden if text.encode() in content], path.name
    assert read_json(bundle / "training.json")["start"] == "image"


def test_a_bundle_starts_no_telemetry_of_its_runtime(bundle: Path, tmp_path: Path) -> None:
    """The runtime's keeps a session's number where temporary files lie."""
    switches = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI")
    plain = {name: value for name, value in os.environ.items() if name not in switches}
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / "inference.py"), "--selftest"],
        env=plain | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


AGAIN = """
import sys
from pathlib import Path
from plumbline.export.bundle import write_bundle
from plumbline.kinds.vlm.settings import VlmExportConfig
from plumbline.report.collect import collect_export
from plumbline.export.plan import BundleSource
from plumbline.files import read_json, staged_folder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
assert str(Path(sys.argv[1])) in sys.modules["plumbline"].__path__[0]
model, cache, out = (Path(a) for a in sys.argv[2:5])
source = BundleSource(load_model(model), TrainingCache(cache), read_json(model / "config.json"), 1)
with staged_folder(out) as partial:
    write_bundle(source, VlmExportConfig.model_validate_json(sys.argv[5]), partial)
"""


def test_another_checkout_in_another_folder_writes_the_same_bytes(
    bundle: Path, vlm_folder: Path, scenes_cache: Path, config: VlmExportConfig, tmp_path: Path
) -> None:
    checkout = tmp_path / "other" / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", checkout, ignore=ignore)
    out = tmp_path / "elsewhere" / "vqa"
    places = [str(path) for path in (checkout, vlm_folder, scenes_cache, out)]
    subprocess.run(
        [sys.executable, "-c", AGAIN, *places, config.model_dump_json()],
        env={"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PATH": ""},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert read_digests(out) == read_digests(bundle)


def test_a_format_that_fails_is_reported_and_the_others_are_kept(
    source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(spec: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError(f"no kernel in {ROOT}/src/model.py\nand more")

    monkeypatch.setattr(onnx_writer, "write_onnx", fail)
    write_bundle(source, VlmExportConfig(**SMALL), tmp_path)
    write_digests(tmp_path)
    formats = read_json(tmp_path / "metadata.json")["formats"]
    assert formats["onnx"] == {"status": "failed", "error": "RuntimeError: no kernel in model.py"}
    assert formats["torchscript"]["status"] == "ok"
    assert not list(tmp_path.glob("*.onnx"))
    assert model_of(tmp_path).format == "torchscript"


def test_it_is_an_error_when_every_format_fails(
    source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(spec: object, path: Path) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(onnx_writer, "write_onnx", fail)
    with pytest.raises(ExportError, match=r"^no format could be written: onnx: RuntimeError: no"):
        write_bundle(source, VlmExportConfig(formats=["onnx"], **SMALL), tmp_path)


def test_a_model_that_disagrees_is_not_exported(source: BundleSource, tmp_path: Path) -> None:
    config = VlmExportConfig(formats=["torchscript"], max_logits_difference=1e-12, **SMALL)
    with pytest.raises(ExportError, match=r"^torchscript: max_logits_difference is .*, allowed"):
        write_bundle(source, config, tmp_path)


def test_no_formats_give_the_weights_alone(source: BundleSource, tmp_path: Path) -> None:
    write_bundle(source, VlmExportConfig(formats=[]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "contract.json",
        "metadata.json",
        "model.json",
        "model.safetensors",
        "pretrained",
        "tokenizer.json",
        "training.json",
    }


def test_cached_images_of_another_size_are_refused(source: BundleSource, tmp_path: Path) -> None:
    source.cache.facts["image_shape"] = [24, 16, 3]
    with pytest.raises(ExportError, match=r"16 x 16 pixels, .* set tokenize.image_size"):
        write_bundle(source, VlmExportConfig(), tmp_path)


def test_the_stage_writes_a_bundle_where_paths_say(
    vlm_folder: Path, scenes_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plumbline.stages.export_model import main

    monkeypatch.chdir(tmp_path)
    shutil.copytree(vlm_folder, "models/tasks/vqa")
    shutil.copytree(scenes_cache, "work/cache/scenes")
    task = {"kind": "vlm", "data": "scenes", "export": {"formats": []}}
    Path("params.yaml").write_text(
        dump_json({"threads": 1, "tasks": {"vqa": task}}), encoding="utf-8"
    )
    main(["vqa"])
    assert {"config.json", "model.safetensors"} <= set(verify_digests(Path("exports/vqa")))


def test_the_stage_names_the_digests_of_what_it_depends_on_and_nothing_of_the_machine(
    vlm_folder: Path, scenes_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plumbline.stage import settings_text
    from plumbline.stages.export_model import SPEC, main

    # Two clones of one commit, at different times and places.
    made: list[bytes] = []
    for name in ("one", "two"):
        clone = tmp_path / name
        clone.mkdir()
        monkeypatch.chdir(clone)
        shutil.copytree(vlm_folder, "models/tasks/vqa")
        shutil.copytree(scenes_cache, "work/cache/scenes")
        task = {"kind": "vlm", "data": "scenes", "export": {"formats": []}}
        settings = {"threads": 1, "tasks": {"vqa": task}}
        Path("params.yaml").write_text(dump_json(settings), encoding="utf-8")
        inputs = {
            "data": Path("work/cache/scenes"),
            "settings": Path("work/settings/export_model/vqa.json"),
            "code": Path("work/code/export_model/vlm.json"),
            "model": Path("models/tasks/vqa"),
        }
        for part, text in (
            ("settings", settings_text(SPEC, "vqa", settings, [])),
            ("code", dump_json({"files": {}, "libraries": []})),
        ):
            inputs[part].parent.mkdir(parents=True)
            inputs[part].write_text(text, encoding="utf-8")
        main(["vqa"])
        made.append(Path("exports/vqa/metadata.json").read_bytes())
        said = read_json(Path("exports/vqa/metadata.json"))["provenance"]
        assert said == {
            "stage": "export_model@vqa",
            "made_of": {
                part: {
                    "path": path.as_posix(),
                    "md5": dvc_md5(path),
                    "sha256": sha256_file(path / "digests.json" if path.is_dir() else path),
                }
                for part, path in inputs.items()
            },
        }
    assert made[0] == made[1]
    # What is behind the key is in no file, so no digest of one is true of it.
    main(["vqa", "+tasks.vqa.export.split=val"])
    said = read_json(Path("exports/vqa/metadata.json"))["provenance"]
    assert sorted(said["made_of"]) == ["code", "data", "model"]


def test_a_switched_off_export_leaves_its_settings_and_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from plumbline.stages.export_model import main

    monkeypatch.chdir(tmp_path)
    task = {"kind": "vlm", "data": "scenes", "export": {"enabled": False}}
    Path("params.yaml").write_text(
        dump_json({"threads": 1, "tasks": {"vqa": task}}), encoding="utf-8"
    )
    with caplog.at_level(logging.INFO):
        main(["vqa"])
    assert list(verify_digests(Path("exports/vqa"))) == ["config.json"]
    assert "export_model vqa: no bundle (export.enabled is false)" in caplog.text
    assert collect_export("vqa") is None
