"""What settings ask of the machine, with GPUs that there are and are not."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import ConfigError
from plumbline.training.config import TrainerConfig
from plumbline.training.launch import decide_machine
from plumbline.training.machine import Machine, asks_for_gpus, check_machine, count_gpus
from plumbline.training.processes import Processes
from tests.training.together import run_together, settings

PLACE = "tasks.t.train.trainer"
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no GPU": ({"device": "cuda"}, 0, f"{PLACE}.device = 'cuda': no GPU here; use auto or cpu"),
    "fp16 without": ({"precision": "fp16"}, 0, f"{PLACE}.precision = 'fp16': no GPU here"),
    "one GPU": (
        {"processes": 2},
        1,
        f"{PLACE}.processes = 2: 2 processes need 2 GPUs, there is 1;",
    ),
    "two GPUs": (
        {"device": "cuda", "processes": 3},
        2,
        "3 processes need 3 GPUs, there are 2; lower",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_more_than_the_machine_has_is_refused(name: str) -> None:
    settings, gpus, message = REFUSED[name]
    trainer = TrainerConfig.model_validate(settings)
    assert asks_for_gpus(trainer)
    with pytest.raises(ConfigError) as refused:
        check_machine(PLACE, trainer, 1, gpus)
    assert str(refused.value).startswith(message) or message in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, 0),
        ({"device": "cuda"}, 1),
        ({"processes": 2}, 2),
        ({"processes": 4, "device": "cpu"}, 1),
        ({"precision": "fp16"}, 1),
    ],
)
def test_what_the_machine_has_is_accepted(settings: dict[str, Any], gpus: int) -> None:
    check_machine(PLACE, TrainerConfig.model_validate(settings), 1, gpus)


def test_processes_that_outnumber_the_cores_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_machine(PLACE, TrainerConfig(processes=2), 10_000, 0)
        check_machine(PLACE, TrainerConfig(processes=1), 10_000, 0)
    (record,) = caplog.records
    assert f"{PLACE}.processes = 2 with threads = 10000 each" in record.getMessage()


def test_gpus_are_counted_as_torch_counts_them() -> None:
    assert count_gpus() == torch.cuda.device_count()


def test_a_process_that_is_alone_computes_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")  # of whatever started it: nothing here is to wait for others
    before = torch.get_num_threads()
    try:
        asked = settings(precision="bf16").model_copy(update={"threads": before + 1})
        assert decide_machine(asked) == Machine(torch.device("cpu"), "bf16", Processes())
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_that_train_together_know_their_places(tmp_path: Path, sharded: bool) -> None:
    config = settings(processes=2, shard_layers=sharded)

    def decided(_: Processes) -> Machine:
        return decide_machine(config, together=True)

    for rank, machine in enumerate(run_together(tmp_path, decided)):
        assert (machine.device.type, machine.precision) == ("cpu", "fp32")
        assert machine.processes == Processes(rank, 2, machine.device, sharded)
