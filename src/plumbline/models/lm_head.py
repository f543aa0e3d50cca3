"""The last map of a language model, from hidden states to logits of the whole vocabulary.

Logits are the largest tensors of a training: at a vocabulary of 152,000 a token's take more than
what all layers keep of it. So they are made where a label is, and a bounded number at a time.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from plumbline.batch import LossSum
from plumbline.models.packed import Packing

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""Of logits in float32 that are made at a time; a loss keeps some three times as much. A GPU would
wait for the host to begin the many kernels of small ones."""
COMPILED_BYTES = 2**32
"""Of logits in half precision that a compiled loss makes at a time."""

Found = TypeVar("Found")
Part = Callable[[Tensor, Tensor], Found]
"""(logits [n, vocab], labels [n]) -> what is made of them, such as a loss whose sums add up."""

logger = logging.getLogger(__name__)


class LanguageNet(Protocol):
    """What is used of a language model of transformers."""

    def get_output_embeddings(self) -> nn.Module:
        """Its last map: [..., width] to [..., vocab]."""


class _Choice:
    """A hook before the map, which is given what is chosen of its input, or all of it."""

    choose: Callable[[Tensor], Tensor] | None = None

    def __call__(self, module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
        return None if self.choose is None else (self.choose(given[0]),)


class LmHead:
    """The last map of a model, which lets it be called where labels are alone."""

    def __init__(self, net: LanguageNet) -> None:
        """Take a model; what it does to logits behind the map is found out when it runs."""
        self._net = net
        self._is_last: bool | None = None
        self._kept: _Choice | None = None

    def loss(
        self,
        run: Callable[[], Tensor],
        labels: Tensor,
        labelled: Tensor | None,
        part: Callable[[Tensor, Tensor], LossSum],
    ) -> LossSum:
        """Call a model and sum the loss of its logits; arguments as in `over_labels`."""
        hidden, logits, chosen = self._called(run, labels, labelled)
        if hidden is None:
            return part(logits, chosen)
        return chunked_loss(self.map, hidden, chosen, part)

    def over_labels(
        self,
        run: Callable[[], Tensor],
        labels: Tensor,
        labelled: Tensor | None,
        part: Part[Found],
    ) -> list[Found]:
        """Call a model and see what its logits say where a label is; no gradient is wanted.

        Args:
            run: calls the model; its logits.
            labels: [batch, seq], of the positions whose hidden states the map is given,
                `IGNORE_INDEX` where none counts.
            labelled: the places of those that count, as in `labelled_places`; None: all do.
            part: is called with all logits that count, or with chunks of them one after the other.

        Returns:
            What `part` gives of each chunk, in the order of the positions.
        """
        hidden, logits, chosen = self._called(run, labels, labelled)
        if hidden is None:
            return [part(logits, chosen)]
        return [part(self.map(states), some) for states, some in _chunks(self.map, hidden, chosen)]

    @property
    def map(self) -> nn.Module:
        """[..., width] to [..., vocab]."""
        return self._net.get_output_embeddings()

    @torch.no_grad()
    def settle(self, run: Callable[[], Tensor], labels: Tensor, labelled: Tensor | None) -> None:
        """Do before a compiler looks what no program can: hook the map, and see what is behind it.

        Args:
            run: calls the model; its logits.
            labels: [batch, seq], as in `over_labels`.
            labelled: the places of those that count, or None.
        """
        if self._kept is None:
            self._kept = _Choice()
            self.map.register_forward_pre_hook(self._kept)
        if self._is_last is None:
            self._find_last(run, labelled)

    def _called(
        self, run: Callable[[], Tensor], labels: Tensor, labelled: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Call the model.

        Returns:
            Hidden states [n, width] where the logits are still to be made, or None; all logits
            [n, vocab] else; and the labels that count, [n].
        """
        chosen = at_places(labels, labelled)
        if self._holds(chosen):
            hidden, logits = self._find_last(run, labelled)
            if self._is_last:
                return hidden, logits, chosen
        return None, self._run(run, lambda states: at_places(states, labelled)), chosen

    def _holds(self, chosen: Tensor) -> bool:
        """Whether hidden states of labels [n] that count are held, for logits to be made later."""
        if torch.compiler.is_compiling():
            return bool(self._is_last)  # for any number of them: another is no other program
        return len(chosen) > rows_at_a_time(self.map) and self._is_last is not False

    def _find_last(
        self, run: Callable[[], Tensor], labelled: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Call the model for what the map is given [n, width], and the logits of the first.

        The first time it is found out whether the model changes them behind the map.
        """
        held: list[Tensor] = []

        def first_alone(states: Tensor) -> Tensor:
            held.append(at_places(states, labelled))
            return held[0][:1]

        logits = self._run(run, first_alone)
        if self._is_last is None:
            self._is_last = torch.equal(logits, self.map(held[0][:1]))
            if not self._is_last:
                logger.warning(
                    "this model scales, caps or shifts its logits behind its last map, so those of "
                    "a micro-batch are made at once: where memory is short lower loader.batch_size"
                )
        return held[0], logits

    def _run(self, run: Callable[[], Tensor], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Call the model, whose map is given what is chosen of its input."""
        kept, handle = self._kept, None
        if kept is None:
            kept = _Choice()
            handle = self.map.register_forward_pre_hook(kept)
        kept.choose = choose
        try:
            return run()
        finally:
            kept.choose = None
            if handle is not None:
                handle.remove()


def at_places(tensor: Tensor, places: Tensor | None) -> Tensor:
    """What of [rows, seq, ...] stands at some of its places [n], flattened; None: all of it."""
    flat = tensor.flatten(0, 1)
    return flat if places is None else flat.index_select(0, places)


class LanguageModel(nn.Module):
    """A model whose logits can be made at some positions alone."""

    lm_head: LmHead
    behind_map: Callable[[Tensor], Tensor] | None = None
    """What it does to logits behind the last map, where its layers can be called without that."""
    packing: Packing | None = None
    """How it is given rows of several samples; None: it takes none."""

    layers: Callable[..., Tensor]
    """Of one with `behind_map`: batch -> what the last map is given, [rows, seq, width]."""


def rows_at_a_time(head: nn.Module) -> int:
    """How many positions' logits are made at once."""
    weight = next(head.parameters(), None)
    # Without a map of its own the model has made all logits already.
    return sys.maxsize if weight is None else rows_of(weight)


def rows_of(weight: Tensor) -> int:
    """The same, of the map's weight [vocab, width]."""
    most = CHUNK_BYTES.get(weight.device.type, CHUNK_BYTES["cpu"])
    return max(1, most // (4 * len(weight)))


def _chunks(head: nn.Module, hidden: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = rows_at_a_time(head)
    return zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)


def chunked_loss(
    head: nn.Module, hidden: Tensor, labels: Tensor, part: Callable[[Tensor, Tensor], LossSum]
) -> LossSum:
    """Sum a loss of logits of which a bounded number is there at a time.

    Args:
        head: [n, width] to [n, vocab].
        hidden: [n, width].
        labels: [n].
        part: the loss of some logits; sums of chunks add up to that of the whole.

    Source: gradients beside the loss as in Hsu et al. 2024, arXiv:2410.10989, section 3.2.
    """
    if torch.compiler.is_compiling():
        return _compiled_loss(head, hidden, labels, part)
    if len(hidden) <= rows_at_a_time(head):
        return part(head(hidden), labels)
    pairs = list(_chunks(head, hidden, labels))
    if not torch.is_grad_enabled():
        return _sum([part(head(states), chosen) for states, chosen in pairs])
    if type(head) is nn.Linear:  # no subclass: its weight may be packed, or not all of the map
        apply: Callable[..., tuple[Tensor, Tensor]] = _LinearLoss.apply  # without types in torch
        return LossSum(*apply(hidden, head.weight, head.bias, labels, part))

    return _checkpointed(head, pairs, part)


def _compiled_loss(
    head: nn.Module, hidden: Tensor, labels: Tensor, part: Callable[[Tensor, Tensor], LossSum]
) -> LossSum:
    """The same as a compiler takes it best: it makes no logits in float32, whatever a loss says."""
    # Without a map of its own the model has made all logits already, [n, vocab].
    vocab = next((len(weight) for weight in head.parameters()), hidden.shape[-1])
    rows = max(1, COMPILED_BYTES // (2 * vocab))
    if hidden.shape[0] <= rows:
        return part(head(hidden), labels)
    pairs = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
    return _checkpointed(head, list(pairs), part)


def _checkpointed(
    head: nn.Module,
    pairs: Sequence[tuple[Tensor, Tensor]],
    part: Callable[[Tensor, Tensor], LossSum],
) -> LossSum:
    """The sum over chunks of states and labels, whose logits are made once more for gradients."""

    def of_chunk(states: Tensor, chosen: Tensor) -> LossSum:
        return part(head(states), chosen)

    # A loss draws nothing, so there is no state of a generator to put back.
    again = partial(checkpoint, of_chunk, use_reentrant=False, preserve_rng_state=False)
    return _sum([again(*pair) for pair in pairs])


class _Context(Protocol):
    """What goes from the forward to the backward pass."""

    needs_input_grad: tuple[bool, ...]
    gradients: list[Tensor | None]

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say through which outputs no gradient flows."""


class _LinearLoss(torch.autograd.Function):
    """A loss behind a linear map, whose gradients are made while a chunk's logits are there.

    So logits are made once, and the map's weight has one gradient and no copy of it for each chunk.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        part: Callable[[Tensor, Tensor], LossSum],
    ) -> tuple[Tensor, Tensor]:
        """Sum the loss of all chunks."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        like = (hidden.new_empty, weight.new_zeros, weight.new_zeros)
        of_hidden, of_weight, of_bias = (
            make(tensor.shape, dtype=wide) if tensor is not None and needed else None
            for make, tensor, needed in zip(
                like, (hidden, weight, bias), ctx.needs_input_grad, strict=False
            )
        )
        parts: list[LossSum] = []
        rows = rows_of(weight)
        for at in range(0, len(hidden), rows):
            chunk = slice(at, at + rows)
            states = hidden[chunk]
            logits = functional.linear(states, weight, bias)  # [rows, vocab]
            # In half precision a small share of a class would be 0.
            leaf = logits.to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
            with torch.enable_grad():
                loss = part(leaf, labels[chunk])
            (slope,) = torch.autograd.grad(loss.total, leaf)
            slope = slope.to(logits.dtype)
            parts.append(LossSum(loss.total.detach(), loss.count))
            if of_hidden is not None:
                of_hidden[chunk] = slope @ weight
            if of_weight is not None:
                _add_product(of_weight, slope.T, states)
            if of_bias is not None:
                of_bias += slope.sum(dim=0, dtype=wide)
        ctx.gradients = [of_hidden, of_weight, of_bias]
        whole = _sum(parts)
        ctx.mark_non_differentiable(whole.count)
        return whole.total, whole.count

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, of_total: Tensor, of_count: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients in place: with a large vocabulary a second one would be felt."""
        gradients, ctx.gradients = ctx.gradients, []  # so that nobody scales them twice
        of_hidden, of_weight, of_bias = (None if g is None else g.mul_(of_total) for g in gradients)
        return of_hidden, of_weight, of_bias, None, None


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """Add a matrix product to float32 or float64, without a copy of it where types allow."""
    if total.dtype == one.dtype == other.dtype:
        total.addmm_(one, other)
    else:
        total.add_(one @ other.to(one.dtype))


def _sum(parts: Sequence[LossSum]) -> LossSum:
    first, *others = parts
    return LossSum(
        sum((part.total for part in others), first.total),
        sum((part.count for part in others), first.count),
    )
