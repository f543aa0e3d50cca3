"""The processes that train one model together, each on its share of every batch.

Every process holds the whole model, unless its layers are spread, and makes the same updates from
gradients summed over all of them; only the first one writes. A process that is alone takes none of
the detours.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.errors import TrainingError
from plumbline.loading.keys import Share
from plumbline.loading.workers import refuse_dead_worker
from plumbline.training.skipping import FAILURES

Result = TypeVar("Result")


class Form(NamedTuple):
    """What a process must know of another one's tensor to receive it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class PeerError(RuntimeError):
    """Another process could not make its part of a step."""


class UntoldError(TrainingError):
    """What ends one process while the others wait for it, so that it alone can say why."""


@contextmanager
def _meeting() -> Iterator[None]:
    """Say in one line that a process is gone, which the backends tell in many words."""
    try:
        yield
    except RuntimeError as error:
        refuse_dead_worker(error)
        if re.search("[Tt]imed? ?out", str(error)):
            raise TrainingError(
                "another process of this training has not answered within trainer.timeout_s; look "
                "what it waits for (a disk, a GPU), or raise it. The last checkpoint stands: run "
                "again to go on from it"
            ) from error
        raise TrainingError(
            "another process of this training is gone; its own message says why. The last "
            "checkpoint stands: run again to go on from it"
        ) from error


@dataclass(frozen=True)
class Processes:
    """One of `count` processes; `Processes()` is alone."""

    rank: int = 0
    count: int = 1
    device: torch.device | None = None
    """Where tensors travel from: that of this process. None where it is alone."""
    sharded: bool = False
    """Whether the model is spread over them, so that none can make a pass without the others."""

    @classmethod
    def join(cls, device: torch.device, timeout_s: float, *, sharded: bool = False) -> "Processes":
        """Meet the others, as the environment that torchrun gives says.

        Args:
            device: what to compute on.
            timeout_s: how long one waits for another, now and later.
            sharded: whether the model will be spread over them.

        Returns:
            This process's place among them, with its own GPU where `device` is one.

        Raises:
            TrainingError: another one is gone before all have met.
        """
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu", timeout=timedelta(seconds=timeout_s))
        joined = cls(state.process_index, state.num_processes, state.device, sharded)
        # The first process holds the addresses of all: were it to fail and end once its own
        # connections stand, a slower one would stop here with a trace in place of one line.
        joined.sum([0.0])
        return joined

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes, logs and shows progress."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of every batch that this process takes."""
        return Share(self.rank, self.count, stand_in=self.sharded)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes of each of some numbers."""
        if self.count == 1:
            return list(values)
        from accelerate.utils import reduce

        # [values] float64: counts of targets stay exact up to 2**53.
        here = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _meeting():
            summed: Tensor = reduce(here, reduction="sum")
        return [float(number) for number in summed.tolist()]

    def largest(self, number: int) -> int:
        """The largest of one number of each process."""
        return max(self.collect(number)) if self.count > 1 else number

    def collect(self, value: Result) -> list[Result]:
        """One value of each process, in the order of the processes."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        with _meeting():
            gathered: list[Result] = gather_object([value])
        return gathered

    def from_main(self, make: Callable[[], Result]) -> Result:
        """What the main process makes, for all; the others wait for it."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        # Where `make` fails, its process ends, and the launcher ends those that wait below.
        values: list[Result | None] = [make() if self.is_main else None]
        with _meeting():
            made: Result = broadcast_object_list(values)[0]
        return made

    def by_model(self, find: Callable[[], Result]) -> Result:
        """What the main process finds by the model, for all: with their help if it is sharded."""
        if not self.sharded:
            return self.from_main(find)
        found = find()
        return self.from_main(lambda: found)

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """A block that computes with a sharded model, for which all processes meet in each layer.

        Raises:
            TrainingError: another one is gone.
        """
        try:
            yield
        except RuntimeError as error:
            # NCCL has an error of its own; gloo, for CPUs, raises a bare one that names its files.
            lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
            if not (self.sharded and lost):
                raise
            with _meeting():
                raise

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Fail everywhere where the block fails anywhere, so that nobody waits for ever.

        The block must not wait for other processes itself. With a sharded model it does: there an
        error ends its process, and that ends the others.

        Raises:
            PeerError: this process did its part, but another could not.
        """
        if self.sharded:
            with self.lockstep():
                yield
            return
        try:
            yield
        except FAILURES as error:
            self._tell(f"{type(error).__name__}: {error}")
            raise
        told = self._tell(None)
        if failed := [f"process {rank}: {text}" for rank, text in enumerate(told) if text]:
            raise PeerError(failed[0])

    def _tell(self, text: str | None) -> list[str | None]:
        """Tell the others of an error, or of none; the texts of all, if there is any."""
        # A number first: texts are pickled and sent only where there is one.
        if self.count == 1 or not self.sum([float(text is not None)])[0]:
            return []
        return self.collect(text)

    def numbers(self, window: Sequence[Batch]) -> list[int]:
        """The sample numbers of a window, over all processes."""
        here = [int(i) for batch in window for i in batch["sample_index"]]
        return [number for part in self.collect(here) for number in part]

    def begin_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to add up a tensor of all processes, in place.

        Returns:
            What waits until it is done; nobody may read or write the tensor before.
        """
        with _meeting():
            work = torch.distributed.all_reduce(tensor, async_op=True)
        assert work is not None, "it is asynchronous"

        def wait() -> None:
            with _meeting():
                work.wait()

        return wait

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Give moving statistics, which each process keeps of its own share, their mean."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        for buffer in model.buffers():
            # Whole numbers count batches, which are as many in every process.
            if buffer.is_floating_point():
                with _meeting():
                    mean: Tensor = reduce(buffer, reduction="mean")
                buffer.copy_(mean)

    def gather(self, parts: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """The parts of all processes: for each of `parts`, that of every process in order.

        Those of this process are the tensors themselves; an empty mapping stands for no sample.
        """
        if self.count == 1:
            return list(parts)
        here = [{n: Form(tuple(t.shape), t.dtype) for n, t in part.items()} for part in parts]
        forms = self.collect(here)  # [processes][parts]
        gathered: list[Mapping[str, Tensor]] = []
        for at, part in enumerate(parts):
            received = self._exchange(part, [form[at] for form in forms])
            gathered += [
                part if rank == self.rank else received[rank] for rank in range(self.count)
            ]
        return [part for part in gathered if part]

    def _exchange(
        self, part: Mapping[str, Tensor], peers: Sequence[Mapping[str, Form]]
    ) -> list[dict[str, Tensor]]:
        """Send a part's tensors and receive those of the others, whose forms are known."""
        from accelerate.utils import gather

        received: list[dict[str, Tensor]] = [{} for _ in peers]
        dtypes = {name: form.dtype for peer in peers for name, form in peer.items()}
        for name, dtype in dtypes.items():
            sizes = [torch.Size(peer[name].shape).numel() if name in peer else 0 for peer in peers]
            # [largest]: shares differ in size, and only tensors of one shape can be gathered.
            sent = torch.zeros(max(sizes), dtype=dtype, device=self.device)
            if name in part:
                sent[: sizes[self.rank]] = part[name].detach().reshape(-1)
            with _meeting():
                rows: Tensor = gather(sent[None])  # [processes, largest]
            for rank, peer in enumerate(peers):
                if name in peer:
                    received[rank][name] = rows[rank][: sizes[rank]].reshape(peer[name].shape)
        return received
