"""The bundle's script where there is no plumbline and no PyTorch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plumbline.export.plan import BundleSource
from plumbline.files import dump_json, read_json, write_digests
from plumbline.kinds.vlm.features import encode_images
from plumbline.kinds.vlm.generation import generate_answers

WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "torchvision", "transformers", "onnx", "safetensors", "plumbline"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(bundle: Path, *arguments: str, code: int = 0) -> str:
    """Run inference.py in the bundle; the last line that it prints, whichever way it ends."""
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH, "inference.py", *arguments]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    lines = (done.stderr if code else done.stdout).splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_the_selftest_passes_without_torch(bundle: Path) -> None:
    result = json.loads(run(bundle, "--selftest"))
    assert result == {"selftest": "ok", "format": "onnx", "answers": 3, "preprocessing": 9}


def test_answers_are_those_of_the_checkpoint(bundle: Path, source: BundleSource) -> None:
    spec, cache = source.stored.spec, source.cache
    expected = read_json(bundle / "selftest/selftest.json")["answers"]
    requests = bundle.parent / "requests.jsonl"
    asked = [e["request"] | {"image": str(bundle / e["request"]["image"])} for e in expected]
    requests.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH, "inference.py", "--batch", str(requests)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for entry, result in zip(expected, results, strict=True):
        assert result["answer"] == entry["answer"]["answer"]
        assert result["confidence"] == pytest.approx(entry["answer"]["confidence"], abs=1e-4)
        assert result["finish"] in ("end", "length")
    question = expected[0]["request"]["question"]
    ids = source.stored.text.encode(question, add_special_tokens=False).ids
    image = cache.by_medium("test", "image")[0].number
    features = encode_images(
        source.stored.model.image_encoder,
        cache.images[[image]],
        spec.normalization,
        16,
        torch.device("cpu"),
    )
    answer = generate_answers(
        source.stored.model,
        features,
        [0],
        [ids],
        bos=spec.special_ids.bos,
        eos=spec.special_ids.eos,
        max_new_tokens=12,
    )[0]
    assert results[0]["answer"] == source.stored.text.decode(answer)


def test_describing_is_what_happens_without_a_question(bundle: Path) -> None:
    described = json.loads(run(bundle, "--image", "selftest/0.png", "--describe"))
    assert described == json.loads(run(bundle, "--image", "selftest/0.png"))


def test_the_other_format_gives_the_same_answers(bundle: Path) -> None:
    command = [sys.executable, "-I", "inference.py", "--selftest", "--format", "torchscript"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["format"] == "torchscript"
    assert "needs torch" in run(bundle, "--selftest", "--format", "torchscript", code=1)


@pytest.mark.parametrize(
    "name",
    ["contract.json", "decoder.onnx", "tokenizer.json", "selftest/0.png", "runtime/model.py"],
)
def test_a_file_that_was_altered_is_found_out(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if name.endswith(".py"):
        (copy / name).write_bytes(content + b"# more\n")
    line = run(copy, "--selftest", code=1)
    assert line == f"error: {name}: its bytes changed after export (SHA-256 differs)"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("input", "mean", [0.485, 0.456, 0.407], "preprocessing gives other inputs"),
        ("input", "std", [0.229, 0.224, 0.2251], "preprocessing gives other inputs"),
        ("input", "resize", "bilinear", "preprocessing gives other inputs"),
        ("text", "max_new_tokens", 1, "answered"),
    ],
)
def test_a_changed_contract_fails_the_selftest_even_with_new_digests(
    copy: Path, section: str, key: str, value: object, message: str
) -> None:
    contract = read_json(copy / "contract.json")
    contract[section][key] = value
    (copy / "contract.json").write_text(dump_json(contract), encoding="utf-8")
    write_digests(copy)
    assert message in run(copy, "--selftest", code=1)


def test_what_cannot_be_used_is_one_line(bundle: Path, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    ask = ("--question", "what?")
    assert run(bundle, "--image", str(tmp_path / "text.png"), *ask, code=1).startswith(
        "error: image: cannot be decoded"
    )
    assert "No such file" in run(bundle, "--image", str(tmp_path / "none.png"), *ask, code=1)
    picture = ("--image", "selftest/0.png")
    assert "question: empty" in run(bundle, *picture, "--question", " ", code=1)
    assert "not together with" in run(bundle, *picture, *ask, "--describe", code=1)
    assert run(bundle, code=1) == "error: image: missing"
    (copy / "digests.json").unlink()
    assert run(copy, "--selftest", code=1).startswith("error: digests.json: not readable")


def test_a_line_of_a_batch_that_fails_does_not_stop_the_others(
    bundle: Path, tmp_path: Path
) -> None:
    requests = tmp_path / "requests.jsonl"
    good = json.dumps({"image": str(bundle / "selftest/0.png"), "question": "what?"})
    requests.write_text(
        f'{{"image": "none.png"}}\nnot json\n[]\n{{"image": 3}}\n{good}\n', encoding="utf-8"
    )
    command = [sys.executable, "-I", "inference.py", "--batch", str(requests)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert ["error" in result for result in results] == [True, True, True, True, False]
    assert not done.stderr
