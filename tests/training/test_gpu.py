"""A GPU's figures are among the facts of a training, and missing without one."""

from typing import Any

import pytest
import torch

from plumbline.training.gpu import GpuFigures


def test_without_a_gpu_there_is_nothing_to_report() -> None:
    figures = GpuFigures(torch.device("cpu"))
    figures.sample()
    assert figures.facts() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_figures_of_a_gpu_are_reported(toy: Any) -> None:
    gpu = toy.trainer(device="cuda").fit().facts["gpu"]
    assert gpu["name"] == torch.cuda.get_device_name()
    assert 0 < gpu["peak_memory_bytes"] < gpu["memory_bytes"]
    assert 0 <= gpu.get("utilization_percent", 0) <= 100
