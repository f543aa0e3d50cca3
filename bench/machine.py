"""What figures were measured on."""

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path

THREADS = 2
"""Compute threads of what the ledger runs, unless a script takes one for itself."""
LIBRARIES = ("torch", "torchvision", "transformers", "numpy", "pyarrow", "pillow", "onnxruntime")


def cpu_name() -> str:
    """The processor, with family and model: under a hypervisor the name alone says little."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts = dict(part for line in lines if len(part := line.split("\t: ", 1)) == 2)
        facts = {name.strip(): value for name, value in facts.items()}
        name = facts.get("model name", platform.machine())
        family, model = facts.get("cpu family"), facts.get("model")
        return f"{name}, family {family} model {model}" if family else name
    return platform.machine()


def machine() -> dict[str, object]:
    """Processor, cores and versions: what decides whether two figures can be compared."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": THREADS,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }
