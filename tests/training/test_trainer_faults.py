"""What goes wrong in a step is told with its place, and never reaches the weights."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import ConfigError, TrainingError
from tests.order import epoch_order

Samples = tuple[int, ...]
Weights = dict[str, Tensor]

BAD_SAMPLE = 13


def with_bad_sample(toy: Any, fault: str) -> Any:
    """The toy task where one sample spoils its batch: its loss, or its gradient alone."""

    def spoil(batch: Batch, loss: LossSum) -> LossSum:
        if BAD_SAMPLE not in batch["sample_index"] or not torch.is_grad_enabled():
            return loss
        if fault == "gradient":
            # Finite forward, infinite slope backward.
            root = (loss.total * 0).sqrt()
            return LossSum(loss.total + root, loss.count)
        return LossSum(loss.total * float(fault), loss.count)

    return toy.spoilt(spoil)


FAULTS = ["nan", "inf", "gradient"]


def weights_without(make_toy: Callable[[], Any], batches: set[Samples], **settings: Any) -> Weights:
    """After a training in which some batches have no target, and so make no step."""
    toy = make_toy()

    def empty(batch: Batch, loss: LossSum) -> LossSum:
        keep = int(tuple(batch["sample_index"].tolist()) not in batches)
        return LossSum(loss.total * keep, loss.count * keep)

    trainer = toy.trainer(task=toy.spoilt(empty), validate_every_epochs=0, **settings)
    trainer.fit()
    return dict(trainer.model.state_dict())


def bad_windows(trainer: Any, epochs: int, accumulate: int = 1) -> set[Samples]:
    """The batches of the steps that have the bad sample in them."""
    found = set()
    for epoch in range(epochs):
        order = epoch_order(trainer._train, epoch)
        at = order.index(BAD_SAMPLE) // (4 * accumulate) * 4 * accumulate
        found |= {tuple(order[i : i + 4]) for i in range(at, at + 4 * accumulate, 4)}
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_loss_that_is_not_finite_stops_with_step_and_samples(
    make_toy: Callable[[], Any], fault: str
) -> None:
    toy = make_toy()
    trainer = toy.trainer(task=with_bad_sample(toy, fault), validate_every_epochs=0)
    order = epoch_order(trainer._train, 0)
    step = order.index(BAD_SAMPLE) // 4
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert f"optimiser step {step}: loss " in text
    assert f"samples {order[step * 4 : step * 4 + 4]}" in text
    assert "trainer.non_finite: skip" in text
    assert "\n" not in text
    assert len(toy.log) == step > 0  # the steps before are on record
    before = weights_without(make_toy, set(), max_steps=step)
    torch.testing.assert_close(dict(trainer.model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    make_toy: Callable[[], Any], fault: str
) -> None:
    toy = make_toy()
    trainer = toy.trainer(
        task=with_bad_sample(toy, fault), epochs=3, non_finite="skip", validate_every_epochs=0
    )
    result = trainer.fit()
    assert result.clock.skipped == 3
    assert result.clock.global_step == 3 * 5 - 3
    assert result.clock.micro_step == 15
    expected = weights_without(make_toy, bad_windows(trainer, 3), epochs=3)
    torch.testing.assert_close(dict(trainer.model.state_dict()), expected, rtol=0, atol=0)
    bad = [r for r in result.history.steps if not math.isfinite(r["loss"] * r["grad_norm"])]
    assert len(bad) == 3


def test_a_skipped_step_survives_saving_and_writing(toy: Any, tmp_path: Path) -> None:
    settings = {
        "task": with_bad_sample(toy, "nan"),
        "epochs": 2,
        "non_finite": "skip",
        "validate_every_epochs": 0,
    }
    toy.trainer(**settings).fit()
    again = toy.trainer(**settings).fit()  # goes on from the saved end: nothing is left to do
    assert again.clock.skipped == 2
    again.history.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "train.csv").open()))
    assert sum(row["loss"] == "nan" for row in rows) == 2


def test_more_skipped_steps_than_allowed_stop(toy: Any) -> None:
    always = toy.spoilt(lambda batch, loss: LossSum(loss.total * math.nan, loss.count))
    trainer = toy.trainer(
        task=always, non_finite="skip", max_skipped_steps=2, validate_every_epochs=0
    )
    with pytest.raises(TrainingError, match="more than 2 skipped steps"):
        trainer.fit()
    assert trainer.progress.clock.skipped == 3
    assert all(
        torch.equal(a, b)
        for a, b in zip(trainer.model.parameters(), toy.regressor().parameters(), strict=True)
    )


def test_many_samples_are_named_in_short(toy: Any) -> None:
    always = toy.spoilt(lambda batch, loss: LossSum(loss.total * math.nan, loss.count))
    trainer = toy.trainer(task=always, batch_size=5, grad_accum_steps=2, validate_every_epochs=0)
    with pytest.raises(TrainingError, match=r"samples \[(\d+, ){7}\d+\] \.\.\.;"):
        trainer.fit()


def raising(toy: Any, error: Exception, backward: bool = False) -> Any:
    """The toy task where one sample raises: in the loss, or when its gradient is asked for."""

    class Raise(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise error

    def spoil(batch: Batch, loss: LossSum) -> LossSum:
        if BAD_SAMPLE not in batch["sample_index"] or not torch.is_grad_enabled():
            return loss
        if not backward:
            raise error
        return LossSum(Raise.apply(loss.total), loss.count)

    return toy.spoilt(spoil)


ERRORS = [
    RuntimeError("shapes (3x4) and (5x6)\ndo not fit"),
    ValueError("shapes (3x4) and (5x6) do not fit"),
    IndexError("shapes (3x4) and (5x6) do not fit"),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_failing_batch_stops_with_step_samples_and_error(
    toy: Any, error: Exception, backward: bool
) -> None:
    trainer = toy.trainer(task=raising(toy, error, backward), validate_every_epochs=0)
    order = epoch_order(trainer._train, 0)
    step = order.index(BAD_SAMPLE) // 4
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    name = type(error).__name__
    assert str(caught.value) == (
        f"optimiser step {step}: {name}: shapes (3x4) and (5x6) do not fit; "
        f"samples {order[step * 4 : step * 4 + 4]}; "
        "look at these samples, or set trainer.failing_batch: skip"
    )
    assert caught.value.__cause__ is error  # a traceback for whoever wants it


@pytest.mark.parametrize("failing_batch", ["stop", "skip"])
def test_an_operation_without_a_repeatable_kernel_stops_with_the_setting(
    toy: Any, failing_batch: str
) -> None:
    """Every batch has it, so there is nothing to skip."""
    error = RuntimeError(
        "max_pool_backward does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this"
    )
    trainer = toy.trainer(task=raising(toy, error, True), failing_batch=failing_batch)
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert ": max_pool_backward does not have a deterministic implementation; samples [" in text
    assert text.endswith(
        "; trainer.deterministic: false lets it run, with other last digits each time"
    )


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("backward", [False, True])
def test_a_failing_batch_is_skipped_and_the_run_goes_on(
    make_toy: Callable[[], Any], tmp_path: Path, backward: bool, accumulate: int
) -> None:
    toy = make_toy()
    trainer = toy.trainer(
        task=raising(toy, ERRORS[0], backward),
        epochs=3,
        failing_batch="skip",
        validate_every_epochs=0,
        grad_accum_steps=accumulate,
    )
    result = trainer.fit()
    steps = {1: 15, 2: 9}[accumulate]
    assert (result.clock.skipped, result.clock.global_step) == (3, steps - 3)
    assert (result.clock.micro_step, result.clock.samples) == (15, 60)
    assert len(result.history.steps) == steps - 3
    assert result.clock.targets == sum(row["count"] for row in result.history.micro)
    gone = bad_windows(trainer, 3, accumulate)
    expected = weights_without(make_toy, gone, epochs=3, grad_accum_steps=accumulate)
    torch.testing.assert_close(dict(trainer.model.state_dict()), expected, rtol=0, atol=0)
    result.history.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "skipped.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for epoch, row in enumerate(rows):
        order = epoch_order(trainer._train, epoch)
        window = 4 * accumulate
        at = order.index(BAD_SAMPLE) // window * window
        assert row["samples"].split() == [str(i) for i in order[at : at + window]]
        assert row["reason"] == "RuntimeError: shapes (3x4) and (5x6) do not fit"
        assert int(row["micro_step"]) == min(5 * (epoch + 1), 5 * epoch + (at + window) // 4)


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_a_skipped_step_leaves_weights_gradients_and_statistics_as_they_were(
    toy: Any, fault: str
) -> None:
    class WithStatistics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.norm = nn.BatchNorm1d(3).double()
            self.head = nn.Linear(3, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.norm(x))
            return out

    def spoil(batch: Batch, loss: LossSum) -> LossSum:
        if fault == "raise":
            raise ValueError("after the forward pass")
        return LossSum(loss.total * math.nan, loss.count)

    model = WithStatistics()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = toy.trainer(
        model,
        task=toy.spoilt(spoil),
        failing_batch="skip",
        non_finite="skip",
        validate_every_epochs=0,
        optim={"name": "sgd", "lr": 0.1},
    )
    result = trainer.fit()
    assert result.clock.skipped == 5
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_skipped_steps_of_either_kind_stand_in_one_table_and_count_together(toy: Any) -> None:
    calls = iter(range(100))

    def spoil(batch: Batch, loss: LossSum) -> LossSum:
        call = next(calls)
        if call == 3:
            raise RuntimeError("broken")
        return LossSum(loss.total * (math.inf if call == 1 else 1), loss.count)

    settings = {"non_finite": "skip", "failing_batch": "skip", "validate_every_epochs": 0}
    trainer = toy.trainer(task=toy.spoilt(spoil), **settings)
    rows = trainer.fit().history.skipped
    assert [row["reason"].split(",")[0] for row in rows] == ["loss inf", "RuntimeError: broken"]
    assert [(row["global_step"], row["micro_step"]) for row in rows] == [(1, 2), (2, 4)]
    trainer.store.remove()
    always = toy.spoilt(lambda batch, loss: raise_broken())
    stopping = toy.trainer(task=always, max_skipped_steps=2, **settings)
    with pytest.raises(TrainingError, match=r"RuntimeError: broken; .*more than 2 skipped steps"):
        stopping.fit()


def raise_broken() -> LossSum:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. Process 4711 has"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_out_of_memory_names_the_batch_size(make_toy: Callable[[], Any], error: Exception) -> None:
    toy = make_toy()
    trainer = toy.trainer(task=raising(toy, error), validate_every_epochs=0, out_of_memory="fail")
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert "out of memory; samples [" in text
    assert text.endswith(
        "set trainer.micro_batch_size below 4, or trainer.gradient_checkpointing: true"
    )
    toy = make_toy()
    skipping = toy.trainer(task=raising(toy, error), validate_every_epochs=0, failing_batch="skip")
    assert [row["reason"] for row in skipping.fit().history.skipped] == ["out of memory"]


def test_settings_that_do_not_fit_are_never_skipped(toy: Any) -> None:
    trainer = toy.trainer(
        task=raising(toy, ConfigError("no such thing")),
        failing_batch="skip",
        validate_every_epochs=0,
    )
    with pytest.raises(ConfigError, match="no such thing"):
        trainer.fit()


def test_a_failing_batch_is_remembered_by_a_resumed_run(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    def train(toy: Any, **more: Any) -> Any:
        task = raising(toy, ERRORS[1])
        settings = {"epochs": 3, "failing_batch": "skip", "checkpoint": {"every_steps": 1}}
        return toy.trainer(toy.regressor(dropout=0.3), task=task, **settings, **more)

    expected = train(make_toy()).fit()
    assert len(expected.history.skipped) == 3
    for call in (2, 6, 9):
        toy = make_toy()
        with pytest.raises(killed):
            train(toy, on_log=toy.killed_at(call)).fit()
        found = train(toy).fit()
        assert (found.history, found.clock) == (expected.history, expected.clock)


@pytest.mark.parametrize("frozen", [["body"], ["body.0"], ["head"]])
def test_a_frozen_part_stays_bit_for_bit_and_the_rest_moves(toy: Any, frozen: list[str]) -> None:
    trainer = toy.trainer(frozen=frozen, epochs=2, optim={"lr": 0.1})
    result = trainer.fit()
    before = toy.regressor().state_dict()
    names = {n for n in before if n.startswith(f"{frozen[0]}.")}
    assert result.frozen_tensors == len(names)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in names), name


def test_a_frozen_part_that_a_bug_changes_is_named(toy: Any) -> None:
    task = toy.scripted([])

    def meddling(model: nn.Module, batch: Batch) -> LossSum:
        with torch.no_grad():
            model.body[0].bias[0] += 1e-9  # type: ignore[index, union-attr]
        found: LossSum = task.loss(model, batch)
        return found

    trainer = toy.trainer(
        task=replace(task, loss=meddling), frozen=["body"], validate_every_epochs=0
    )
    with pytest.raises(TrainingError, match=r"body\.0\.bias: frozen, yet changed"):
        trainer.fit()


def test_fp16_lowers_its_scale_instead_of_giving_up(make_toy: Callable[[], Any]) -> None:
    """As on a GPU: it begins at 65536, too high for a sum over many targets.

    The steps that it makes are those of float32.
    """
    task = make_toy().scripted([])

    def collate_float32(samples: Any) -> Batch:
        batch = task.collate(samples)
        return batch | {"x": batch["x"].float(), "y": batch["y"].float()}

    def losses_of(precision: str) -> list[float]:
        """Before each update; a step that only lowers the scale makes none."""
        toy = make_toy()
        trainer = toy.trainer(
            toy.regressor().float(),
            task=replace(task, collate=collate_float32),
            samples=400,
            batch_size=400,  # one batch an epoch, whatever its order
            epochs=20,
            validate_every_epochs=0,
            validation=None,
            precision=precision,
        )
        rows = trainer.fit().history.steps
        assert len(rows) == 20
        return list(
            {row["global_step"]: row["loss"] for row in rows if row["global_step"]}.values()
        )

    half, exact = losses_of("fp16"), losses_of("fp32")
    assert 10 < len(half) < len(exact) == 20
    assert half == pytest.approx(exact[: len(half)], rel=2e-3)
    assert exact[len(half) - 1] < 0.99 * exact[0]
