"""One batch ahead: while a step computes on a device, the next batch travels to it."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from typing_extensions import override

from plumbline.batch import Batch, finish, map_tensors

STAYS = "sample_index"
"""What of a batch stays on the host: numbers for records, which nothing on a device reads."""


class Lane:
    """The way of batches to a device. This one is the same queue in which the device computes."""

    def __init__(self, device: torch.device) -> None:
        """Lead to a device."""
        self.device = device

    def beside(self) -> AbstractContextManager[object]:
        """The context in which copies are queued."""
        return contextlib.nullcontext()

    def pin(self, tensor: Tensor) -> Tensor:
        """The tensor [batch, ...] in memory from which a copy makes nobody wait."""
        return tensor

    def mark(self) -> Callable[[], None]:
        """What has what is computed from its call on wait for all copies queued by now."""
        return lambda: None

    def hold(self, tensor: Tensor) -> Tensor:
        """The tensor [batch, ...], in memory that stays until what is queued by now has read it."""
        return tensor


class CudaLane(Lane):
    """From pinned memory to a GPU, on a stream beside the one in which the GPU computes."""

    def __init__(self, device: torch.device) -> None:
        """Make the stream."""
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @override
    def beside(self) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = torch.cuda.stream(self._stream)
        return context

    @override
    def pin(self, tensor: Tensor) -> Tensor:
        """See `Lane`."""
        # Torch keeps such memory for the next batch, and gives it away when the copy is done.
        return tensor.pin_memory() if tensor.numel() else tensor

    @override
    def mark(self) -> Callable[[], None]:
        copied = self._stream.record_event()
        # On the GPU alone: the host goes on.
        return lambda: torch.cuda.current_stream(self.device).wait_event(copied)

    @override
    def hold(self, tensor: Tensor) -> Tensor:
        """See `Lane`."""
        # It was allocated for the copying stream, which would take it back for the next batch.
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(self.device))
        return tensor


def lane_to(device: torch.device) -> Lane | None:
    """The lane to a device; None to the host, where batches are made."""
    return CudaLane(device) if device.type == "cuda" else None


def one_ahead(batches: Iterator[list[Batch]], lane: Lane) -> Generator[list[Batch]]:
    """The micro-batches of each batch on the device, finished; the next ones are on their way.

    Each holds two batches there: the one that is given, and the one behind it.
    """
    before = None
    for batch in batches:
        # Before the step of the last one is queued, so that the copy lies beside it.
        sent = _send(batch, lane)
        if before is not None:
            yield before()
        before = sent
    if before is not None:
        yield before()


def _send(batch: list[Batch], lane: Lane) -> Callable[[], list[Batch]]:
    """Set out micro-batches; what is given back gives them where they are needed."""

    def move(tensor: Tensor) -> Tensor:
        return lane.pin(tensor).to(lane.device, non_blocking=True)

    with lane.beside():
        moved = [
            map_tensors({n: v for n, v in each.items() if n != STAYS}, move) | {STAYS: each[STAYS]}
            for each in batch
        ]
        wait = lane.mark()

    def arrive() -> list[Batch]:
        wait()
        return [finish(map_tensors(each, lane.hold)) for each in moved]

    return arrive
