"""A machine's type decides whether equal bits may be expected."""

import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import ConfigError
from plumbline.reproduction import machine as machine_module
from plumbline.reproduction.machine import (
    Machine,
    cpu_instructions,
    cpu_name,
    describe_machine,
    dump_record,
    read_record,
)

HERE = Machine(
    architecture="x86_64",
    cpu="AMD EPYC (vendor_id AuthenticAMD, cpu family 25, model 17)",
    instructions=["avx2", "avx512f"],
    capability="AVX512",
    accelerators=[],
    threads=2,
    python="3.11.7",
    libc="glibc 2.36",
    versions={"numpy": "2.4.6", "torch": "2.15.0+cpu"},
)

CPU_INFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R)
flags\t\t: fpu sse4_2 amx_tile avx2 fma hypervisor

processor\t: 1
model name\t: other
"""


def test_the_same_type_differs_in_nothing() -> None:
    assert HERE.differences(HERE.model_copy()) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"threads": 4}, "threads: 4, not 2"),
        ({"accelerators": ["NVIDIA H200"]}, "accelerators: NVIDIA H200, not none"),
        ({"capability": "AVX2"}, "capability: AVX2, not AVX512"),
        (
            {"versions": {"numpy": "2.4.6", "torch": "2.15.0+cu130"}},
            "torch: 2.15.0+cu130, not 2.15.0+cpu",
        ),
        ({"versions": {"numpy": "2.4.6"}}, "torch: None, not 2.15.0+cpu"),
    ],
)
def test_whatever_can_change_bits_makes_another_type(change: dict[str, object], line: str) -> None:
    assert HERE.model_copy(update=change).differences(HERE) == [line]


def test_the_processor_is_told_by_more_than_its_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(CPU_INFO, encoding="utf-8")
    expected = "Intel(R) Xeon(R) (vendor_id GenuineIntel, cpu family 6, model 143)"
    assert cpu_name(info) == expected
    assert cpu_instructions(info) == ["amx_tile", "avx2", "fma", "sse4_2"]


def test_a_system_without_cpuinfo_still_has_a_name(tmp_path: Path) -> None:
    assert cpu_name(tmp_path / "absent")
    assert cpu_instructions(tmp_path / "absent") == []


def test_this_machine_is_described_as_torch_sees_it() -> None:
    import torch

    here = describe_machine(threads=3)
    assert here.capability == torch.backends.cpu.get_cpu_capability()
    assert here.versions["torch"] == torch.__version__
    assert here.threads == 3
    assert describe_machine(threads=3) == here


def test_without_torch_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_ASK_TORCH", "import no_such_torch")
    with pytest.raises(ConfigError, match=r"'no_such_torch'.*install requirements.lock"):
        describe_machine(threads=1)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("stages: {}\n", encoding="utf-8")
    assert read_record(tmp_path) is None
    (tmp_path / "reproduction.json").write_text(
        dump_record(tmp_path / "dvc.lock", HERE), encoding="utf-8"
    )
    record = read_record(tmp_path)
    assert record is not None
    assert record.machine == HERE


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reproduction.json").write_text('{"machine": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match="not a record of a machine; write it with"):
        read_record(tmp_path)


def test_verifying_does_not_import_torch() -> None:
    code = "import sys, plumbline.cli.verify; print('torch' in sys.modules)"
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
