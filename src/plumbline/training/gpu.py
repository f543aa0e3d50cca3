"""What a training made of its GPU; nothing where there is none."""

import importlib

import torch


class GpuFigures:
    """Peak memory and utilisation from the start of a training on."""

    def __init__(self, device: torch.device) -> None:
        """Begin to measure."""
        self._device = device if device.type == "cuda" else None
        self._utilization: list[int] = []
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)

    def sample(self) -> None:
        """Take a reading of the utilisation, where the driver gives one."""
        if self._device is None:
            return
        try:
            nvml = importlib.import_module("pynvml")  # torch asks it, and does not require it
        except ImportError:
            return
        try:
            self._utilization.append(torch.cuda.utilization(self._device))
        except (RuntimeError, nvml.NVMLError):
            return  # no rights to it, or a share of a GPU, which has no figure of its own

    def facts(self) -> dict[str, object]:
        """`{"gpu": {name, memory_bytes, peak_memory_bytes, utilization_percent}}`, or nothing."""
        if self._device is None:
            return {}
        figures: dict[str, object] = {
            "name": torch.cuda.get_device_name(self._device),
            "memory_bytes": torch.cuda.get_device_properties(self._device).total_memory,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(self._device),
        }
        if self._utilization:
            figures["utilization_percent"] = sum(self._utilization) / len(self._utilization)
        return {"gpu": figures}
