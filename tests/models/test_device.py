"""Where and how exactly to compute follows the setting, or is refused."""

import pytest
import torch

from plumbline.errors import ConfigError
from plumbline.models.device import (
    autocast,
    resolve_device,
    resolve_precision,
    round_float32,
    seed_device,
)

CPU = torch.device("cpu")


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_falls_back_to_the_cpu_and_cuda_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match="device = 'cuda': no GPU here"):
        resolve_device("cuda")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision = 'fp16': needs a GPU"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_set_is_kept(precision: str) -> None:
    assert resolve_precision(precision, CPU) == precision


@pytest.mark.parametrize("units", [False, True])
def test_auto_takes_bf16_on_a_gpu_with_units_alone(
    units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: units)
    expected = "bf16" if units else "fp32"
    assert resolve_precision("auto", torch.device("cuda")) == expected
    assert resolve_precision("auto", CPU) == "fp32"


def test_float32_by_its_name_is_whole_and_rounded_beside_half_precision() -> None:
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    try:
        for precision, matmul in (("bf16", "high"), ("fp16", "high"), ("fp32", "highest")):
            round_float32(precision)
            assert torch.get_float32_matmul_precision() == matmul
            assert cudnn.allow_tf32 == (precision != "fp32")
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def test_only_bf16_casts() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(CPU, "fp32"):
        assert layer(x).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert layer(x).dtype == torch.bfloat16


def test_a_seeded_cpu_draws_what_it_draws_after_a_seed_for_all_devices() -> None:
    torch.manual_seed(2**62 + 3)
    expected = torch.randn(5)
    seed_device(torch.device("cpu"), 2**62 + 3)
    assert torch.equal(torch.randn(5), expected)
