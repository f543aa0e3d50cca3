"""What goes wrong in a step is told with its place, and never reaches the weights."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import TrainingError

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


def all_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


FAULTS = ["nan", "inf", "gradient"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_loss_that_is_not_finite_stops_with_step_and_samples(toy: Any, fault: str) -> None:
    trainer = toy.trainer(task=with_bad_sample(toy, fault), validate_every_epochs=0)
    order = trainer._train.epoch_order(0)
    step = order.index(BAD_SAMPLE) // 4
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert f"optimiser step {step}: loss " in text
    assert f"samples {order[step * 4 : step * 4 + 4]}" in text
    assert "trainer.non_finite: skip" in text
    assert "\n" not in text
    assert all_finite(trainer.model)
    assert len(toy.log) == step  # the steps before are on record


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
    assert all_finite(trainer.model)
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
    assert trainer.clock.skipped == 3
    assert all(
        torch.equal(a, b)
        for a, b in zip(trainer.model.parameters(), toy.regressor().parameters(), strict=True)
    )


def test_many_samples_are_named_in_short(toy: Any) -> None:
    always = toy.spoilt(lambda batch, loss: LossSum(loss.total * math.nan, loss.count))
    trainer = toy.trainer(task=always, batch_size=5, grad_accum_steps=2, validate_every_epochs=0)
    with pytest.raises(TrainingError, match=r"samples \[(\d+, ){7}\d+\] \.\.\.;"):
        trainer.fit()


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


def test_fp16_lowers_its_scale_instead_of_giving_up(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: the scale begins at 65536, too high for a sum over many targets.
    monkeypatch.setattr("plumbline.training.trainer.resolve_precision", lambda *given: "fp16")
    task = toy.scripted([])

    def collate_float32(samples: Any) -> Batch:
        batch = task.collate(samples)
        return batch | {"x": batch["x"].float(), "y": batch["y"].float()}

    trainer = toy.trainer(
        toy.regressor().float(),
        task=replace(task, collate=collate_float32),
        samples=400,
        batch_size=200,
        epochs=20,
        validate_every_epochs=0,
        validation=None,
    )
    losses = [row["loss"] for row in trainer.fit().history.steps]
    assert losses[-1] < losses[0]
