"""Steps, accumulation, schedule and clipping do what a loop written by hand would do."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import ConfigError
from plumbline.loading.random import keyed_seed
from plumbline.training.length import epoch_ends
from plumbline.training.schedule import ScheduleConfig, lr_factor
from tests.training.conftest import SEED

OPTIM = {"lr": 0.05, "weight_decay": 0.3, "betas": [0.9, 0.98], "eps": 1e-6}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> None:
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def watched(toy: Any, seen: list[Batch]) -> Any:
    """The toy task, writing down every batch that it sees."""

    def note(batch: Batch, loss: LossSum) -> LossSum:
        seen.append(batch)
        return loss

    return toy.spoilt(note)


def by_hand(
    toy: Any, batches: list[Batch], accumulate: int, schedule: ScheduleConfig, clip: float | None
) -> tuple[nn.Module, list[float]]:
    """Train with plain AdamW over the same batches; returns the model and the norms."""
    model = toy.regressor()
    decays = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decays, "weight_decay": OPTIM["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-6, foreach=False)
    windows = [batches[at : at + accumulate] for at in range(0, len(batches), accumulate)]
    norms = []
    for step, window in enumerate(windows):
        errors = torch.cat(
            [
                (model(b["x"]).squeeze(1) - b["y"]).square()[b["counts"]]  # those that count
                for b in window
            ]
        )
        plain.zero_grad()
        errors.mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        norms.append(gradients.norm().item())
        if clip is not None and norms[-1] > clip:
            for p in model.parameters():
                p.grad *= clip / (norms[-1] + 1e-6)
        for group in plain.param_groups:
            group["lr"] = 0.05 * lr_factor(schedule, step, len(windows))
        plain.step()
    return model, norms


@pytest.mark.parametrize("clip", [None, 2.2])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_training_agrees_with_plain_adamw(toy: Any, accumulate: int, clip: float | None) -> None:
    seen: list[Batch] = []
    schedule = {"name": "cosine", "warmup_steps": 2}
    trainer = toy.trainer(
        task=watched(toy, seen),
        optim=OPTIM,
        schedule=schedule,
        grad_accum_steps=accumulate,
        max_grad_norm=clip,
        validate_every_epochs=0,
        validation=None,
        epochs=1,
        samples=40,
    )
    result = trainer.fit()
    model, norms = by_hand(toy, seen, accumulate, ScheduleConfig.model_validate(schedule), clip)
    assert_same(trainer.model, model, tolerance=1e-9)
    found = [row["grad_norm"] for row in result.history.steps]
    assert found == pytest.approx(norms, rel=1e-9)
    assert clip is None or max(norms) > clip > min(norms)  # clipping was put to the test


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors if tensor is not None])


@pytest.mark.parametrize("limit", [0.1, 2.0, 1e6])
def test_clipping_cuts_the_gradient_as_torch_does(toy: Any, limit: float) -> None:
    """One step of plain descent at rate 1 moves by the gradient itself."""
    seen: list[Batch] = []
    descent = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "sgd": {"momentum": 0.0}}
    trainer = toy.trainer(
        task=watched(toy, seen),
        optim=descent,
        max_grad_norm=limit,
        max_steps=1,
        validation=None,
        validate_every_epochs=0,
    )
    (row,) = trainer.fit().history.steps
    (batch,), model = seen, toy.regressor()
    before = flat(model.parameters())
    errors = (model(batch["x"]).squeeze(1) - batch["y"]).square()[batch["counts"]]
    errors.mean().backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), limit))
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-12)
    moved = before - flat(trainer.model.parameters())
    clipped = flat(p.grad for p in model.parameters())
    torch.testing.assert_close(moved, clipped, rtol=1e-9, atol=1e-12)
    assert float(moved.norm()) == pytest.approx(min(limit, norm), rel=1e-5)


def test_what_is_frozen_has_no_part_in_the_norm(toy: Any) -> None:
    seen: list[Batch] = []
    trainer = toy.trainer(
        task=watched(toy, seen),
        frozen=["body"],
        max_steps=1,
        validation=None,
        validate_every_epochs=0,
    )
    (row,) = trainer.fit().history.steps
    (batch,), model = seen, toy.regressor()
    errors = (model(batch["x"]).squeeze(1) - batch["y"]).square()[batch["counts"]]
    gradients = torch.autograd.grad(errors.mean(), model.head.parameters())
    assert row["grad_norm"] == pytest.approx(float(flat(gradients).norm()), rel=1e-9)


def test_accumulated_micro_batches_equal_one_large_batch(make_toy: Callable[[], Any]) -> None:
    trainers = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        trainer = make_toy().trainer(
            batch_size=batch_size, grad_accum_steps=accumulate, optim=OPTIM, epochs=3, samples=20
        )
        result = trainer.fit()
        trainers.append((trainer, [row["loss"] for row in result.history.steps]))
    (large, losses), (small, accumulated) = trainers
    assert_same(large.model, small.model, tolerance=1e-6)
    assert accumulated == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 5, 7])
def test_every_counter_equals_a_simulation(toy: Any, accumulate: int) -> None:
    samples, batch_size, epochs = 18, 4, 3
    expected, micro_rows, micro, seen = [], [], 0, 0
    for epoch in range(epochs):
        sizes = [min(batch_size, samples - at) for at in range(0, samples, batch_size)]
        while sizes:
            window, sizes = sizes[:accumulate], sizes[accumulate:]  # shorter at the epoch's end
            step = len(expected) + 1
            micro_rows += [(micro + i, step) for i in range(len(window))]
            micro += len(window)
            seen += sum(window)
            expected.append((step, micro, epoch, seen))
    result = toy.trainer(
        samples=samples, batch_size=batch_size, epochs=epochs, grad_accum_steps=accumulate
    ).fit()
    rows = result.history.steps
    found = [(r["global_step"], r["micro_step"], r["epoch"], r["samples"]) for r in rows]
    assert found == expected
    assert [(r["micro_step"], r["global_step"]) for r in result.history.micro] == micro_rows
    clock = result.clock
    assert (clock.global_step, clock.micro_step, clock.samples) == (len(expected), micro, seen)
    assert (clock.epoch, clock.micro_in_epoch, clock.skipped) == (epochs, 0, 0)
    assert clock.targets == epochs * int(toy.points(samples).counts.sum())


def test_the_schedule_makes_as_many_steps_as_the_optimizer(toy: Any) -> None:
    schedule = {"name": "linear", "warmup_share": 0.25, "final_share": 0.1}
    trainer = toy.trainer(
        epochs=4, samples=20, grad_accum_steps=2, schedule=schedule, optim={"lr": 0.2}
    )
    result = trainer.fit()
    total = result.clock.global_step
    assert trainer.total_steps == total == 12
    config = ScheduleConfig.model_validate(schedule)
    expected = [0.2 * lr_factor(config, step, total) for step in range(total)]
    assert [row["lr"] for row in result.history.steps] == pytest.approx(expected, rel=1e-12)
    assert max(expected) == expected[3] == 0.2
    (steps_of_adam,) = {int(s["step"]) for s in trainer._step.optimizer.state.values()}
    assert steps_of_adam == total


@pytest.mark.parametrize(("limit", "steps"), [(1, 1), (4, 4), (5, 5), (7, 7), (99, 10)])
def test_max_steps_ends_the_training_also_within_an_epoch(toy: Any, limit: int, steps: int) -> None:
    result = toy.trainer(epochs=2, max_steps=limit).fit()
    assert result.clock.global_step == len(result.history.steps) == steps
    assert result.clock.epoch == math.ceil(steps / 5)
    assert result.history.validations[-1]["global_step"] == steps


def test_epochs_of_unequal_length_are_counted_each(toy: Any) -> None:
    """With a limit on tokens the number of batches differs between epochs."""
    trainer = toy.trainer(epochs=4, grad_accum_steps=2, validation=None, validate_every_epochs=0)
    lengths = iter(([4, 1, 3, 2] * 10)[n] for n in range(40))
    batches = list(trainer._train.batches(0))
    trainer._train.count = lambda epoch: [4, 1, 3, 2][epoch]
    trainer._train.micro_batches = lambda epoch, start, size: iter(
        [[batch] for batch in batches[: next(lengths)][start:]]
    )
    assert epoch_ends(trainer._train, trainer._config) == [2, 3, 5, 6]
    trainer.total_steps = 6
    result = trainer.fit()
    assert (result.clock.global_step, result.clock.micro_step, result.clock.epoch) == (6, 10, 4)


def test_losses_are_per_target_that_counts(toy: Any) -> None:
    seen: list[Batch] = []
    trainer = toy.trainer(
        task=watched(toy, seen), grad_accum_steps=2, validation=None, validate_every_epochs=0
    )
    steps = trainer.fit().history.steps
    micro = trainer.progress.history.micro
    assert [row["count"] for row in micro] == [int(b["counts"].sum()) for b in seen]
    model = toy.regressor()  # as it was before the first step
    first = [(model(b["x"]).squeeze(1) - b["y"]).square()[b["counts"]].mean() for b in seen[:2]]
    assert [row["loss"] for row in micro[:2]] == pytest.approx([x.item() for x in first], rel=1e-12)
    for number, row in enumerate(steps):
        window = micro[2 * number : 2 * number + 2]
        total = sum(m["loss"] * m["count"] for m in window)
        assert row["loss"] == pytest.approx(total / sum(m["count"] for m in window), rel=1e-12)


def test_the_log_is_the_history(toy: Any) -> None:
    result = toy.trainer(epochs=2).fit()
    train = [(s, v) for s, v in toy.log if "train/loss" in v]
    assert train == [
        (r["global_step"], {f"train/{n}": r[n] for n in ("loss", "lr", "grad_norm")})
        for r in result.history.steps
    ]
    validated = [(s, v) for s, v in toy.log if "val/loss" in v]
    assert validated == [
        (r["global_step"], {"val/loss": r["loss"]}) for r in result.history.validations
    ]
    assert len(toy.log) == len(train) + len(validated)


def test_two_runs_end_in_the_same_bits_also_with_dropout(make_toy: Callable[[], Any]) -> None:
    models = []
    for noise in (1, 2):
        toy = make_toy()
        trainer = toy.trainer(toy.regressor(dropout=0.4), epochs=2)
        torch.manual_seed(noise)  # the state of the global generator does not matter
        trainer.fit()
        models.append(trainer.model)
    assert_same(*models)


def test_dropout_differs_from_step_to_step(toy: Any) -> None:
    """It is drawn by the seed of the training and the number of the micro-batch alone."""
    same_batch = {"samples": 1, "epochs": 3, "optim": {"lr": 1e-30}}  # no order to differ by
    result = toy.trainer(toy.regressor(dropout=0.5), **same_batch).fit()
    losses = [row["loss"] for row in result.history.steps]
    assert len(set(losses)) == 3
    model, point, expected = toy.regressor(dropout=0.5).train(), toy.points(1), []
    for step in range(3):
        torch.manual_seed(keyed_seed(SEED, "step", step))
        expected.append((model(point.x).squeeze(1) - point.y).square().item())
    assert losses == pytest.approx(expected, rel=1e-12)


def test_every_part_follows_the_schedule_from_its_own_peak(toy: Any) -> None:
    schedule = {"name": "linear", "warmup_steps": 2, "final_share": 0.1}
    optim = {"lr": 0.2, "parts": {"head": {"lr": 0.05}}}
    trainer = toy.trainer(optim=optim, schedule=schedule, epochs=2)
    total = trainer.fit().clock.global_step
    factor = lr_factor(ScheduleConfig.model_validate(schedule), total - 1, total)
    rates = {group["lr"] for group in trainer._step.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.05 * factor, 0.2 * factor], rel=1e-12)


def test_all_targets_ignored_moves_nothing(toy: Any) -> None:
    nothing = toy.spoilt(lambda batch, loss: LossSum(loss.total * 0, loss.count * 0))
    trainer = toy.trainer(task=nothing, validate_every_epochs=0, validation=None, optim=OPTIM)
    result = trainer.fit()
    assert_same(trainer.model, toy.regressor())
    assert all(row["loss"] == 0 and row["grad_norm"] == 0 for row in result.history.steps)
    assert (result.clock.global_step, result.clock.micro_step) == (0, 5)


def test_a_batch_without_a_gradient_moves_nothing(toy: Any) -> None:
    detached = toy.spoilt(lambda batch, loss: LossSum(loss.total.detach() * 0, loss.count * 0))
    trainer = toy.trainer(task=detached, validate_every_epochs=0, validation=None)
    trainer.fit()
    assert_same(trainer.model, toy.regressor())


def test_no_training_sample_is_refused(toy: Any) -> None:
    with pytest.raises(ConfigError, match="no training sample"):
        toy.trainer(samples=0)


def test_a_warmup_longer_than_the_training_is_refused_before_it_begins(toy: Any) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps = 6: .* has 5 steps"):
        toy.trainer(schedule={"name": "cosine", "warmup_steps": 6})


def test_an_unknown_frozen_part_is_refused_before_it_begins(toy: Any) -> None:
    with pytest.raises(ConfigError, match="no part 'bodi'; parts are body, head"):
        toy.trainer(frozen=["bodi"])


def test_device_precision_and_parameter_groups_are_reported(toy: Any) -> None:
    optim = {"lr": 0.1, "weight_decay": 0.2, "parts": {"head": {"lr": 0.01}}}
    facts = toy.trainer(optim=optim).fit().facts
    assert (facts["device"], facts["precision"]) == ("cpu", "fp32")
    columns = ("optimizer", "lr", "weight_decay", "parts", "tensors", "parameters")
    assert [tuple(row[c] for c in columns) for row in facts["parameter_groups"]] == [
        ("adamw", 0.1, 0.2, ["body"], 1, 15),
        ("adamw", 0.1, 0.0, ["body"], 3, 15),
        ("adamw", 0.01, 0.2, ["head"], 1, 5),
        ("adamw", 0.01, 0.0, ["head"], 1, 1),
    ]
    assert "gpu" not in facts
    assert not math.isnan(toy.log[-1][1]["val/loss"])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_training_and_validation_compute_in_the_precision_that_is_set(
    toy: Any, precision: str, dtype: torch.dtype
) -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    batches: list[Batch] = []

    def loss(model: nn.Module, batch: Batch) -> LossSum:
        out = model(batch["x"].float()).squeeze(1)
        seen[model.training].add(out.dtype)
        batches.append(batch)
        return LossSum((out.float() - batch["y"]).square().sum(), batch["counts"].sum())

    task = replace(toy.spoilt(lambda batch, loss: loss), loss=loss)
    result = toy.trainer(toy.regressor().float(), task=task, precision=precision).fit()
    assert seen == {True: {dtype}, False: {dtype}}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), torch.no_grad():
        first = loss(toy.regressor().float(), batches[0])
    expected = float(first.total / first.count)
    assert result.history.steps[0]["loss"] == pytest.approx(expected, rel=1e-6)
