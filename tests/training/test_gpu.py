"""A GPU's figures are among the facts of a training, and missing without one."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plumbline.training.gpu import GpuFigures


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
