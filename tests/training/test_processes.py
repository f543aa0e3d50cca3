"""Several processes train as one does: the same samples, sums, gradients and steps.

The processes are forked from the test with everything built, and meet over gloo on the loopback.
"""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plumbline.errors import TrainingError
from plumbline.files import read_json
from plumbline.loading.keys import Share
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.weights import read_tensors
from plumbline.training.processes import Processes
from plumbline.training.window import Gradients
from tests.tiny import CASES
from tests.training.together import (
    ALONE,
    CUTS,
    MakeJob,
    Together,
    ended,
    exact,
    failing,
    gradients_of,
    run_together,
    settings,
    states,
    train,
)


def test_a_process_goes_on_only_when_all_have_met(tmp_path: Path, monkeypatch: Any) -> None:
    met, original = tmp_path / "met", accelerate.PartialState

    def connect(**options: Any) -> accelerate.PartialState:
        state = original(**options)
        if state.process_index == 1:
            time.sleep(0.5)  # the first one, which holds the addresses of all, could end meanwhile
            met.touch()
        return state

    monkeypatch.setattr("accelerate.PartialState", connect)
    assert run_together(tmp_path, lambda _: met.exists()) == [True, True]


@pytest.mark.parametrize("micro_batches", [1, len(CUTS)])
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_find_the_gradients_of_one(
    make_job: MakeJob, together: Together, monkeypatch: Any, name: str, micro_batches: int
) -> None:
    """In one message or in many, some of which go while the last micro-batch passes."""
    if micro_batches > 1:
        monkeypatch.setattr("plumbline.training.gradient_sum.BUCKET_BYTES", 4096)
    job = exact(make_job(name))
    sums, expected = gradients_of(job, Processes(), micro_batches)
    for found, gradients in together(lambda p: gradients_of(job, p, micro_batches)):
        assert found.count == sums.count > 0
        assert found.total == pytest.approx(sums.total, rel=1e-6)
        assert [count for _, count in found.micro] == [count for _, count in sums.micro]
        assert gradients.keys() == expected.keys()
        # Some gradients are zero but for rounding, such as those of the bias of keys.
        limit = 1e-9 * max(float(gradient.abs().max()) for gradient in expected.values())
        for parameter, gradient in expected.items():
            torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-6, atol=limit)


@pytest.mark.parametrize("name", ["text", "regression", "seq2seq", "align_image", "align_audio"])
def test_a_training_in_two_processes_ends_as_one_in_one(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    """Same clock, losses and weights: the sample order does not depend on the processes."""
    monkeypatch.chdir(tmp_path)
    run = settings()
    train(exact(make_job(name)), run, Path("one"), Processes())
    job = exact(make_job(name))
    assert together(lambda p: train(job, run, Path("two"), p)) == ["led", "followed"]
    one, two = (read_json(Path(folder) / "metrics.json") for folder in ("one", "two"))
    for figure in ("optimizer_steps", "micro_steps", "samples", "targets", "epochs", "parameters"):
        assert two[figure] == one[figure]
    assert two["final_train_loss"] == pytest.approx(one["final_train_loss"], rel=1e-6)
    assert two["best"]["value"] == pytest.approx(one["best"]["value"], rel=1e-6)
    expected, found = (read_tensors(Path(f) / "model.safetensors") for f in ("one", "two"))
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=1e-6, atol=1e-8)
    assert {p.name for p in Path("one").iterdir()} == {p.name for p in Path("two").iterdir()}
    assert not list(Path(".ckpt").rglob("step-*"))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_shares_of_all_processes_are_the_batches_of_one(
    make_job: MakeJob, count: int, workers: int
) -> None:
    job = make_job("text")
    config = LoaderConfig(batch_size=5, workers=workers)

    def numbers(share: Share) -> list[list[int]]:
        loader = Loader(job.train, job.task.collate, config, seed=3, shuffle=True, share=share)
        return [[int(i) for i in batch["sample_index"]] for batch in loader.batches(1)]

    whole = numbers(Share())
    shares = [numbers(Share(rank, count)) for rank in range(count)]
    joined = [[n for part in parts for n in part] for parts in zip(*shares, strict=True)]
    assert joined == whole


def test_a_training_stopped_by_a_signal_to_one_process_goes_on_to_the_same_bits(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    """All of them stop after the same step, and the main one saves the state once."""
    monkeypatch.chdir(tmp_path)
    run = settings(epochs=3)
    whole = make_job("text")
    together(lambda p: train(whole, run, Path("whole"), p))

    parted = make_job("text")
    ends = together(lambda p: ended(parted, run, p, 6, signal.SIGTERM))
    assert [end.code for end in ends] == [143, 143]
    assert len(states(Path(".ckpt"))) == 1
    again = make_job("text")
    assert together(lambda p: train(again, run, Path("parted"), p)) == ["led", "followed"]
    digests = [read_json(Path(folder) / "digests.json") for folder in ("whole", "parted")]
    assert digests[0] == digests[1]


def test_a_batch_that_fails_in_one_process_is_skipped_in_all(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    run = settings(epochs=1, grad_accum_steps=1, failing_batch="skip")
    job = make_job("text")
    alone = failing(make_job("text"), Processes(), 3)
    train(alone, run, Path("one"), Processes())
    ends = together(lambda p: train(failing(job, p, 3), run, Path("two"), p))
    assert ends == ["led", "followed"]
    one, two = ((Path(f) / "skipped.csv").read_text(encoding="utf-8") for f in ("one", "two"))
    assert "sample 3 is odd" in two
    assert one.split(",")[-1] == two.split(",")[-1]  # the same samples were left out


def test_a_batch_that_fails_in_one_process_ends_all_with_one_line(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_job("text")
    ends = together(lambda p: train(failing(job, p, 3), settings(), Path("out"), p))
    assert isinstance(ends[0], TrainingError)
    assert "sample 3 is odd" in str(ends[0])
    assert "3" in str(ends[0]).split("samples")[1]
    assert isinstance(ends[1], SystemExit)
    assert not Path("out").exists()


def test_when_one_process_dies_the_other_ends_and_the_state_is_whole(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    """FP22: no hang, no half checkpoint, and the run goes on from the last whole one."""
    monkeypatch.chdir(tmp_path)
    run = settings(epochs=3, grad_accum_steps=1)
    whole = make_job("text")
    together(lambda p: train(whole, run, Path("whole"), p))

    parted = make_job("text")
    started = time.monotonic()
    main, died = together(lambda p: ended(parted, run, p, 8, signal.SIGKILL))
    # Waiting for the dead one would end with the half hour that collectives wait by default.
    assert time.monotonic() - started < 60
    assert died is None
    assert "another process of this training is gone" in str(main)
    assert states(Path(".ckpt"))
    again = make_job("text")
    together(lambda p: train(again, run, Path("parted"), p))
    digests = [read_json(Path(folder) / "digests.json") for folder in ("whole", "parted")]
    assert digests[0] == digests[1]


class Normed(nn.Module):
    """A model with moving statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(x))
        return out


def test_moving_statistics_are_the_same_in_all_processes(together: Together, toy: Any) -> None:
    torch.manual_seed(0)
    model = Normed().double()
    task = toy.scripted([])

    def moved(processes: Processes) -> Tensor:
        mine = processes.share.of(np.arange(8))
        batch = task.collate([toy.points(8).sample(int(i), 0) for i in mine])
        scaler = torch.GradScaler("cpu", enabled=False)
        Gradients(model, task, replace(ALONE, processes=processes), scaler).accumulate([batch], [0])
        return model.norm.running_mean.clone()

    first, second = together(moved)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, 0.1 * toy.points(8).x.mean(dim=0))


def test_half_precision_and_accumulation_work_in_two_processes(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    """Bf16 sums differ in their last bits only."""
    monkeypatch.chdir(tmp_path)
    run = settings(precision="bf16", max_grad_norm=0.1, epochs=1)
    train(make_job("text"), run, Path("one"), Processes())
    job = make_job("text")
    together(lambda p: train(job, run, Path("two"), p))
    one, two = (read_json(Path(f) / "metrics.json")["final_train_loss"] for f in ("one", "two"))
    assert two == pytest.approx(one, rel=0.01)
