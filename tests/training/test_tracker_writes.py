"""What reaches the run record: a write for each optimiser step, none for a micro-batch."""

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.tracking.record import record_run


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")


@pytest.mark.parametrize(
    ("micro_batches", "accumulate", "writes"),
    [(1000, 4, 250), (1000, 1, 1000), (1001, 4, 251), (3, 4, 1)],
)
def test_an_epoch_writes_once_for_each_optimiser_step(
    toy: Any, micro_batches: int, accumulate: int, writes: int
) -> None:
    with record_run(stage="finetune", key="toy", config={}) as run:
        trainer = toy.trainer(
            samples=micro_batches,
            batch_size=1,
            grad_accum_steps=accumulate,
            validation=None,
            validate_every_epochs=0,
            on_log=run.metrics,
        )
        history = trainer.fit().history
    assert run.path is not None
    events = [json.loads(line) for line in run.path.read_text(encoding="utf-8").splitlines()]
    points = [event for event in events if event["event"] == "metrics"]
    assert len(points) == len(history.steps) == writes
    assert len(history.micro) == micro_batches
    names = ("loss", "lr", "grad_norm")
    for point, row in zip(points, history.steps, strict=True):
        assert point["step"] == row["global_step"]
        assert point["values"] == {f"train/{name}": row[name] for name in names}


def test_a_validation_is_a_write_of_its_own(toy: Any) -> None:
    with record_run(stage="finetune", key="toy", config={}) as run:
        toy.trainer(epochs=3, validate_every_epochs=2, on_log=run.metrics).fit()
    assert run.path is not None
    events = [json.loads(line) for line in run.path.read_text(encoding="utf-8").splitlines()]
    values = [set(event["values"]) for event in events if event["event"] == "metrics"]
    assert sum(v == {"train/loss", "train/lr", "train/grad_norm"} for v in values) == 15
    assert sum(v == {"val/loss"} for v in values) == 2
    assert len(values) == 17
