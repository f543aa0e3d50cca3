"""Batches cut into micro-batches by setting, or where memory runs out: the step stays the same."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import TrainingError
from plumbline.training.processes import Processes
from plumbline.training.task import Task
from tests.training.conftest import TASK, squared_error
from tests.training.test_window import PairModel, pair_task
from tests.training.together import MakeJob, Together, exact, settings, train

RUN = {"epochs": 2, "grad_accum_steps": 2, "optim": {"lr": 0.05}}
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


def fits(
    most: int,
    *,
    task: Task = TASK,
    backward: bool = False,
    error: Exception = OUT_OF_MEMORY[0],
) -> Task:
    """The task on a machine with memory for so many samples with a graph."""

    class Allocate(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, total: Tensor) -> Tensor:
            return total.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise error

    def loss(model: nn.Module, batch: Batch) -> LossSum:
        found = task.loss(model, batch)
        if len(batch["sample_index"]) <= most or not torch.is_grad_enabled():
            return found
        if not backward:
            raise error
        return LossSum(Allocate.apply(found.total), found.count)

    return replace(task, loss=loss)


def outcome(toy: Any, *, dropout: float = 0.3, **more: Any) -> tuple[Any, dict[str, Tensor]]:
    trainer = toy.trainer(toy.regressor(dropout=dropout), samples=22, batch_size=8, **RUN, **more)
    result = trainer.fit()
    return result, {name: t.detach() for name, t in trainer.model.named_parameters()}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_the_size_of_micro_batches_changes_no_step(make_toy: Callable[[], Any], size: int) -> None:
    """Also where it does not divide the batch, or the last one is short."""
    whole, expected = outcome(make_toy(), dropout=0.0)
    cut, found = outcome(make_toy(), dropout=0.0, micro_batch_size=size)
    assert_close(found, expected, 1e-12)
    assert cut.clock == whole.clock
    for name in ("steps", "micro", "validations"):
        rows = zip(getattr(cut.history, name), getattr(whole.history, name), strict=True)
        for row, wanted in rows:
            assert row == pytest.approx(wanted, rel=1e-12)
    assert cut.facts["micro_batch_size"] == size


def test_validation_is_cut_as_well(toy: Any) -> None:
    sizes = []

    def watched(model: nn.Module, batch: Batch) -> LossSum:
        sizes.append(len(batch["sample_index"]))
        return squared_error(model, batch)

    outcome(toy, task=replace(TASK, loss=watched), micro_batch_size=3)
    assert max(sizes) == 3
    assert sum(sizes) == 2 * (22 + 7)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_a_step_without_memory_is_the_one_of_smaller_micro_batches(
    make_toy: Callable[[], Any], tmp_path: Path, error: Exception, backward: bool
) -> None:
    """To the bit, with dropout: the first batch fails, and the next ones are cut from the start."""
    asked, expected = outcome(make_toy(), micro_batch_size=2)
    toy = make_toy()
    split, found = outcome(toy, task=fits(3, error=error, backward=backward))
    assert_close(found, expected, 0.0)
    assert (split.clock, split.history.steps, split.history.micro) == (
        asked.clock,
        asked.history.steps,
        asked.history.micro,
    )
    split.history.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "splits.csv").open()))
    place = {"global_step": "0", "micro_step": "0", "epoch": "0", "reason": "out of memory"}
    assert rows == [{**place, "micro_batch_size": size} for size in ("4", "2")]
    assert not split.history.skipped
    assert split.facts["micro_batch_size"] == 2


def test_a_second_batch_without_memory_takes_the_first_one_s_gradients_back(
    make_toy: Callable[[], Any],
) -> None:
    def late(toy: Any) -> Task:
        calls = iter(range(10**6))

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            if next(calls) == 1:  # the second of the first window
                raise MemoryError
            return squared_error(model, batch)

        return replace(TASK, loss=loss)

    toy = make_toy()
    _, expected = outcome(make_toy(), micro_batch_size=4)
    _, found = outcome(toy, task=late(toy))
    assert_close(found, expected, 0.0)


def test_a_batch_cut_for_a_loss_over_its_window_is_still_compared_as_a_whole(
    make_toy: Callable[[], Any],
) -> None:
    def run(**more: Any) -> dict[str, Tensor]:
        trainer = make_toy().trainer(
            PairModel(),
            task=pair_task(),
            samples=32,
            validation=16,
            batch_size=16,
            optim={"name": "sgd", "lr": 0.05},
            **more,
        )
        trainer.fit()
        return {name: p.detach() for name, p in trainer.model.named_parameters()}

    assert_close(run(micro_batch_size=5), run(), 1e-6)


@pytest.mark.parametrize("call", [1, 3, 5])
def test_a_resumed_run_keeps_the_size_that_it_had_found(
    make_toy: Callable[[], Any], killed: type[Exception], call: int
) -> None:
    """Though there is memory for whole batches when it goes on."""
    more = {"checkpoint": {"every_steps": 1}}
    expected = outcome(make_toy(), task=fits(3), **more)
    toy = make_toy()
    with pytest.raises(killed):
        outcome(toy, task=fits(3), on_log=toy.killed_at(call), **more)
    result, weights = outcome(toy, **more)
    assert (result.history, result.clock) == (expected[0].history, expected[0].clock)
    assert_close(weights, expected[1], 0.0)


def test_a_sample_that_does_not_fit_alone_ends_the_training(toy: Any) -> None:
    with pytest.raises(TrainingError, match=r"out of memory; samples .*; one sample alone"):
        outcome(toy, task=fits(0))


def test_batch_norm_is_not_split_unasked(toy: Any) -> None:
    """Its statistics are those of a micro-batch: the step would be another one."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    with pytest.raises(TrainingError, match=r"set trainer\.micro_batch_size below 8"):
        toy.trainer(model, task=fits(3), samples=22, batch_size=8, **RUN).fit()


def test_other_errors_do_not_split(toy: Any) -> None:
    with pytest.raises(TrainingError, match="ValueError: odd"):
        outcome(toy, task=fits(3, error=ValueError("odd")))


@pytest.mark.parametrize("name", ["vlm", "align_image"])
@pytest.mark.parametrize("how", ["asked", "out of memory", "sharded"])
def test_two_processes_split_alike(
    make_job: MakeJob,
    together: Together,
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    how: str,
) -> None:
    """Where memory runs out in one of them alone, and a share is a piece shorter than the other."""
    monkeypatch.chdir(tmp_path)
    train(exact(make_job(name)), settings(batch_size=5), Path("one"), Processes())
    job = exact(make_job(name))
    runs_out = how == "out of memory"
    size = {} if runs_out else {"micro_batch_size": 2, "shard_layers": how == "sharded"}

    def short_of_memory(processes: Processes) -> str:
        task = short(job.task, 2) if runs_out and processes.rank == 0 else job.task
        run = settings(batch_size=5, processes=2, **size)
        return train(replace(job, task=task), run, Path("two"), processes)

    assert together(short_of_memory) == ["led", "followed"]
    for table in ("train.csv", "val.csv"):
        one, two = (list(csv.DictReader((Path(f) / table).open())) for f in ("one", "two"))
        for row, wanted in zip(two, one, strict=True):
            numbers = {key: float(value) for key, value in row.items()}
            assert numbers == pytest.approx({k: float(v) for k, v in wanted.items()}, rel=1e-6)
    assert (tmp_path / "two" / "splits.csv").exists() == runs_out


def short(task: Task, most: int) -> Task:
    """The task with memory for so many samples, whichever way its loss is made."""

    def limited(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: nn.Module, batch: Batch) -> Any:
            if model.training and len(batch["sample_index"]) > most:
                raise OUT_OF_MEMORY[0]
            return function(model, batch)

        return call

    window = task.window and replace(task.window, embed=limited(task.window.embed))
    return replace(task, loss=limited(task.loss), window=window)
