"""Every kind of task as a bundle: agreement, the script without PyTorch, what it refuses."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from plumbline.errors import ExportError
from plumbline.export.bundle import write_bundle
from plumbline.export.config import ExportConfig
from plumbline.export.plan import BundlePlan, BundleSource
from plumbline.export.runtime.files import InputError
from plumbline.files import dump_json, read_json, verify_digests, write_digests
from plumbline.models.encoder_config import NgramEncoderConfig
from tests.export.conftest import settings_of
from tests.export.opening import model_of
from tests.export.test_inference import run
from tests.tiny import CASES, RATE

BundleOf = Callable[..., Path]
SourceOf = Callable[[str], BundleSource]

BOTH_FORMATS = [
    "image",
    "gray",
    "audio",
    "text",
    "regression",
    "causal_lm_stream",
    "masked_lm_rows",
    "seq2seq",
    "vlm_turns",
]
"""One case of every kind and modality."""
TRACED = ["causal_lm_rows", "causal_lm_answers", "masked_lm_stream", "features", "text_words"]
"""Other forms of the same kinds, in the format that is made in no time."""
CASES_AND_FORMATS = [(name, ()) for name in BOTH_FORMATS] + [
    (name, ("torchscript",)) for name in TRACED
]

PACKAGES = {
    "image": ["numpy", "onnxruntime", "pillow"],
    "audio": ["numpy", "onnxruntime", "soundfile", "soxr"],
    "regression": ["numpy", "onnxruntime"],
    "text": ["numpy", "onnxruntime", "tokenizers"],
    "seq2seq": ["numpy", "onnxruntime", "tokenizers"],
    "vlm_turns": ["jinja2", "numpy", "onnxruntime", "pillow", "tokenizers"],
}


@pytest.mark.parametrize(("name", "formats"), CASES_AND_FORMATS)
def test_every_format_agrees_with_the_checkpoint(
    bundle_of: BundleOf, name: str, formats: tuple[str, ...]
) -> None:
    found = read_json(bundle_of(name, *formats) / "metadata.json")["formats"]
    assert set(found) == set(formats or ("onnx", "torchscript"))
    for result in found.values():
        assert result["status"] == "ok", result
        parity = result["parity"]
        assert 5 < parity["samples"] <= 9
        assert parity["max_logits_difference"] < 1e-4
        assert parity["max_input_difference"] < 1e-4
        assert [v for key, v in parity.items() if key.endswith("_agreement")] == [1.0]
        others = [v for key, v in parity.items() if key.endswith("_difference")]
        assert max(others) < 1e-3


@pytest.mark.parametrize("name", BOTH_FORMATS)
def test_the_selftest_passes_without_torch(bundle_of: BundleOf, name: str) -> None:
    result = json.loads(run(bundle_of(name), "--selftest"))
    turns = {"image": 9, "gray": 9, "audio": 3, "vlm_turns": 9}.get(name, 0)
    assert result == {"selftest": "ok", "format": "onnx", "answers": 2, "preprocessing": turns}


def test_the_python_of_a_readme_runs_and_leaves_no_trace(bundle_of: BundleOf) -> None:
    bundle = bundle_of("audio")
    python = re.findall(
        r"```python\n(.*?)```", (bundle / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )[0]
    command = [sys.executable, "-B", "-c", python]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("{'heads': {'digit': {'class': ")
    assert set(verify_digests(bundle)) == {
        path.relative_to(bundle).as_posix()
        for path in bundle.rglob("*")
        if path.is_file() and path.name != "digests.json"
    }


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_requirements_are_what_the_kind_needs(bundle_of: BundleOf, name: str) -> None:
    lines = (bundle_of(name) / "requirements.txt").read_text(encoding="utf-8").split()
    assert [line.split("==")[0] for line in lines] == PACKAGES[name]


def test_a_class_comes_with_confidence_and_probabilities_for_every_head(
    bundle_of: BundleOf,
) -> None:
    bundle = bundle_of("audio")
    clip = (bundle / "selftest/0.wav").read_bytes()
    answers = [model_of(bundle, format=f).predict({"audio": clip}) for f in ("onnx", "torchscript")]
    assert set(answers[0]["heads"]) == {"digit", "speaker"}
    for head, answer in answers[0]["heads"].items():
        probabilities = answer["probabilities"]
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert answer["class"] == max(probabilities, key=probabilities.__getitem__)
        assert answer["confidence"] == probabilities[answer["class"]]
        assert answers[1]["heads"][head]["class"] == answer["class"]


def test_names_stand_in_the_contract_alone(bundle_of: BundleOf) -> None:
    bundle = bundle_of("audio")
    assert read_json(bundle / "contract.json")["heads"]["speaker"]["classes"] == [
        "jackson",
        "nicolas",
    ]
    for path in [*bundle.rglob("*.py"), bundle / "README.md", bundle / "Dockerfile"]:
        assert "nicolas" not in path.read_text(encoding="utf-8")


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def wav(seconds: float) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(int(seconds * RATE)), RATE, format="WAV")
    return buffer.getvalue()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("image", {"image": b"no image"}, "image: cannot be decoded"),
    ("image", {}, "image: missing"),
    ("image", {"image": "text"}, "image: not of type file"),
    ("image", {"image": b"", "label": "x"}, "label: no such field; there is image"),
    ("audio", {"audio": b"no clip"}, "audio: cannot be decoded"),
    ("audio", {"audio": wav(61)}, "audio: WAV of 61.000 s, allowed are 60 s"),
    ("audio", {"audio": wav(2)}, "audio: 400 steps, the model takes 64"),
    (
        "regression",
        {"features": b"no array"},
        "features: cannot be decoded .not the bytes of an .npy file",
    ),
    ("regression", {"features": npy(np.zeros((4, 2)))}, r"features: shape \[4, 2\], expected"),
    ("regression", {"features": npy(np.zeros((99, 3)))}, "features: 99 steps, the model takes 64"),
    (
        "regression",
        {"features": npy(np.full((4, 3), np.nan))},
        "features: cannot be decoded .NaN or infinity, first at step 0",
    ),
    ("regression", {"features": npy(np.zeros((4, 3)))[:-8]}, "cut off: 12 numbers in 88 bytes"),
    (
        "regression",
        {"features": npy(np.array([["a"] * 3]))},
        "features: cannot be decoded .not an array of numbers",
    ),
    ("text", {"text": "x" * 10_001}, "text: longer than 10000 characters"),
    ("text", {"text": "\ud800"}, "text: holds half of a surrogate pair"),
    ("causal_lm_stream", {"prompt": ""}, "prompt: has no token to go on from"),
    ("causal_lm_stream", {"prompt": "to", "temperature": -1}, "temperature: -1 is outside 0 to"),
    ("causal_lm_stream", {"prompt": "to", "temperature": 1e-9}, "temperature: below 0.001"),
    ("causal_lm_stream", {"prompt": "to", "temperature": float("nan")}, "no finite number"),
    ("causal_lm_stream", {"prompt": "to", "top_p": 0}, "top_p: 0 is outside"),
    ("causal_lm_stream", {"prompt": "to", "top_k": True}, "top_k: not of type integer"),
    ("causal_lm_stream", {"prompt": "to", "stop": [3]}, "stop: not a list of texts"),
    ("causal_lm_stream", {"prompt": "to", "max_new_tokens": 10**9}, "max_new_tokens: 1e[+]09 is"),
    ("masked_lm_rows", {"text": "to be"}, "text: has no <mask> to fill"),
    ("masked_lm_rows", {"text": "<mask> " * 40}, "text: .* tokens, the model takes 40"),
    ("masked_lm_rows", {"text": "<mask>", "candidates": 0}, "candidates: 0 is outside 1 to 1000"),
    ("seq2seq", {"source": " "}, "source: empty"),
    ("seq2seq", {"source": "to", "beams": 100}, "beams: 100 is outside 1 to 64"),
]


@pytest.mark.parametrize(("name", "request_", "message"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(
    bundle_of: BundleOf, name: str, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        model_of(bundle_of(name)).predict(request_)
    assert "\n" not in str(refused.value)


def test_a_refusal_is_one_line_on_the_command_line_too(bundle_of: BundleOf) -> None:
    assert run(bundle_of("regression"), code=1) == "error: features: missing"
    assert "No such file" in run(bundle_of("audio"), "--audio", "none.wav", code=1)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_changed_statistic_of_features_fails_the_selftest(
    bundle_of: BundleOf, tmp_path: Path, key: str
) -> None:
    copy = Path(shutil.copytree(bundle_of("regression"), tmp_path / "copy"))
    contract = read_json(copy / "contract.json")
    contract["input"][key][0] *= 1.001
    (copy / "contract.json").write_text(dump_json(contract), encoding="utf-8")
    write_digests(copy)
    assert "preprocessing gives other inputs" in run(copy, "--selftest", code=1)


@pytest.mark.parametrize(
    ("key", "value"), [("hop_ms", 6.0), ("scale", "log"), ("edges", "zero"), ("window_ms", 15.0)]
)
def test_a_changed_setting_of_spectrograms_fails_the_selftest(
    bundle_of: BundleOf, tmp_path: Path, key: str, value: object
) -> None:
    copy = Path(shutil.copytree(bundle_of("audio"), tmp_path / "copy"))
    contract = read_json(copy / "contract.json")
    contract["input"][key] = value
    (copy / "contract.json").write_text(dump_json(contract), encoding="utf-8")
    write_digests(copy)
    assert "preprocessing gives other inputs" in run(copy, "--selftest", code=1)


def test_a_model_of_raw_texts_has_weights_alone(source_of: SourceOf, tmp_path: Path) -> None:
    known = source_of("text")
    encoder = NgramEncoderConfig(name="ngrams", width=16, buckets=97)
    model = known.stored.spec.model.model_copy(update={"encoder": encoder})
    spec = known.stored.spec.model_copy(update={"model": model})
    stored = replace(known.stored, spec=spec, model=spec.build({}))
    source = replace(known, stored=stored)
    with pytest.raises(ExportError, match=r"ngrams: reads raw texts.* set export.formats: \[\]"):
        write_bundle(source, settings_of("text"), tmp_path)
    write_bundle(source, settings_of("text", formats=[]), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"model.safetensors", "model.json", "tokenizer.json"}


@pytest.mark.parametrize("name", ["features", "causal_lm_rows", "seq2seq"])
def test_no_formats_give_the_weights_alone(source_of: SourceOf, tmp_path: Path, name: str) -> None:
    write_bundle(source_of(name), settings_of(name, formats=[]), tmp_path)
    assert not {path.suffix for path in tmp_path.iterdir()} & {".onnx", ".pt", ".py"}
    assert (tmp_path / "model.safetensors").is_file()


def test_a_split_that_is_not_there_is_one_line(source_of: SourceOf, tmp_path: Path) -> None:
    source = source_of("causal_lm_stream")
    rows = source.cache.facts["rows"]
    kept = rows.pop("test")
    try:
        with pytest.raises(
            ExportError, match=r"^export.split = 'test': the dataset has only train"
        ):
            write_bundle(source, settings_of("causal_lm_stream"), tmp_path)
    finally:
        rows["test"] = kept


@pytest.mark.parametrize("name", ["image", "regression", "masked_lm_rows", "seq2seq"])
def test_other_weights_are_found_out(bundle_of: BundleOf, source_of: SourceOf, name: str) -> None:
    from plumbline.kind import KINDS

    source = source_of(name)
    with torch.no_grad():
        for parameter in source.stored.model.parameters():
            parameter.mul_(1.2)
    plan = KINDS[CASES[name].kind].role("export").PLAN(source, settings_of(name))
    parity = plan.measure(model_of(bundle_of(name)))
    assert parity.max_logits_difference > 0.001
    assert parity.max_input_difference < 1e-4


@pytest.mark.parametrize("name", ["image", "seq2seq"])
def test_the_stage_exports_every_kind(
    folder_of: Callable[[str], Path],
    caches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    from plumbline.stages.export_model import main

    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder_of(name), "models/tasks/any")
    shutil.copytree(caches(case.data).folder, f"work/cache/{case.data}")
    export = settings_of(name, formats=["torchscript"]).model_dump(mode="json")
    task = {"kind": case.kind, "data": case.data, "export": export}
    Path("params.yaml").write_text(
        dump_json({"threads": 1, "tasks": {"any": task}}), encoding="utf-8"
    )
    main(["any"])
    assert read_json(Path("exports/any/contract.json"))["task"] == case.kind


def test_the_settings_in_conf_are_those_of_the_classes() -> None:
    from plumbline.kind import known_kinds

    folder = Path(__file__).parents[2] / "conf/export"
    base = yaml.safe_load((folder / "default.yaml").read_text(encoding="utf-8"))
    for kind, entry in known_kinds().items():
        schema = entry.settings.export
        assert schema is not None
        file = folder / f"{kind}.yaml"
        values = base | (yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {})
        values.pop("defaults", None)
        assert schema.model_validate(values) == schema()
        assert values.keys() == schema.model_fields.keys()


class Weights(BundlePlan[ExportConfig]):
    """A kind without graphs."""

    def contract(self) -> dict[str, Any]:
        return {"task": "regression"}


def test_a_kind_without_graphs_exports_its_weights_alone(
    source_of: SourceOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plumbline.kinds.regression.export.PLAN", Weights)
    said = "kind regression have no graphs: set export.formats to"
    with pytest.raises(ExportError, match=said):
        write_bundle(source_of("regression"), settings_of("regression"), tmp_path)
    write_bundle(source_of("regression"), settings_of("regression", formats=[]), tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert read_json(tmp_path / "contract.json")["formats"] == {}
