"""From a job to a model folder: the same bytes each time, also after a kill."""

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import DamagedInputError
from plumbline.files import read_json, write_digests
from plumbline.kinds.alignment import train as alignment_task
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.kinds.alignment.settings import AlignmentTaskConfig, DualEncoderConfig
from plumbline.kinds.vlm import train as vlm_task
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.projector_config import MlpConfig
from plumbline.models.stored import load_encoder, load_model
from plumbline.training.evaluation import evaluate_loss
from plumbline.training.launch import decide_machine
from plumbline.training.run import train_to_folder
from plumbline.training.task import JobContext, TrainingJob
from tests.training.together import ALONE
from tests.training.together import settings as common_settings

Build = Callable[[], TrainingJob]


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def alignment(scenes_cache: Path) -> Build:
    """A pair with everything random that alignment has: dropout, dropped captions, drawn widths."""
    vit = {
        "name": "vit",
        "image_size": 16,
        "patch_size": 8,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "mlp_width": 16,
        "dropout": 0.2,
    }
    text = {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "mlp_width": 16}
    model = DualEncoderConfig.model_validate(
        {"image_encoder": vit, "text_encoder": text, "embed_dim": 8}
    )
    augment = {"enlarge": 4, "flip": 0.5, "brightness": 0.3}
    settings = {
        "inputs": {"modality": "image", "augment": augment},
        "widths": [4, 8],
        "sample_width": True,
        "text_dropout": 0.3,
    }
    task = AlignmentTaskConfig.model_validate(settings)
    context = JobContext(TrainingCache(scenes_cache), seed=0)
    return lambda: alignment_task.build(context, model, task)


@pytest.fixture
def vlm(scenes_cache: Path, aligned_folder: Path) -> Callable[[list[str]], Build]:
    decoder = DecoderConfig(width=16, layers=1, heads=2, kv_heads=1, mlp_width=16)
    model = VlmConfig(projector=MlpConfig(name="mlp", width=16), decoder=decoder)
    task = VlmTaskConfig(questions_per_image=2)

    def with_frozen(freeze: list[str]) -> Build:
        cache = TrainingCache(scenes_cache)
        context = JobContext(cache, seed=0, start=aligned_folder, freeze=freeze)
        return lambda: vlm_task.build(context, model, task)

    return with_frozen


def fit(build: Build, out: Path, on_log: Any = None, **settings: Any) -> dict[str, Any]:
    """Train what is built into the folder `out`; the facts of the run record."""
    base: dict[str, Any] = {
        "batch_size": 8,
        "grad_accum_steps": 1,
        "checkpoint": {"every_steps": 1},
    }
    config = common_settings(**base | settings)
    machine = decide_machine(config)
    trained = train_to_folder("train@tiny", config, build(), machine, out, on_log=on_log or ignore)
    return dict(trained.facts)


def ignore(step: int, values: Mapping[str, float]) -> None:
    pass


def train(build: Build, name: str, on_log: Any = ignore, **settings: Any) -> dict[str, bytes]:
    out = Path(name)
    out.mkdir()
    fit(build, out, on_log, **settings)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_run_writes_model_history_settings_and_figures(alignment: Build) -> None:
    out = Path("model")
    out.mkdir()
    facts = fit(alignment, out)
    assert {p.name for p in out.iterdir()} == {
        "model.safetensors",
        "model.json",
        "tokenizer.json",
        "config.json",
        "digests.json",
        "metrics.json",
        "train.csv",
        "micro.csv",
        "val.csv",
    }
    assert read_json(out / "config.json")["train"]["loader"]["batch_size"] == 8
    figures = read_json(out / "metrics.json")
    assert (figures["optimizer_steps"], figures["epochs"], figures["samples"]) == (6, 2, 48)
    assert figures["skipped_steps"] == 0
    with (out / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) == figures["final_train_loss"]
    assert figures["best"]["epoch"] in (1, 2)
    assert facts["device"] == "cpu"
    assert facts["precision"] == "fp32"
    assert sum(row["parameters"] for row in facts["parameter_groups"]) == sum(
        part["trained"] for part in figures["parameters"].values()
    )
    assert len(facts["fingerprint"]) == 64
    flops = facts["flops"]
    assert flops["samples"] > 0
    assert 0 < sum(flops["forward"].values()) < sum(flops["step"].values())


def test_the_stored_model_is_the_best_one(alignment: Build) -> None:
    job = alignment()
    Path("model").mkdir()
    fit(lambda: job, Path("model"))
    write_digests(Path("model"))
    stored = load_dual_encoder(Path("model"))
    for name, tensor in job.model.state_dict().items():
        assert torch.equal(stored.model.state_dict()[name], tensor)
    assert job.validation_task is not None
    assert job.validation is not None
    config = LoaderConfig(batch_size=8)
    loader = Loader(job.validation, job.validation_task.collate, config, seed=0, shuffle=False)
    loss = evaluate_loss(stored.model, job.validation_task, loader.batches(0), ALONE)
    best = read_json(Path("model/metrics.json"))["best"]["value"]
    assert loss == pytest.approx(best, rel=1e-6)
    with Path("model/val.csv").open(encoding="utf-8") as file:
        assert best == min(float(row["loss"]) for row in csv.DictReader(file))


def test_a_second_run_writes_the_same_bytes_for_any_number_of_workers(alignment: Build) -> None:
    one, other = train(alignment, "one"), train(alignment, "other", workers=2)
    # The settings, the number of workers among them, and the digests of all files.
    differing = {name for name in one if one[name] != other[name]}
    assert one.keys() == other.keys()
    assert differing == {"config.json", "digests.json"}


def test_training_state_goes_after_success_unless_it_is_kept(alignment: Build) -> None:
    train(alignment, "one")
    states = Path(".ckpt/train@tiny")
    assert [p for p in states.iterdir() if p.is_dir()] == []
    train(alignment, "other", checkpoint={"keep_after_success": True})
    (kept,) = [p for p in states.iterdir() if p.is_dir()]
    assert {"best", "step-6"} <= {p.name for p in kept.iterdir()}


class Killed(Exception):
    """Stands for the death of the process."""


def dying(at: int) -> Any:
    calls = iter(range(1000))

    def on_log(step: int, values: Mapping[str, float]) -> None:
        if next(calls) == at:
            raise Killed

    return on_log


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_killed_alignment_ends_in_the_same_bytes(alignment: Build, at: int) -> None:
    expected = train(alignment, "whole")
    with pytest.raises(Killed):
        train(alignment, "killed", on_log=dying(at))
    assert train(alignment, "resumed") == expected


def test_a_killed_vlm_ends_in_the_same_bytes(vlm: Callable[[list[str]], Build]) -> None:
    build = vlm(["image_encoder"])
    expected = train(build, "whole", freeze=["image_encoder"])
    with pytest.raises(Killed):
        train(build, "killed", on_log=dying(4), freeze=["image_encoder"])
    assert train(build, "resumed", freeze=["image_encoder"]) == expected


def test_a_frozen_encoder_is_stored_as_it_was_aligned(
    vlm: Callable[[list[str]], Build], aligned_folder: Path
) -> None:
    train(vlm(["image_encoder"]), "model", freeze=["image_encoder"])
    write_digests(Path("model"))
    encoder, _, _ = load_encoder(aligned_folder)
    stored = load_model(Path("model")).model.image_encoder.state_dict()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(stored[name], tensor)
    figures = read_json(Path("model/metrics.json"))
    assert figures["frozen_tensors_unchanged"] == len(encoder.state_dict())
    assert figures["parameters"]["image_encoder"]["trained"] == 0
    assert figures["parameters"]["projector"]["trained"] > 0


def test_an_unfrozen_encoder_learns_with_the_rest(
    vlm: Callable[[list[str]], Build], aligned_folder: Path
) -> None:
    train(vlm([]), "model")
    write_digests(Path("model"))
    encoder, _, _ = load_encoder(aligned_folder)
    stored = load_model(Path("model")).model.image_encoder.state_dict()
    moved = [n for n, t in encoder.state_dict().items() if not torch.equal(stored[n], t)]
    assert "vit.conv_proj.weight" in moved
    assert read_json(Path("model/metrics.json"))["parameters"]["image_encoder"]["trained"] > 0


def test_training_makes_the_loss_smaller(vlm: Callable[[list[str]], Build]) -> None:
    train(vlm(["image_encoder"]), "model", freeze=["image_encoder"], epochs=10)
    with Path("model/val.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_skipped_last_step_does_not_lose_the_training(alignment: Build) -> None:
    def with_nan_at_the_end() -> TrainingJob:
        job, calls = alignment(), iter(range(100))

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            found = job.task.loss(model, batch)
            return replace(found, total=found.total * (math.nan if next(calls) == 5 else 1))

        return replace(job, task=replace(job.task, loss=loss))

    train(with_nan_at_the_end, "model", non_finite="skip", validate_every_epochs=0)
    assert read_json(Path("model/metrics.json"))["skipped_steps"] == 1


def test_whole_windows_train_and_resume_with_everything_random(alignment: Build) -> None:
    settings = {"grad_accum_steps": 3, "epochs": 4}
    expected = train(alignment, "whole", **settings)
    with pytest.raises(Killed):
        train(alignment, "killed", on_log=dying(4), **settings)
    assert train(alignment, "resumed", **settings) == expected


def test_skipped_steps_are_part_of_the_model_folder(alignment: Build) -> None:
    def failing() -> TrainingJob:
        job, calls = alignment(), iter(range(100))

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            if next(calls) == 1:
                raise ValueError("unfit")
            return job.task.loss(model, batch)

        return replace(job, task=replace(job.task, loss=loss))

    files = train(failing, "model", failing_batch="skip", validate_every_epochs=0)
    assert b"ValueError: unfit" in files["skipped.csv"]
    assert "skipped.csv" not in train(alignment, "other")


def test_without_validation_there_is_no_best_and_no_table(alignment: Build) -> None:
    files = train(alignment, "model", validate_every_epochs=0)
    assert "val.csv" not in files
    assert "best" not in read_json(Path("model/metrics.json"))


@pytest.mark.parametrize("max_steps", [None, 1])
def test_damaged_input_that_is_found_late_publishes_nothing_and_leaves_no_state(
    alignment: Build, max_steps: int | None
) -> None:
    seen: list[int] = []

    def confirm() -> None:
        seen.append(1)
        raise DamagedInputError("images.bin: its bytes changed")

    def damaged() -> TrainingJob:
        return replace(alignment(), confirm=confirm)

    with pytest.raises(DamagedInputError):
        train(damaged, "model", epochs=9, max_steps=max_steps, checkpoint={"every_steps": 1})
    assert seen == [1]  # at the end of the first epoch, or of a training that has none
    assert [path for path in Path().rglob("*") if path.suffix == ".safetensors"] == []
