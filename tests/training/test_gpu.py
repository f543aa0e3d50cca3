"""On a GPU a training gives the same bits again, and its figures are among its facts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plumbline.files import read_digests
from plumbline.training.gpu import GpuFigures
from plumbline.training.launch import decide_machine
from plumbline.training.processes import Processes
from tests.tiny import CASES
from tests.training.together import settings, train


def test_without_a_gpu_there_is_nothing_to_report() -> None:
    figures = GpuFigures(torch.device("cpu"))
    figures.sample()
    assert figures.facts() == {}


@pytest.mark.parametrize("readings", [None, [40, 60]])
def test_utilisation_is_the_mean_of_its_readings_and_missing_without(
    monkeypatch: pytest.MonkeyPatch, readings: list[int] | None
) -> None:
    device = SimpleNamespace(total_memory=80)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: device)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 30)
    expected = {"name": "A GPU", "memory_bytes": 80, "peak_memory_bytes": 30}
    if readings:
        given = iter(readings)
        monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=OSError))
        monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(given))
        expected["utilization_percent"] = 50
    else:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    figures = GpuFigures(torch.device("cuda"))
    for _ in range(2):
        figures.sample()
    assert figures.facts() == {"gpu": expected}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_figures_of_a_gpu_are_reported(toy: Any) -> None:
    gpu = toy.trainer(device="cuda").fit().facts["gpu"]
    assert gpu["name"] == torch.cuda.get_device_name()
    assert 0 < gpu["peak_memory_bytes"] < gpu["memory_bytes"]
    assert 0 <= gpu.get("utilization_percent", 0) <= 100


@pytest.fixture
def any_kernels() -> Iterator[None]:
    """Leaves the choice of kernels as it found it: it is the process's."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("any_kernels")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_training_on_a_gpu_ends_in_the_same_bits_again(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    asked = settings(batch_size=16, device="cuda", precision=precision)
    for out in ("once", "again"):
        train(make_job(name), asked, Path(out), Processes())
    assert read_digests(Path("again")) == read_digests(Path("once"))


@pytest.mark.usefixtures("any_kernels")
@pytest.mark.parametrize(
    ("device", "deterministic", "expected"),
    [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_kernels_that_repeat_are_chosen_for_a_gpu_by_default(
    monkeypatch: pytest.MonkeyPatch, device: str, deterministic: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = settings(device=device, deterministic=deterministic)
    assert settings().train.trainer.deterministic
    torch.use_deterministic_algorithms(False)
    decide_machine(asked)
    assert torch.are_deterministic_algorithms_enabled() is expected
    assert not torch.utils.deterministic.fill_uninitialized_memory or not expected
