"""States are written beside the loop: of their moment, one at a time, and all before the end."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plumbline.errors import OutputError
from plumbline.models.weights import plain_state, read_tensors
from plumbline.training.checkpoint import CheckpointStore, optimizer_tensors
from plumbline.training.host_copy import HostCopy
from plumbline.training.processes import Processes
from tests.training.conftest import Toy
from tests.training.together import MakeJob, Together, ended, settings, states, train

Weights = dict[str, Tensor]
FILES = ("model.safetensors", "optimizer.safetensors")
STEPS = 5
"""Of an epoch."""


class Watched:
    """Notes the weights of every step, and those of every state when it comes to be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before_writing: Callable[[], Any]) -> None:
        self.steps: dict[int, Weights] = {}
        self.written: dict[int, Weights] = {}
        save = CheckpointStore.save

        def watched(store: CheckpointStore, weights: Weights, *rest: Any) -> None:
            before_writing()
            step = rest[1].clock["global_step"]
            self.written[step] = {name: tensor.clone() for name, tensor in weights.items()}
            save(store, weights, *rest)

        monkeypatch.setattr(CheckpointStore, "save", watched)

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        weights = plain_state(self.trainer.model)
        self.steps[step] = {name: tensor.clone() for name, tensor in weights.items()}

    def fit(self, toy: Toy, **settings: Any) -> None:
        quiet = {"validation": None, "validate_every_epochs": 0, "on_log": self.on_log}
        self.trainer = toy.trainer(**{**quiet, **settings})
        self.trainer.fit()

    def compare(self, *steps: int) -> None:
        assert [*self.written] == [*steps]
        for step in steps:
            for name, tensor in self.steps[step].items():
                torch.testing.assert_close(self.written[step][name], tensor, rtol=0, atol=0)
        assert not torch.equal(*(self.steps[n]["head.bias"] for n in steps[:2]))


def test_the_loop_goes_on_while_a_state_is_written_which_is_that_of_its_moment(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    watched = Watched(monkeypatch, go.wait)

    def on_log(step: int, values: Mapping[str, float]) -> None:
        watched.on_log(step, values)
        if step == 5:  # were the state of step 3 waited for, this never came
            go.set()

    watched.fit(toy, on_log=on_log, checkpoint={"every_steps": 3})
    watched.compare(3, 5)
    saved, trained = (read_tensors(toy.folder / "step-5" / n) for n in FILES), watched.trainer
    for tensors, expected in zip(
        saved,
        (plain_state(trained.model), dict(optimizer_tensors(trained._step.optimizer))),
        strict=True,
    ):
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


def test_the_next_state_waits_until_the_one_before_is_written(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, lambda: time.sleep(0.02))  # the loop would overtake it by far
    watched.fit(toy, epochs=2, checkpoint={"every_steps": 1})
    watched.compare(*range(1, 2 * STEPS + 1))


def test_best_weights_and_the_state_of_a_step_share_one_copy(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, take = [], HostCopy.take

    def counting(copy: HostCopy, *arguments: Any, at: int) -> None:
        taken.append(at)
        take(copy, *arguments, at=at)

    monkeypatch.setattr(HostCopy, "take", counting)
    toy.trainer(epochs=2, task=toy.scripted([1.0, 2.0]), monitor="score", mode="max").fit()
    assert taken == [5, 5, 10, 10]  # weights and moments of each epoch's end
    best, state = (read_tensors(toy.folder / f / FILES[0]) for f in ("best", "step-10"))
    for name, tensor in state.items():
        torch.testing.assert_close(best[name], tensor, rtol=0, atol=0)


def failing(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def full(*arguments: Any) -> None:
        raise OutputError("states: the disk is full")

    monkeypatch.setattr(CheckpointStore, method, full)


def test_a_state_that_cannot_be_written_ends_the_training_after_its_next_step(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "save")

    def on_log(step: int, values: Mapping[str, float]) -> None:
        toy.record(step, values)
        if step == 4:
            trainer._saving._writer._last.join()

    trainer = toy.trainer(on_log=on_log, epochs=3, checkpoint={"every_steps": 3})
    with pytest.raises(OutputError, match=r"^states: the disk is full$"):
        trainer.fit()
    assert [step for step, _ in toy.log] == [1, 2, 3, 4]


def test_no_state_counts_on_best_weights_that_could_not_be_written(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "save_best")
    with pytest.raises(OutputError, match="the disk is full"):
        toy.trainer(epochs=1).fit()
    assert CheckpointStore(toy.folder, "").latest() is None


def test_an_error_of_the_loop_is_not_replaced_by_one_of_writing(
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    killed: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()

    def full(*arguments: Any) -> None:
        go.wait()
        raise OutputError("states: the disk is full")

    def on_log(step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            go.set()
            raise killed

    monkeypatch.setattr(CheckpointStore, "save", full)
    with caplog.at_level(logging.ERROR), pytest.raises(killed):
        toy.trainer(on_log=on_log, checkpoint={"every_steps": 1}).fit()
    assert [record.getMessage() for record in caplog.records] == ["states: the disk is full"]


@pytest.mark.parametrize("step", [2, STEPS, 2 * STEPS])
def test_a_signal_ends_the_process_when_the_slowest_state_is_whole(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    watched = Watched(monkeypatch, lambda: time.sleep(0.05))
    others = threading.active_count()  # such as the compiler's, of tests before

    def on_log(now: int, values: Mapping[str, float]) -> None:
        watched.on_log(now, values)
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        watched.fit(toy, on_log=on_log, epochs=2)
    assert ended.value.code == 143
    latest = CheckpointStore(toy.folder, "").latest()
    assert latest is not None
    assert latest.name == f"step-{step}"
    assert threading.active_count() == others


def test_a_signal_while_the_last_state_is_written_is_obeyed(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = iter([lambda: None, lambda: os.kill(os.getpid(), signal.SIGTERM)])
    watched = Watched(monkeypatch, lambda: (next(last)(), time.sleep(0.05)))
    with pytest.raises(SystemExit) as ended:
        watched.fit(toy, epochs=2)
    assert ended.value.code == 143
    watched.compare(5, 10)


@pytest.mark.parametrize(("minutes", "written"), [(1e-9, range(1, 11)), (1e6, (5, 10))])
def test_states_come_by_the_clock_where_that_is_set(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, minutes: float, written: Any
) -> None:
    watched = Watched(monkeypatch, lambda: None)
    watched.fit(toy, epochs=2, checkpoint={"every_minutes": minutes})
    watched.compare(*written)


def test_processes_save_by_the_clock_of_the_main_one_and_go_on_to_the_same_bits(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = make_job("text")
    together(lambda p: train(whole, settings(epochs=3), Path("whole"), p))

    run = settings(epochs=3, checkpoint={"every_minutes": 1e-9})

    def parting(processes: Processes) -> str:
        if not processes.is_main:
            monkeypatch.setattr(time, "monotonic", lambda: 0.0)  # no time passes here
        return ended(make_job("text"), run, processes, 6, signal.SIGKILL)

    main, other = together(parting)
    assert other is None
    assert "another process of this training is gone" in str(main)
    (state,) = states(Path(".ckpt"))
    assert int(state.removeprefix("step-")) > 0
    # Another setting of when states are saved: the training goes on all the same.
    again, later = make_job("text"), settings(epochs=3, checkpoint={"every_steps": 7})
    assert together(lambda p: train(again, later, Path("parted"), p)) == ["led", "followed"]
    for name in ("model.safetensors", "train.csv", "micro.csv", "val.csv", "metrics.json"):
        assert Path("parted", name).read_bytes() == Path("whole", name).read_bytes()


@pytest.mark.parametrize("shard_layers", [False, True])
def test_of_several_processes_all_end_when_a_state_cannot_be_written(
    make_job: MakeJob,
    together: Together,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard_layers: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    failing(monkeypatch, "save")
    spread = {"shard_layers": True, "processes": 2} if shard_layers else {}
    run = settings(epochs=3, checkpoint={"every_steps": 1}, **spread)
    main, other = together(lambda p: train(make_job("text"), run, Path("out"), p))
    assert isinstance(main, OutputError)
    assert "the disk is full" in str(main)
    assert isinstance(other, SystemExit)
    assert not Path("out").exists()
