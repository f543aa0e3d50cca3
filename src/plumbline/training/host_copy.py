"""Copies of a training's tensors in the memory of the host, in buffers that are made once."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class HostCopy:
    """Tensors as they were at one moment, to be read while the training goes on.

    The buffers stay, and the next copy overwrites them: fresh memory for each would cost more than
    the copying. Those of a GPU's tensors are pinned.
    """

    def __init__(self) -> None:
        """Nothing is copied yet."""
        self.at: int | None = None
        """When the tensors were copied, in batches since the training began."""
        self._buffers: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, tensors: Iterable[tuple[str, Tensor]], *, at: int) -> None:
        """Copy tensors by their names; on a GPU the copies are only begun.

        They are made in the stream in which the weights are updated, so the next update of a tensor
        comes after its copy, and the host need not wait for either.
        """
        before, self._buffers, self._copied, self.at = self._buffers, {}, None, at
        device = None
        for name, tensor in tensors:
            buffer = before.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer
            if tensor.is_cuda:
                buffer.copy_(tensor, non_blocking=True)
                device = tensor.device
            else:
                # By one thread, unlike torch's: beside other jobs a copy by several waits, tensor
                # for tensor, for the slowest of them (3 to 10 times as long).
                np.copyto(_as_bytes(buffer), _as_bytes(tensor))
        if device is not None:
            self._copied = torch.cuda.current_stream(device).record_event()

    def read(self) -> Mapping[str, Tensor]:
        """The copies by their names, once they are whole; from any thread."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._buffers


def _as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes [elements * size] of a tensor of any type; its own memory if it is contiguous."""
    array: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array
