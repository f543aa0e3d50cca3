"""What decides whether two machines may be expected to compute the same bits."""

import json
import platform
import re
import sys
from pathlib import Path

from pydantic import Field, ValidationError

from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.files import dump_json, sha256_file
from plumbline.params import installed_versions
from plumbline.waiting import run_command

RECORD = "reproduction.json"
"""In git beside dvc.lock: the machine that made it. No output, so that no stage depends on it."""

CPU_INFO = Path("/proc/cpuinfo")

_INSTRUCTIONS = re.compile(r"(avx|amx|fma|f16c|sse4|asimd|sve)")
"""Flags by which numerical libraries choose their kernels."""

# In a process of its own: importing torch takes seconds and memory that comparing does not need.
_ASK_TORCH = """
import json, torch
cuda = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
capability = torch.backends.cpu.get_cpu_capability()
print(json.dumps({"build": torch.__version__, "capability": capability, "accelerators": cuda}))
"""


class Machine(Config):
    """A type of machine with what is installed on it: equal bits are promised for equal ones."""

    architecture: str
    cpu: str
    """Name with vendor, family and model: under a hypervisor the name alone says little."""
    instructions: list[str]
    capability: str
    """The vector instructions that torch's own kernels use, e.g. AVX512."""
    accelerators: list[str]
    """Names of the GPUs that torch sees."""
    threads: int = Field(ge=1)
    """Compute threads of the stages (`threads` of params.yaml)."""
    python: str
    libc: str
    versions: dict[str, str]
    """Of the libraries that shape results; torch with its build, which decides on its kernels."""

    def differences(self, other: "Machine") -> list[str]:
        """`name: mine, not theirs` for everything that is not the same."""
        mine, theirs = self.model_dump(), other.model_dump()
        lines = []
        for name in mine:
            if name == "versions":
                names = sorted({*self.versions, *other.versions})
                pairs = [(n, self.versions.get(n), other.versions.get(n)) for n in names]
            else:
                pairs = [(name, mine[name], theirs[name])]
            lines += [f"{n}: {_shown(a)}, not {_shown(b)}" for n, a, b in pairs if a != b]
        return lines


class MachineRecord(Config):
    """reproduction.json."""

    lock_sha256: str
    """Of the dvc.lock that the machine made: with another lock the record is stale."""
    machine: Machine


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def describe_machine(threads: int) -> Machine:
    """Describe this machine.

    Raises:
        ConfigError: torch cannot be imported.
    """
    command = [sys.executable, "-c", _ASK_TORCH]
    asked = run_command(command)
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            f"torch cannot be asked for the CPU's type ({last}); install requirements.lock"
        )
    told = json.loads(asked.stdout)
    return Machine(
        architecture=platform.machine(),
        cpu=cpu_name(CPU_INFO),
        instructions=cpu_instructions(CPU_INFO),
        threads=threads,
        python=platform.python_version(),
        libc=" ".join(platform.libc_ver()).strip() or "unknown",
        versions=installed_versions() | {"torch": told["build"]},
        capability=told["capability"],
        accelerators=told["accelerators"],
    )


def _cpu_fields(info: Path) -> dict[str, str]:
    """The fields of the first processor that `/proc/cpuinfo` lists; none where there is no such."""
    try:
        first = info.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_name(info: Path) -> str:
    """The processor's name with what tells its type."""
    fields = _cpu_fields(info)
    name = fields.get("model name") or platform.processor() or platform.machine()
    wanted = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
    known = [f"{field} {fields[field]}" for field in wanted if field in fields]
    return f"{name} ({', '.join(known)})" if known else name


def cpu_instructions(info: Path) -> list[str]:
    """The vector instructions that the processor offers."""
    fields = _cpu_fields(info)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return sorted(flag for flag in flags if _INSTRUCTIONS.match(flag))


def read_record(folder: Path) -> MachineRecord | None:
    """Read reproduction.json; None where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        return MachineRecord.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise ConfigError(
            f"{file}: not a record of a machine; write it with plumbline verify --record"
        ) from None


def dump_record(lock: Path, machine: Machine) -> str:
    """The text of reproduction.json for a dvc.lock that `machine` made."""
    record = MachineRecord(lock_sha256=sha256_file(lock), machine=machine)
    return dump_json(record.model_dump())
