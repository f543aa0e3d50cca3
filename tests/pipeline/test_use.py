"""Using what the smoke run left: predict, the bundle, gc, settings from the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.pipeline.checkout import STAGES, Checkout


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "x.png"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(path)
    return path


def test_predict_answers_from_the_model_and_names_the_device(
    reproduced: Checkout, picture: Path
) -> None:
    asked = ("--image", str(picture), "--question", "how many objects are there?")
    first = reproduced.run("python", "-m", "plumbline", "predict", "vqa", *asked).stdout
    answer = json.loads(first)
    assert answer["prompt"] == "how many objects are there?"
    assert answer["device"]
    assert reproduced.run("python", "-m", "plumbline", "predict", "vqa", *asked).stdout == first


def test_predict_and_the_bundle_give_the_same_answer(reproduced: Checkout, picture: Path) -> None:
    ask = ["--image", str(picture), "--question", "what color is the circle?"]
    ours = json.loads(reproduced.run("python", "-m", "plumbline", "predict", "vqa", *ask).stdout)
    bundle = [sys.executable, "-I", str(reproduced.folder / "exports/vqa/inference.py"), *ask]
    done = subprocess.run(bundle, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["answer"] == ours["answer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--image", "x.png"], "models/tasks/nothing: no model there"),
        (["vqa", "--image", "absent.png"], "absent.png: No such file"),
        (["vqa", "--image", "dvc.yaml"], "dvc.yaml: no image that can be decoded"),
    ],
)
def test_predict_refuses_in_one_line(
    reproduced: Checkout, arguments: list[str], message: str
) -> None:
    done = reproduced.run("python", "-m", "plumbline", "predict", *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        (
            "finetune vqa",
            "tasks.vqa.train.trainer.optim.lrr=1",
            "did you mean tasks.vqa.train.trainer.optim.lr?",
        ),
        ("finetune vqa", "tasks.vqa.train.trainer.epochs=three", "tasks.vqa.train.trainer.epochs"),
        ("finetune vqa", "tasks.vqa.train.trainer.optim.lr=-1", "greater than 0"),
        ("finetune other", "seed=1", "tasks.other.kind: not there; tasks holds vqa"),
        (
            "pretrain_alignment image",
            "align.image.train.trainer.schedule.warmup_steps=9",
            "warmup_steps 9 and warmup_share",
        ),
        ("pretrain_alignment image", "align.image.train.task.widths=[64]", "larger than"),
        ("finetune vqa", "tasks.vqa.start=models/nothing", "models/nothing"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_and_nothing_is_lost(
    reproduced: Checkout, stage: str, override: str, message: str
) -> None:
    before = (reproduced.folder / "models/tasks/vqa/digests.json").read_bytes()
    command = ["python", "-m", *f"stages.{stage}".split(), override]
    done = reproduced.run(*command, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert (reproduced.folder / "models/tasks/vqa/digests.json").read_bytes() == before


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_prints_its_settings(reproduced: Checkout, stage: str) -> None:
    done = reproduced.run("python", "-m", *f"stages.{stage}".split(), "--cfg", "job")
    assert "${" not in done.stdout
    assert ":" in done.stdout


def test_a_damaged_cache_is_refused_and_named(reproduced: Checkout, tmp_path: Path) -> None:
    images = reproduced.folder / "work/cache/scenes/images.bin"
    kept = tmp_path / "images.bin"
    shutil.copy(images, kept)
    data = bytearray(images.read_bytes())
    data[1000] ^= 1
    images.chmod(0o644)
    images.write_bytes(data)
    try:
        done = reproduced.run("python", "-m", "stages.evaluate_model", "vqa", check=False)
        assert done.returncode == 1
        assert "work/cache/scenes/images.bin: its bytes changed" in done.stderr
    finally:
        shutil.copy(kept, images)


def test_gc_lists_without_removing_and_removes_when_told(own: Checkout) -> None:
    features = own.folder / ".plumbline/features"
    listed = own.run("python", "-m", "plumbline", "gc").stdout
    assert "plumbline gc --yes" in listed
    assert list(features.glob("*"))
    own.run("python", "-m", "plumbline", "gc", "--yes")
    assert not [path for path in features.glob("*") if path.is_dir()]
    assert own.stages_run("dvc", "repro") == []
