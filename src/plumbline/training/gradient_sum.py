"""Gradients summed over all processes, bucket by bucket, while the backward pass goes on.

Every process sends the same buckets in the same order, whatever its share of a window did: with a
parameter that got no gradient, without a sample, and where a batch failed. What is in a bucket
depends on the model alone, so that the same run has the same sums.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from plumbline.models.weights import is_spread
from plumbline.training.processes import Processes, UntoldError
from plumbline.training.skipping import FAILURES

BUCKET_BYTES = 25 * 2**20
"""Gradients that travel together: enough to hide the latency of a message, and so few that most
have gone when the pass ends. As in torch's DistributedDataParallel.

Source: Li et al. 2020, arXiv:2006.15704, sections 3.2 and 5.2.
"""


@dataclass(frozen=True)
class Message:
    """A bucket on its way."""

    bucket: Sequence[nn.Parameter]
    flat: Tensor
    """[elements of the bucket]: this process's gradients, and once `wait` returns those of all."""
    wait: Callable[[], None]


class GradientSum:
    """Adds up, in all processes, the gradients that the passes of one window leave in each.

    A process that is alone keeps its own.
    """

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        """Cut the parameters that train into buckets."""
        self._processes = processes
        parameters = list(model.parameters()) if processes.count > 1 else []
        # The last ones are the first to have their gradients. Not in the order of arrival, in which
        # steps may differ. Gradients of sharded layers are sums already.
        trained = [p for p in parameters[::-1] if p.requires_grad and not is_spread(p)]
        self._buckets = list(_buckets(trained))
        self._place = {p: at for at, bucket in enumerate(self._buckets) for p in bucket}
        self._sent: list[Message] = []
        self._had: set[nn.Parameter] = set()
        """Of which this process has sent a gradient."""
        self._awaited = [0] * len(self._buckets)
        """Parameters of each bucket to which the running pass has yet to come."""

    @contextmanager
    def around(self) -> Iterator[None]:
        """All passes of a window: behind them every bucket has been sent, also where one fails.

        Nothing else may be exchanged within, but what `Processes.agreed` does around it.
        """
        try:
            yield
        except FAILURES:
            # The others wait for the buckets before they can be told. With spread layers they wait
            # within one of those, and an error ends its process.
            if not self._processes.sharded:
                self._send_all()
            raise
        self._send_all()

    @contextmanager
    def during(self, roots: Sequence[Tensor]) -> Iterator[None]:
        """The last backward pass of a window, which sends each bucket as soon as it is full.

        Args:
            roots: what it will start from, losses [] or what was embedded, [batch, width].
        """
        # Spread layers have messages of their own in it, and their order would be by chance.
        if not self._buckets or self._processes.sharded:
            yield
            return
        leaves = _leaves(roots)
        coming = [p for p in self._place if p in leaves]
        self._awaited = [0] * len(self._buckets)
        for parameter in coming:
            self._awaited[self._place[parameter]] += 1
        hooks = [
            p.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            for p in coming
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _arrived(self, parameter: Tensor) -> None:
        """Send what is full now; a gradient that comes once more goes in a later round."""
        assert isinstance(parameter, nn.Parameter)
        self._awaited[self._place[parameter]] -= 1
        while len(self._sent) < len(self._buckets) and self._awaited[len(self._sent)] <= 0:
            self._send_next()

    def _send_all(self) -> None:
        """Send the buckets that have not been sent; the others wait for each of them.

        Raises:
            UntoldError: there is no memory for one.
        """
        try:
            while len(self._sent) < len(self._buckets):
                self._send_next()
        except FAILURES as error:
            raise UntoldError(
                f"process {self._processes.rank} cannot send its gradients "
                f"({' '.join(str(error).split())[:200]}): lower trainer.micro_batch_size"
            ) from error

    @torch.no_grad()
    def _send_next(self) -> None:
        """Take the gradients of the next bucket from its parameters and begin to add them up."""
        bucket = self._buckets[len(self._sent)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        # [elements of the bucket]: one message in place of one for each small tensor.
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._sent.append(Message(bucket, flat, self._processes.begin_sum(flat)))
        self._had.update(p for p in bucket if p.grad is not None)
        for parameter in bucket:
            parameter.grad = None  # what comes to it from here on is not in the message

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for all buckets and leave in `.grad` the sums over all processes.

        A parameter that no process has a gradient of keeps none: an optimiser leaves it alone.
        """
        if not self._buckets:
            return
        sums = self._receive()
        present, more = self._what_there_is()
        # Passes within a backward pass, as of reentrant checkpointing, come to a parameter that
        # they share several times, and the first of them may have sent it.
        while more:
            self._send_all()
            torch._foreach_add_(sums, self._receive())
            present, more = self._what_there_is()
        for parameter, total, number in zip(self._place, sums, present, strict=True):
            parameter.grad = total if number else None

    def _what_there_is(self) -> tuple[list[float], float]:
        """How many processes have had a gradient of each parameter, and how many have more."""
        late = any(p.grad is not None for p in self._place)
        *present, more = self._processes.sum([float(p in self._had) for p in self._place] + [late])
        return present, more

    def _receive(self) -> list[Tensor]:
        """Wait for what was sent: a sum for each parameter, in the order of the buckets."""
        sums = []
        for message in self._sent:
            message.wait()
            parts = torch.split(message.flat, [p.numel() for p in message.bucket])
            # A view would keep the whole bucket in memory as long as one of its gradients.
            sums += [part.view_as(p).clone() for p, part in zip(message.bucket, parts, strict=True)]
        self._sent = []
        return sums


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type, up to `BUCKET_BYTES` at a time."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        size = sum(p.nbytes for p in bucket)
        other = bucket and bucket[0].dtype != parameter.dtype
        if other or (bucket and size + parameter.nbytes > BUCKET_BYTES):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _leaves(roots: Sequence[Tensor]) -> set[Tensor]:
    """The leaves that a backward pass from some tensors will come to."""
    left = [get_gradient_edge(root).node for root in roots]
    seen, found = set(left), set()
    while left:
        node = left.pop()
        if node.name() == "torch::autograd::AccumulateGrad":
            # Asked of the node: to be told that of a parameter takes 50 microseconds each.
            found.add(getattr(node, "variable"))  # noqa: B009  # in no stub
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        left += following
    return found
