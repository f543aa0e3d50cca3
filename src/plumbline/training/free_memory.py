"""How much memory a training may still take."""

import ctypes
from pathlib import Path

import torch

_M_MMAP_THRESHOLD = -3
"""Of malloc.h: blocks from this size on are the system's own."""
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU, or of the machine or container of a CPU; None where the system is silent."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    known = [left for left in (_of_machine(), _of_container()) if left is not None]
    return min(known, default=None)


def return_freed_memory() -> None:
    """Let glibc give large blocks back to the system, which it otherwise keeps for the next ones.

    Layers that come and go leave holes in what it keeps: with gradient checkpointing 40 % more
    than a training needs, and with sharding more than that saves.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 2**20)


def _of_machine() -> int | None:
    kilobytes = _field(Path("/proc/meminfo"), "MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _of_container() -> int | None:
    """What the limit of a cgroup (version 2) leaves; files in its cache go when memory is asked."""
    limit, used = _text(_CGROUP / "memory.max"), _text(_CGROUP / "memory.current")
    if not (limit.isdigit() and used.isdigit()):
        return None  # "max": no limit
    return int(limit) - int(used) + (_field(_CGROUP / "memory.stat", "inactive_file") or 0)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _field(file: Path, name: str) -> int | None:
    """The number behind a name, of a file with a pair in each line."""
    pairs = (line.split() for line in _text(file).splitlines())
    return next((int(pair[1]) for pair in pairs if pair[0] == name), None)
