"""DeepSpeed makes the steps of the exact core within its tolerance, and its trainings go on."""

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import ConfigError
from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.files import read_json, staged_folder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.models.weights import read_tensors
from plumbline.training.deepspeed_engine import TOLERANCE
from plumbline.training.processes import Processes
from tests.export.conftest import settings_of
from tests.tiny import CASES
from tests.training.together import MakeJob, Together, ended, settings, states, train

deepspeed = pytest.importorskip("deepspeed", reason="extra deepspeed is not installed")

pytestmark = pytest.mark.slow

Caches = Callable[[str], TrainingCache]

KINDS = ["vlm", "causal_lm_rows", "image"]
WAYS = [(2, False), (2, True), (3, False), (3, True)]


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> None:
    """What takes long to import, before the processes are forked."""
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401


def asked(stage: int, offload: bool, **trainer: Any) -> Any:
    engine = {"name": "deepspeed", "stage": stage, "offload": offload}
    return settings(processes=2, engine=engine, **trainer)


def steps(folder: str) -> list[dict[str, float]]:
    """What was written of each step."""
    with (Path(folder) / "train.csv").open(encoding="utf-8", newline="") as file:
        return [{name: float(row[name]) for name in row} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("stage", "offload"), WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_a_training_ends_as_that_of_the_exact_core(
    make_job: MakeJob,
    together: Together,
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    stage: int,
    offload: bool,
) -> None:
    """With accumulation, clipping, an uneven last batch, best weights and a model to export."""
    monkeypatch.chdir(tmp_path)
    train(make_job(name), settings(max_grad_norm=0.1), Path("one"), Processes())
    job = make_job(name)
    run = asked(stage, offload, max_grad_norm=0.1)
    assert together(lambda p: train(job, run, Path("two"), p)) == ["led", "followed"]
    one, two = (read_json(Path(folder) / "metrics.json") for folder in ("one", "two"))
    # The norm before clipping too: Adam's steps are the same for gradients of any scale.
    for exact, found in zip(steps("one"), steps("two"), strict=True):
        assert found["loss"] == pytest.approx(exact["loss"], rel=TOLERANCE)
        assert found["grad_norm"] == pytest.approx(exact["grad_norm"], rel=1e-4)
    for figure in ("optimizer_steps", "samples", "targets", "parameters"):
        assert two[figure] == one[figure]
    assert two["final_train_loss"] == pytest.approx(one["final_train_loss"], rel=TOLERANCE)
    assert two["best"]["value"] == pytest.approx(one["best"]["value"], rel=TOLERANCE)
    expected, found = (read_tensors(Path(f) / "model.safetensors") for f in ("one", "two"))
    assert found.keys() == expected.keys()
    for weight, tensor in expected.items():
        rows = torch.ones(len(tensor), dtype=torch.bool)
        if weight.endswith("in_proj_bias"):  # that of keys has no gradient but rounding
            rows[len(tensor) // 3 : 2 * len(tensor) // 3] = False
        torch.testing.assert_close(found[weight][rows], tensor[rows], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("stage", "offload"), WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_a_training_that_was_stopped_goes_on_to_the_same_losses(
    make_job: MakeJob,
    together: Together,
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    stage: int,
    offload: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = asked(stage, offload, epochs=3)
    whole = make_job(name)
    together(lambda p: train(whole, run, Path("whole"), p))
    parted = make_job(name)
    ends = together(lambda p: ended(parted, run, p, 6, signal.SIGTERM))
    assert [end.code for end in ends] == [143, 143]
    assert len(states(Path(".ckpt"))) == 1
    again = make_job(name)
    assert together(lambda p: train(again, run, Path("parted"), p)) == ["led", "followed"]
    assert_equal_trainings("whole", "parted")


def assert_equal_trainings(*folders: str) -> None:
    """Of one that was never stopped, and one that was: within what DeepSpeed's sums differ by."""
    one, two = (read_json(Path(folder) / "metrics.json") for folder in folders)
    assert two["optimizer_steps"] == one["optimizer_steps"]
    assert two["final_train_loss"] == pytest.approx(one["final_train_loss"], rel=1e-5)
    expected, found = (read_tensors(Path(f) / "model.safetensors") for f in folders)
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("stage", "offload"), [(2, False), (3, False), (3, True)])
@pytest.mark.parametrize("name", KINDS)
def test_a_training_of_which_a_process_was_killed_goes_on_to_the_same_losses(
    make_job: MakeJob,
    together: Together,
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    stage: int,
    offload: bool,
) -> None:
    """From the last whole state: nobody had the time to save another."""
    monkeypatch.chdir(tmp_path)
    run = asked(stage, offload, epochs=3, checkpoint={"every_steps": 1})
    whole = make_job(name)
    assert together(lambda p: train(whole, run, Path("whole"), p)) == ["led", "followed"]
    parted = make_job(name)
    main, died = together(lambda p: ended(parted, run, p, 8, signal.SIGKILL))
    assert died is None, (main, died)
    assert "another process of this training is gone" in str(main)
    assert states(Path(".ckpt"))
    assert not Path("parted").exists()
    again = make_job(name)
    assert together(lambda p: train(again, run, Path("parted"), p)) == ["led", "followed"]
    assert_equal_trainings("whole", "parted")


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", KINDS)
def test_what_was_trained_is_exported_and_agrees_with_its_checkpoint(
    make_job: MakeJob,
    together: Together,
    caches: Caches,
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    stage: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_job(name)
    together(lambda p: train(job, asked(stage, False), Path("model"), p))
    # In a process of its own: an exporter leaves threads, and with them none can be forked.
    (formats,) = together(lambda p: bundled(name, caches(CASES[name].data)), count=1)
    assert set(formats) == {"onnx", "torchscript"}
    for found in formats.values():
        assert found["status"] == "ok", found
        assert found["parity"]["samples"] > 5
        assert found["parity"]["max_logits_difference"] < 1e-4
        assert {v for k, v in found["parity"].items() if k.endswith("_agreement")} == {1.0}


def bundled(name: str, cache: TrainingCache) -> Any:
    """Make the bundle of the folder `model`; what it says of its formats."""
    source = BundleSource(load_model(Path("model")), cache, {}, threads=1)
    with staged_folder(Path("bundle")) as partial:
        write_bundle(source, settings_of(name, formats=["onnx", "torchscript"]), partial)
    return read_json(Path("bundle/metadata.json"))["formats"]


def test_a_task_that_compares_samples_is_refused(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_job("align_image")
    main, _ = together(lambda p: train(job, asked(2, False), Path("out"), p))
    assert isinstance(main, ConfigError)
    assert "deepspeed" in str(main)
    assert "set trainer.engine.name to own" in str(main)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_process_alone_trains_with_its_state_on_the_host(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any, stage: int
) -> None:
    monkeypatch.chdir(tmp_path)
    train(make_job("image"), settings(), Path("one"), Processes())
    job, engine = make_job("image"), {"name": "deepspeed", "stage": stage, "offload": True}
    run = settings(engine=engine)
    assert together(lambda p: train(job, run, Path("two"), p), count=1) == ["led"]
    one, two = (read_json(Path(folder) / "metrics.json") for folder in ("one", "two"))
    assert two["final_train_loss"] == pytest.approx(one["final_train_loss"], rel=TOLERANCE)
