"""`plumbline.load`: a bundle as a function, with the answers of its own script."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import plumbline
from plumbline.errors import CheckpointError, ConfigError, DataError
from plumbline.export.runtime.model import agree
from plumbline.files import read_json
from tests.export.test_inference import run

BundleOf = Callable[..., Path]
CASES = ["image", "regression", "text", "seq2seq"]


def stored(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first request of the self-test, files by their paths, and what it is answered."""
    first = read_json(bundle / "selftest/selftest.json")["answers"][0]
    fields = plumbline.load(bundle).fields
    request = {
        name: str(bundle / value) if fields[name] == "file" else value
        for name, value in first["request"].items()
    }
    return request, first["answer"]


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_bundle_answers_as_its_own_script(bundle_of: BundleOf, name: str) -> None:
    bundle = bundle_of(name)
    request, recorded = stored(bundle)
    before = sorted(path.name for path in bundle.rglob("*"))
    answer = plumbline.load(bundle)(request)
    assert agree(recorded, json.loads(json.dumps(answer)), 1e-5)
    flags = [text for key, value in request.items() for text in (f"--{key}", str(value))]
    assert answer == json.loads(run(bundle, *[flag.replace("_", "-") for flag in flags]))
    # A folder __pycache__ would be a stranger to the next one who opens it.
    assert sorted(path.name for path in bundle.rglob("*")) == before
    assert plumbline.load(bundle)(**request) == answer


def test_two_bundles_in_one_process_keep_their_own_code(bundle_of: BundleOf) -> None:
    bundles = [bundle_of(name) for name in CASES]
    loaded = [plumbline.load(bundle) for bundle in bundles]
    for bundle, each in zip(bundles, loaded, strict=True):
        request, recorded = stored(bundle)
        assert agree(recorded, json.loads(json.dumps(each(request))), 1e-5)


def test_a_file_may_be_bytes_a_path_a_picture_or_an_array(bundle_of: BundleOf) -> None:
    bundle = plumbline.load(bundle_of("image"))
    path = Path(stored(bundle.folder)[0]["image"])
    expected = bundle(image=path)
    assert bundle(image=path.read_bytes()) == bundle(image=str(path)) == expected
    assert bundle(image=Image.open(io.BytesIO(path.read_bytes()))) == expected
    features = plumbline.load(bundle_of("features", "torchscript"))
    path = Path(stored(features.folder)[0]["features"])
    assert features(features=np.load(path)) == features(features=path)


def test_what_cannot_be_answered_is_refused_in_one_line(bundle_of: BundleOf) -> None:
    bundle = plumbline.load(bundle_of("text"))
    with pytest.raises(DataError, match=r"^colour: no such field; there is text"):
        bundle(colour="red")
    with pytest.raises(DataError, match=r"^text: missing$"):
        bundle()
    image = plumbline.load(bundle_of("image"))
    with pytest.raises(DataError, match=r"^image: /nowhere\.png: No such file"):
        image(image="/nowhere.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("runtime/model.py", "runtime/model.py: its bytes changed"),
        ("contract.json", "contract.json: its bytes changed"),
        ("runtime/json.py", "runtime/json.py: not listed"),
    ],
)
def test_a_bundle_that_changed_after_export_is_not_loaded(
    bundle_of: BundleOf, tmp_path: Path, spoil: str, said: str
) -> None:
    copy = Path(shutil.copytree(bundle_of("text"), tmp_path / "text"))
    with (copy / spoil).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(CheckpointError, match=said):
        plumbline.load(copy)


def test_a_folder_that_is_no_bundle_says_what_it_is(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="trained model, not exported yet: dvc repro export_mo"):
        plumbline.load(folder_of("text"))
    with pytest.raises(ConfigError, match="no such folder; plumbline run makes exports/<task>"):
        plumbline.load(tmp_path / "vqa")
    with pytest.raises(ConfigError, match=r"no bundle: contract\.json and runtime/ are missing"):
        plumbline.load(tmp_path)
    (tmp_path / "0a/step-3").mkdir(parents=True)
    (tmp_path / "0a/step-3/state.json").touch()
    for folder in (tmp_path, tmp_path / "0a"):
        with pytest.raises(ConfigError, match="state of a training, not a bundle: the call of plu"):
            plumbline.load(folder)


def test_a_format_that_the_bundle_lacks_is_named(bundle_of: BundleOf) -> None:
    with pytest.raises(CheckpointError, match=r"format tflite: not in this bundle \(onnx"):
        plumbline.load(bundle_of("text"), format="tflite")
