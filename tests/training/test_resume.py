"""A run that is killed anywhere and started again ends in the bits of one never killed."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import CheckpointError
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.history import FitResult
from plumbline.training.trainer import Trainer

RUN = {
    "epochs": 3,
    "grad_accum_steps": 2,
    "optim": {"lr": 0.05, "parts": {"head": {"lr": 0.01}}},
    "schedule": {"name": "cosine", "warmup_steps": 2},
}
CALLS = 3 * (3 + 1)
"""Log calls of that run: three optimiser steps and a validation in each epoch."""

SAVING: list[dict[str, Any]] = [
    {},
    {"checkpoint": {"every_steps": 1}},
    {"checkpoint": {"every_steps": 2}},
    {"checkpoint": {"every_minutes": 1e-9}},  # that much has passed by every step
]


def build(toy: Any, **settings: Any) -> Trainer:
    trainer: Trainer = toy.trainer(toy.regressor(dropout=0.4), **{**RUN, **settings})
    return trainer


def outcome(trainer: Trainer, result: FitResult) -> dict[str, Any]:
    """Everything that a run ends in, to be compared exactly."""
    weights = {n: t.tolist() for n, t in trainer.model.state_dict().items()}
    return {
        "weights": weights,
        "history": vars(result.history),
        "clock": vars(result.clock),
        "best": vars(result.best),
    }


def uninterrupted(toy: Any, **settings: Any) -> dict[str, Any]:
    trainer = build(toy, **settings)
    return outcome(trainer, trainer.fit())


def resumed(toy: Any, **settings: Any) -> dict[str, Any]:
    torch.manual_seed(99)  # a new process begins with another state of the global generator
    trainer = build(toy, **settings)
    return outcome(trainer, trainer.fit())


@pytest.mark.parametrize(
    "saving", SAVING, ids=["epochs", "every step", "every second step", "by the clock"]
)
def test_a_run_killed_at_any_log_call_ends_in_the_same_bits(
    make_toy: Callable[[], Any], killed: type[Exception], saving: dict[str, Any]
) -> None:
    expected = uninterrupted(make_toy(), **saving)
    last_validation = CALLS - 1
    for call in range(CALLS):
        if call == last_validation and saving in (SAVING[1], SAVING[3]):
            continue  # a test of its own, below
        toy = make_toy()
        with pytest.raises(killed):
            build(toy, on_log=toy.killed_at(call), **saving).fit()
        assert resumed(toy, **saving) == expected, call


@pytest.mark.parametrize("settings", [{}, {"max_steps": 4}, {"epochs": 1}])
def test_a_run_killed_in_its_last_validation_validates_when_it_goes_on(
    make_toy: Callable[[], Any], killed: type[Exception], settings: dict[str, Any]
) -> None:
    settings = {**settings, **SAVING[1]}
    steps = settings.get("max_steps", 3 * settings.get("epochs", 3))
    calls_before = steps + (steps - 1) // 3
    toy = make_toy()
    with pytest.raises(killed):
        build(toy, on_log=toy.killed_at(calls_before), **settings).fit()
    assert resumed(toy, **settings) == uninterrupted(make_toy(), **settings)


KINDS: dict[str, dict[str, Any]] = {
    "sgd": {"optim": {"name": "sgd", "lr": 0.05, "sgd": {"nesterov": True}}},
    "muon": {"optim": {"name": "muon", "lr": 0.05, "parts": {"head": {"lr": 0.01}}}},
    "one_cycle": {"schedule": {"name": "one_cycle", "warmup_steps": 3}},
    "plateau": {"schedule": {"name": "plateau", "plateau_patience": 0}},
    "validation by steps": {"validate_every_steps": 2},
    "validation by steps alone": {"validate_every_steps": 2, "validate_every_epochs": 0},
    "early stopping by steps": {"validate_every_steps": 1, "early_stopping": {"patience": 3}},
}


@pytest.mark.parametrize("saving", SAVING[:2], ids=["epochs", "every step"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_schedule_and_validation_resumes_in_the_same_bits(
    make_toy: Callable[[], Any], killed: type[Exception], kind: str, saving: dict[str, Any]
) -> None:
    settings = {**KINDS[kind], **saving}
    whole = make_toy()
    expected = uninterrupted(whole, **settings)
    if kind == "plateau":  # the loss of the validation points rises, so the third epoch is slower
        rates = [row["lr"] for row in expected["history"]["steps"][-3:]]
        assert rates == pytest.approx([0.005] * 3, rel=1e-9)
    for call in range(0, len(whole.log), 2):
        toy = make_toy()
        with pytest.raises(killed):
            build(toy, on_log=toy.killed_at(call), **settings).fit()
        assert resumed(toy, **settings) == expected, call


def test_a_run_killed_again_and_again_ends_in_the_same_bits(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    saving = SAVING[1]
    toy, kills = make_toy(), 0
    while True:
        try:
            found = outcome(trainer := build(toy, on_log=toy.killed_at(2), **saving), trainer.fit())
        except killed:
            kills += 1
            assert kills < 30
        else:
            break
    assert kills >= 5
    assert found == uninterrupted(make_toy(), **saving)


@pytest.mark.parametrize("method", ["save", "save_best"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_around_a_save_ends_in_the_same_bits(
    make_toy: Callable[[], Any],
    killed: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    when: str,
) -> None:
    expected = uninterrupted(make_toy())
    original = getattr(CheckpointStore, method)
    for number in range(3):
        toy, calls = make_toy(), iter(range(1000))

        def dying(*arguments: Any, last: int = number, calls: Any = calls) -> None:
            call = next(calls)
            if call == last and when == "before":
                raise killed
            original(*arguments)
            if call == last:
                raise killed

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointStore, method, dying)
            try:
                build(toy).fit()
            except killed:
                pass
            else:
                assert method == "save_best"  # not every validation is an improvement
        assert resumed(toy) == expected, number


def test_early_stopping_is_remembered(make_toy: Callable[[], Any], killed: type[Exception]) -> None:
    settings = {
        "epochs": 30,
        "optim": {"lr": 0.5},
        "schedule": {"name": "constant"},
        "early_stopping": {"patience": 2},
    }
    expected = uninterrupted(make_toy(), **settings)
    epochs = expected["clock"]["epoch"]
    assert epochs < 30
    for call in (4 * epochs - 6, 4 * epochs - 1):
        toy = make_toy()
        with pytest.raises(killed):
            build(toy, on_log=toy.killed_at(call), **settings).fit()
        assert resumed(toy, **settings) == expected


def test_a_finished_run_is_not_trained_again(toy: Any) -> None:
    expected = uninterrupted(toy)
    trainer = build(toy, on_log=toy.killed_at(0))
    assert outcome(trainer, trainer.fit()) == expected


def test_frozen_parts_are_compared_with_the_start_also_after_a_resume(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    expected = uninterrupted(make_toy(), frozen=["head"], optim={})
    toy = make_toy()
    with pytest.raises(killed):
        build(toy, on_log=toy.killed_at(6), frozen=["head"], optim={}).fit()
    assert resumed(toy, frozen=["head"], optim={}) == expected


def test_a_foreign_fingerprint_is_refused(make_toy: Callable[[], Any]) -> None:
    toy = make_toy()
    uninterrupted(toy)
    with pytest.raises(
        CheckpointError, match=r"step-15: belongs to another run \(fingerprint f{12}"
    ):
        build(toy, fingerprint="0" * 64).fit()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_one_flipped_bit_in_a_checkpoint_is_refused_by_name(
    make_toy: Callable[[], Any], killed: type[Exception], name: str
) -> None:
    toy = make_toy()
    with pytest.raises(killed):
        build(toy, on_log=toy.killed_at(6)).fit()
    file = toy.folder / "step-5" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        CheckpointError,
        match=rf"step-5/{name}: its bytes changed.*; remove {toy.folder}, and the training begins",
    ):
        build(toy).fit()


def test_a_damaged_state_beside_an_older_one_is_refused_with_what_remains_without_it(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    toy = make_toy()
    with pytest.raises(killed):
        build(toy, on_log=toy.killed_at(10), checkpoint={"keep_every_epochs": 1}).fit()
    (toy.folder / "step-10/model.safetensors").write_bytes(b"damaged")
    remedy = f"remove {toy.folder}/step-10, and the training goes on from step-5 when run again"
    with pytest.raises(CheckpointError, match=f"its bytes changed.*; {remedy}"):
        build(toy).fit()
    shutil.rmtree(toy.folder / "step-10")  # as it says
    assert resumed(toy) == uninterrupted(make_toy())


def test_best_weights_that_are_damaged_or_gone_are_refused_before_the_first_step(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    toy = make_toy()
    with pytest.raises(killed):
        build(toy, on_log=toy.killed_at(6)).fit()
    (toy.folder / "best/model.safetensors").write_bytes(b"damaged")
    toy.log.clear()
    with pytest.raises(CheckpointError, match=f"best/model.*changed.*; remove {toy.folder}, and"):
        build(toy).fit()
    shutil.rmtree(toy.folder / "best")
    with pytest.raises(CheckpointError, match=f"best: no digests.*; remove {toy.folder}, and"):
        build(toy).fit()
    assert not toy.log
    shutil.rmtree(toy.folder)  # as it says
    assert resumed(toy) == uninterrupted(make_toy())


def test_half_written_states_and_copies_under_other_names_are_passed_over(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    toy = make_toy()
    with pytest.raises(killed):
        build(toy, on_log=toy.killed_at(6)).fit()
    for leftover in (".step-9.partial-999999", ".step-9.before-999999", "step-9.bak", "step-x"):
        shutil.copytree(toy.folder / "step-5", toy.folder / leftover)
    assert resumed(toy) == uninterrupted(make_toy())
    assert {"step-9.bak", "step-x"} <= folders(toy)  # a copy of one's own is nobody else's


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("call", [1, 3, 4])
def test_a_signal_saves_the_state_at_the_next_step_and_ends_the_process(
    make_toy: Callable[[], Any], number: int, code: int, call: int
) -> None:
    toy, calls = make_toy(), iter(range(100))

    def send(step: int, values: Mapping[str, float]) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    trainer = build(toy, on_log=send)
    with pytest.raises(SystemExit) as ended:
        trainer.fit()
    assert ended.value.code == code
    assert signal.getsignal(number) == before
    latest = CheckpointStore(toy.folder, "").latest()
    assert latest is not None
    assert latest.name == f"step-{trainer.progress.clock.micro_step}"
    assert resumed(toy) == uninterrupted(make_toy())


def folders(toy: Any) -> set[str]:
    folder: Path = toy.folder
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_after_fifteen_epochs_snapshots_the_last_state_and_the_best_remain(toy: Any) -> None:
    toy.trainer(epochs=15).fit()
    assert folders(toy) == {"step-35", "step-70", "step-75", "best"}


@pytest.mark.parametrize(("every", "expected"), [(0, {"step-20"}), (2, {"step-10", "step-20"})])
def test_snapshots_follow_their_setting(toy: Any, every: int, expected: set[str]) -> None:
    toy.trainer(epochs=4, checkpoint={"keep_every_epochs": every, "every_steps": 1}).fit()
    assert folders(toy) == expected | {"best"}


def test_snapshots_outlive_a_kill(make_toy: Callable[[], Any], killed: type[Exception]) -> None:
    toy = make_toy()
    settings = {"epochs": 5, "checkpoint": {"keep_every_epochs": 2}}
    with pytest.raises(killed):
        toy.trainer(on_log=toy.killed_at(6 * 2 + 3), **settings).fit()
    assert folders(toy) == {"step-10", "best"}
    toy.trainer(**settings).fit()
    assert folders(toy) == {"step-10", "step-20", "step-25", "best"}
