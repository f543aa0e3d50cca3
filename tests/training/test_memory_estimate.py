"""What a step takes of memory is known before it is made; micro-batches are chosen to fit."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from plumbline.batch import Batch, LossSum
from plumbline.errors import ConfigError
from plumbline.files import read_digests
from plumbline.loading.loader import Loader
from plumbline.training import fitting
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters
from plumbline.training.checkpoint import optimizer_tensors
from plumbline.training.fitting import Fitting, fit_into_memory
from plumbline.training.flops import count_step
from plumbline.training.memory_estimate import MAPPED_BYTES, Estimator, MemoryNeed, _Live
from plumbline.training.optim import build_optimizer
from plumbline.training.processes import Processes
from plumbline.training.task import Task, TrainingJob
from plumbline.training.window import Gradients
from tests.tiny import CASES
from tests.training.conftest import TASK
from tests.training.together import ALONE, MakeJob, settings, train

ROWS, WIDTH, DEPTH = 512, 128, 4
STATE = ROWS * WIDTH * 4
"""Bytes of what one layer gives."""
WEIGHT = WIDTH * WIDTH * 4


class Chain(nn.Module):
    """Layers whose every tensor can be counted by hand."""

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def summed(model: nn.Module, batch: Batch) -> LossSum:
    out = model(batch["x"])
    return LossSum(out.sum(), torch.tensor(len(out)))


CHAIN = Task("chain", collate=lambda samples: {}, loss=summed)


def need_of(model: nn.Module, rows: int = ROWS, count: int = 1, **trainer: Any) -> MemoryNeed:
    estimator = Estimator(model, CHAIN, settings(**trainer).train, ALONE)
    return estimator.need({"x": torch.zeros(rows, WIDTH), "sample_index": [0]}, count)


def test_a_chain_takes_what_is_counted_by_hand() -> None:
    """The input, a tanh of each layer, and in the last one's backward two gradients beside."""
    found = need_of(Chain())
    assert found.weights == found.gradients == DEPTH * WEIGHT
    assert found.optimizer == pytest.approx(2 * DEPTH * WEIGHT, abs=4 * DEPTH)  # and its steps
    assert found.copies == found.weights + found.optimizer
    # The heap gives no room of activations to the gradients of the layers before.
    peak = (1 + DEPTH) * STATE + STATE + DEPTH * WEIGHT
    assert found.gradients + found.activations == pytest.approx(peak, abs=8 * 512)


def test_a_second_micro_batch_adds_a_gradient_to_the_one_of_the_first() -> None:
    one, two = need_of(Chain()), need_of(Chain(), count=2)
    assert two.total - one.total == pytest.approx(WEIGHT, abs=8 * 512)


def test_what_is_given_back_is_taken_again_except_by_gradients_from_a_heap() -> None:
    weight = nn.Parameter(torch.zeros(3, 1024))
    with _Live([weight]) as live:
        kept = torch.zeros(8, 1024)
        del kept
        weight.grad = torch.zeros_like(weight)
        other = torch.zeros(7, 1024)
        del other
        large = torch.empty(MAPPED_BYTES // 4 + 1024)
        del large
    row = 1024 * 4
    assert live.peak() == 3 * row + MAPPED_BYTES + row
    assert live.peak_of_heap([weight.grad]) == live.peak() + 8 * row


class Twice(nn.Module):
    """Uses one large weight twice, as a language model does that of its vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3000, 3000))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight @ self.weight


def test_gradients_that_meet_are_added_in_place() -> None:
    estimator = Estimator(model := Twice(), CHAIN, settings().train, ALONE)
    found = estimator.need({"x": torch.zeros(1, 3000), "sample_index": [0]}, 1)
    assert found.gradients == model.weight.nbytes > MAPPED_BYTES
    assert found.activations == pytest.approx(model.weight.nbytes, rel=0.01)  # one beside, not two


def test_layers_computed_again_keep_their_inputs_alone() -> None:
    """Of three maps and tanh in each layer."""

    def deep(gradient_checkpointing: bool) -> MemoryNeed:
        stack = nn.Sequential(*(Chain(3) for _ in range(10)))
        return need_of(stack, gradient_checkpointing=gradient_checkpointing)

    kept, again = deep(False), deep(True)
    assert again.weights == kept.weights
    # 10 inputs and the inside of one layer in place of 30 results.
    less = kept.total - again.total
    assert less == pytest.approx(17 * STATE, abs=2 * STATE)


def test_a_frozen_part_has_weights_alone() -> None:
    model = nn.Sequential(Chain(), Chain())
    found = need_of(model, freeze=["0"])
    assert found.weights == 2 * DEPTH * WEIGHT
    assert found.gradients == DEPTH * WEIGHT
    # Nothing of the frozen one is kept for a backward pass.
    assert found.total < need_of(model).total - DEPTH * STATE


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_the_state_is_the_one_of_the_optimizer(make_job: MakeJob, optimizer: str) -> None:
    job = make_job("masked_lm_rows")
    run = settings(optim={"name": optimizer, "lr": 0.01})
    found = Estimator(job.model, job.task, run.train, ALONE).need(batch_of(job), 1)
    stepped = build_optimizer(job.model, run.train.trainer.optim)
    gradients = made_gradients(job)
    stepped.step()
    state = sum(t.nbytes for _, t in optimizer_tensors(stepped))
    assert found.optimizer == state > 0
    assert found.gradients == gradients


def batch_of(job: TrainingJob) -> Batch:
    return job.task.collate([job.train.sample(i, 0) for i in range(6)])


def made_gradients(job: TrainingJob) -> int:
    scaler = torch.GradScaler("cpu", enabled=False)
    job.model.train()
    Gradients(job.model, job.task, ALONE, scaler).accumulate([batch_of(job)], [0])
    return sum(p.grad.nbytes for p in job.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(CASES))
def test_every_kind_of_task_is_estimated_and_left_as_it_was(
    make_job: MakeJob, name: str, precision: str
) -> None:
    job = make_job(name)
    weights = {name: t.clone() for name, t in job.model.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    machine = replace(ALONE, precision=precision)
    estimator = Estimator(job.model, job.task, settings().train, machine)
    one, two = (estimator.need(batch_of(job), count) for count in (1, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.weights == two.weights > 0
    assert two.total >= one.total > 3 * one.weights  # gradients or not: moments, activations
    for name, tensor in job.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)
    assert all(p.grad is None for p in job.model.parameters())
    assert one.gradients == made_gradients(job)


@pytest.mark.parametrize("name", list(CASES))
def test_operations_are_counted_without_memory_as_with_it(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    found = Estimator(job.model, job.task, settings().train, ALONE).flops(batch_of(job))
    assert found == count_step(job.model.train(), job.task, batch_of(job), ALONE)


def adapted(make_job: MakeJob, **settings: Any) -> TrainingJob:
    """The job with an adapter on its decoder, which is as in `attach_adapters`."""
    job = make_job("vlm")
    configs = {"decoder": AdapterConfig.model_validate({"rank": 2} | settings)}
    attach_adapters(job.model, configs, seed=0, compute_dtype=torch.float32)
    return job


@pytest.mark.parametrize("method", [{}, {"method": "dora"}, {"quantize": "nf4"}], ids=str)
def test_adapters_are_estimated_as_the_few_tensors_that_train(
    make_job: MakeJob, method: dict[str, Any]
) -> None:
    whole, job = make_job("vlm"), adapted(make_job, **method)
    estimates = [Estimator(each.model, each.task, settings().train, ALONE) for each in (whole, job)]
    full, few = (estimator.need(batch_of(job), 1) for estimator in estimates)
    assert few.gradients == made_gradients(job) < full.gradients
    assert few.weights == sum(t.nbytes for t in [*job.model.parameters(), *job.model.buffers()])
    assert (few.weights < full.weights) == ("quantize" in method)


def fitted(monkeypatch: Any, job: TrainingJob, free: int | None, **trainer: Any) -> Fitting:
    monkeypatch.setattr(fitting, "free_bytes", lambda device: free)
    run = settings(batch_size=12, **trainer)
    loader = Loader(job.train, job.task.collate, run.train.loader, seed=0, shuffle=True)
    return fit_into_memory(job.model, job.task, loader, run.train, ALONE)


def room_for(monkeypatch: Any, job: TrainingJob, size: int) -> int:
    """Free bytes of which micro-batches of so many samples fill what may be filled."""
    need = fitted(monkeypatch, job, None, micro_batch_size=size).need
    assert need is not None
    return int(need.total / fitting.USED_SHARE) + 1 - need.weights


@pytest.mark.parametrize("name", ["vlm", "align_image"])
def test_auto_finds_the_largest_half_that_fits(
    make_job: MakeJob, monkeypatch: Any, name: str
) -> None:
    job = make_job(name)
    for size in (6, 3, 1):
        room = room_for(monkeypatch, job, size)
        assert fitted(monkeypatch, job, room, micro_batch_size="auto").micro_batch_size == size
    assert fitted(monkeypatch, job, 10**12, micro_batch_size="auto").micro_batch_size is None
    assert fitted(monkeypatch, job, None, micro_batch_size="auto").micro_batch_size is None


def test_what_does_not_fit_is_said_with_a_remedy(
    make_job: MakeJob, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job("vlm")
    with caplog.at_level(logging.INFO):
        fitted(monkeypatch, job, 10**12).say()
        assert not caplog.records
        monkeypatch.setattr(fitting, "SAID_BYTES", 1000)
        fitted(monkeypatch, job, 10**12).say()
        assert (caplog.records[-1].levelname, caplog.text.count("\n")) == ("INFO", 1)
        fitted(monkeypatch, job, 1000).say()
    assert caplog.records[-1].levelname == "WARNING"
    assert "memory for whole batches: about " in caplog.text
    assert "too little; set trainer.micro_batch_size (auto finds it) or trainer.gradient_" in (
        caplog.text
    )


def test_a_run_that_goes_on_keeps_what_auto_found(
    make_job: MakeJob, tmp_path: Path, monkeypatch: Any, killed: type[Exception]
) -> None:
    """Though there is more room when it goes on; and it ends as one with that number."""
    monkeypatch.chdir(tmp_path)
    given = settings(batch_size=12, micro_batch_size=3)
    train(make_job("vlm"), given, Path("given"), Processes())
    job, passes = make_job("vlm"), iter(range(10**6))

    def dying(model: nn.Module, batch: Batch) -> LossSum:
        if model.training and not is_fake(next(model.parameters())) and next(passes) == 9:
            raise killed  # in the second of two steps of eight micro-batches each
        return job.task.loss(model, batch)

    more = {"out_of_memory": "fail", "checkpoint": {"every_steps": 1}}
    auto = settings(batch_size=12, micro_batch_size="auto", **more)
    room = room_for(monkeypatch, job, 3)
    monkeypatch.setattr(fitting, "free_bytes", lambda device: room)
    broken = replace(job, task=replace(job.task, loss=dying), validation_task=job.validation_task)
    with pytest.raises(killed):
        train(broken, auto, Path("found"), Processes())
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 10**12)
    train(make_job("vlm"), auto, Path("found"), Processes())
    found, wanted = (read_digests(Path(folder)) for folder in ("found", "given"))
    del found["config.json"], wanted["config.json"]
    assert found == wanted


def test_auto_does_not_decide_on_the_statistics_of_a_batch_norm(toy: Any, monkeypatch: Any) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    loader = toy.trainer(model, batch_size=4)._train
    run = settings(batch_size=4, micro_batch_size="auto")
    with pytest.raises(ConfigError, match=r"'auto': the batch norm of 0 sees a micro-batch"):
        fit_into_memory(model, TASK, loader, run.train, ALONE)


def test_code_that_asks_for_numbers_is_trained_without_an_estimate(
    toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def asking(model: nn.Module, batch: Batch) -> LossSum:
        loss = TASK.loss(model, batch)
        return loss if float(loss.total.detach()) > 0 else LossSum(-loss.total, loss.count)

    trainer = toy.trainer(batch_size=4)
    run = settings(batch_size=4, micro_batch_size="auto")
    task = replace(TASK, loss=asking)
    with caplog.at_level(logging.INFO):
        found = fit_into_memory(trainer.model, task, trainer._train, run.train, ALONE)
    assert (found.need, found.micro_batch_size, found.facts()) == (None, None, {})
    assert "no estimate of the memory: " in caplog.text
