"""Rows of several whole samples through a model of transformers, as if each were alone.

Attention is computed sample by sample, so nothing is spent on pairs of samples or on a mask of
[seq, seq], and a row may be as long as a batch. Its lengths come where a mask would: models hand a
mask of four dimensions to their attention as it is.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "plumbline_packed"

DECISIVE = 100
"""How many times less packing must change than samples that see each other."""

logger = logging.getLogger(__name__)

_READ = WeakTensorKeyDictionary()
"""Spans -> their numbers: a GPU that is asked for them waits, once a batch and not once a layer."""
_attend: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward  # its options are many


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, within the samples of a row where `holds_spans`.

    Args:
        module: what attends.
        query: [rows, heads, queries, head_dim].
        key: [rows, kv_heads, keys, head_dim].
        value: [rows, kv_heads, keys, head_dim].
        attention_mask: a mask, or the spans of `Layout.spans`; without a sample in them each row
            is one, see `whole_rows`.
        position_bias: [1 or rows, heads, queries, keys], added to the scores.
        options: scaling, dropout and what else a model says.

    Returns:
        [rows, queries, heads, head_dim]; 0 in positions of no sample.
    """
    spans = attention_mask
    if spans is None or not holds_spans(spans) or not spans.shape[2]:
        mask = None if spans is not None and holds_spans(spans) else spans
        return _attend(module, query, key, value, mask, position_bias=position_bias, **options)
    if position_bias is None and _half_on_gpu(query) is not None:
        return _varlen(module, query, key, value, spans, **options), None
    rows: list[Tensor] = []
    for at, of_row in enumerate(_lengths(spans)):
        queries, keys = zip(*of_row, strict=True)
        # The last part is what fills the row up, of no sample.
        lengths = [*queries, query.shape[2] - sum(queries)]
        q_parts = torch.split(query[at : at + 1], lengths, dim=2)
        k_parts, v_parts = (
            torch.split(tensor[at : at + 1], [*keys, key.shape[2] - sum(keys)], dim=2)
            for tensor in (key, value)
        )
        found: list[Tensor] = []
        q_start = k_start = 0
        for q, k, v in zip(q_parts[:-1], k_parts, v_parts, strict=False):
            q_end, k_end = q_start + q.shape[2], k_start + k.shape[2]
            bias = position_bias
            if bias is not None:
                # By distance, so the block of a sample is as if it were alone.
                bias = bias[at % len(bias), None, :, q_start:q_end, k_start:k_end]
            if q_end > q_start:  # rows with fewer samples have spans of 0
                one, _ = _attend(module, q, k, v, None, position_bias=bias, **options)
                found.append(one)
            q_start, k_start = q_end, k_end
        row = torch.cat(found, dim=1)  # [1, queries of samples, heads, head_dim]
        rows.append(functional.pad(row, (0, 0, 0, 0, 0, query.shape[2] - q_start)))
    return torch.cat(rows), None


def _half_on_gpu(query: Tensor) -> torch.dtype | None:
    """The type in which kernels for samples of any length compute here; None where there are none.

    They know half precision on a GPU alone.
    """
    if query.device.type != "cuda":
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def _varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    dropout: float = 0.0,
    **others: object,
) -> Tensor:
    """Attention within samples by one kernel for all of them; shapes as in `packed_attention`.

    What fills a row up is a sample like others, of which nobody asks the result.
    """
    if dropout:
        raise ValueError("packed rows take no dropout of attention on a GPU: set it to 0")
    dtype = _half_on_gpu(query)
    rows, heads, seq, _ = query.shape

    def stacked(tensor: Tensor) -> Tensor:
        """[rows * seq, heads, head_dim]: kernels for fewer heads of keys are not in every torch."""
        repeated = tensor.repeat_interleave(heads // tensor.shape[1], dim=1)
        return repeated.transpose(1, 2).flatten(0, 1).to(dtype)

    def starts(counts: Tensor, longest: int) -> Tensor:
        """Where samples begin, and the end: [rows * (samples + 1) + 1] int32."""
        filling = longest - counts.sum(dim=1, keepdim=True)
        lengths = torch.cat([counts, filling], dim=1).flatten()
        return functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)

    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    found = varlen_attn(
        stacked(query),
        stacked(key),
        stacked(value),
        starts(spans[:, 0, :, 0], seq),
        starts(spans[:, 0, :, 1], key.shape[2]),
        # At most: to ask the spans for the longest would make the host wait.
        seq,
        key.shape[2],
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    assert isinstance(found, Tensor), "nothing else is asked for"
    return found.view(rows, seq, *found.shape[1:])


_varlen: Callable[..., Tensor] = _varlen_attention  # its options are many


def whole_rows(device: torch.device) -> Tensor:
    """Spans that say: each row is one sample.

    Without them models look for samples in the positions, for which a GPU makes the host wait, and
    a compiled one makes a mask of [seq, seq].
    """
    return torch.empty((1, 1, 0, 2), dtype=torch.int64, device=device)


@torch.no_grad()
def takes_whole_rows(net: object, longest: int) -> bool:
    """Let a decoder of transformers be given `whole_rows` for a mask; whether it takes them.

    Args:
        net: its attention is exchanged where it does.
        longest: positions of the longest row that may come.
    """
    if _obstacle(net, longest):
        return False
    assert isinstance(net, PreTrainedModel)
    ids = torch.arange(4, device=net.device)[None]
    with _trying(net):
        alone = net(input_ids=ids, use_cache=False).logits
        net.set_attn_implementation(NAME)
        try:
            found = net(input_ids=ids, use_cache=False, attention_mask=whole_rows(ids.device))
        except (TypeError, ValueError, RuntimeError, IndexError):  # it wants another form of mask
            found = None
    if found is not None and torch.allclose(found.logits, alone, rtol=1e-4, atol=1e-4):
        return True
    net.set_attn_implementation("sdpa")
    return False


@contextmanager
def _trying(net: nn.Module) -> Iterator[None]:
    """A block in which a model evaluates: dropout would tell two layouts apart."""
    training = net.training
    nn.Module.eval(net)
    try:
        yield
    finally:
        net.train(training)


def holds_spans(attention_mask: Tensor) -> bool:
    """Whether what came for a mask is `Layout.spans`, [rows, 1, samples, 2] int64.

    Masks are boolean or added to scores.
    """
    return attention_mask.ndim == 4 and attention_mask.dtype == torch.int64


def _lengths(spans: Tensor) -> list[list[tuple[int, int]]]:
    """Of each row (queries, keys) of its samples."""
    if spans not in _READ:
        _READ[spans] = spans[:, 0].tolist()
    found: list[list[tuple[int, int]]] = _READ[spans]
    return found


def dense_mask(spans: Tensor, queries: int, keys: int, *, causal: bool) -> Tensor:
    """Who sees whom in rows of samples, [rows, 1, queries, keys] bool."""
    samples = torch.arange(1, spans.shape[2] + 1, device=spans.device)

    def number(counts: Tensor, seq: int) -> Tensor:
        """[rows, seq]: each position's sample, from 1; 0 behind the last."""
        rows = [samples.repeat_interleave(count) for count in counts]
        return torch.stack([functional.pad(row, (0, seq - len(row))) for row in rows])

    of_query, of_key = number(spans[:, 0, :, 0], queries), number(spans[:, 0, :, 1], keys)
    mask = (of_query[:, :, None] == of_key[:, None, :])[:, None]
    return mask & torch.ones_like(mask[0, 0]).tril() if causal else mask


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@dataclass(frozen=True)
class Packing:
    """How a model is told of positions that begin anew in a row."""

    positions: Literal["argument", "table", "relative"]
    """It takes `position_ids`; its table of positions does; or distances within a row decide."""
    first: int = 0
    """Of the first position: some count from behind the id of padding."""

    @property
    def one_row(self) -> bool:
        """Whether a row may be as long as a batch; a bias of [seq, seq] would not fit then."""
        return self.positions != "relative"

    @contextmanager
    def given(self, part: object, position_ids: Tensor) -> Iterator[dict[str, Tensor]]:
        """Within the block, a part of a model has positions [rows, seq]; what to call it with.

        Raises:
            ValueError: it has no table of positions where it should have one.
        """
        if self.positions == "argument":
            yield {"position_ids": position_ids + self.first}
            return
        hooks = []
        if self.positions == "table":
            (row,) = position_ids  # [seq]: models disagree on a batch of rows
            if not _tables(part):
                raise ValueError("it has no table of positions")
            hooks = [
                table.register_forward_pre_hook(
                    lambda _, given, named: (given, {**named, "position_ids": row}),
                    with_kwargs=True,
                )
                for table in _tables(part)
            ]
        try:
            yield {}
        finally:
            for hook in hooks:
                hook.remove()


def _tables(part: object) -> list[nn.Module]:
    """The tables of positions, where they are modules that can be asked for any."""
    assert isinstance(part, nn.Module)
    return [module for name, module in part.named_modules() if name.endswith("embed_positions")]


Try = Callable[[Packing], tuple[Tensor, Tensor, Tensor]]
"""What a model says of some samples: each alone, packed, and packed into rows of one sample."""


def find_packing(
    net: object, candidates: Sequence[Packing], longest: int, run: Try
) -> Packing | None:
    """Find out how a model takes packed rows, by trying it on a few tokens.

    Args:
        net: of transformers; its attention is exchanged where a way is found.
        candidates: what its kind of model may take, likeliest first.
        longest: positions of the longest sample that may come.
        run: tries one of them; gives logits [labelled, vocab] three times.

    Returns:
        The first that gives what the samples give alone; None where none does, which is said.
    """
    reason = _obstacle(net, longest)
    if not reason:
        assert isinstance(net, PreTrainedModel)
        net.set_attn_implementation(NAME)
        with _trying(net):
            for way in candidates:
                reason = _difference(run, way)
                if not reason:
                    break
        if not reason:
            return way
        net.set_attn_implementation("sdpa")
    logger.warning(
        "task.rows packed: %s takes no packed rows (%s), so rows are padded and come in batches "
        "of similar length",
        *(type(net).__name__, reason),
    )
    return None


def _obstacle(net: object, longest: int) -> str:
    """Why a model cannot be tried, or could pass only since what is tried is short."""
    if not isinstance(net, PreTrainedModel) or net.config._attn_implementation != "sdpa":
        return "its attention is its own"
    for name in ("sliding_window", "attention_chunk_size", "local_attention"):
        window = getattr(net.config.get_text_config(), name, None)
        if isinstance(window, int) and window < longest:
            return f"{name} {window} is less than the {longest} tokens of a row"
    return ""


@torch.no_grad()
def _difference(run: Try, way: Packing) -> str:
    """What is wrong with packed rows; nothing where they give what the samples give alone."""
    try:
        alone, packed, joined = run(way)
    # It may have no such argument, or want other shapes: what else is wrong, padded rows tell.
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    # A model that looks at nothing but each token would pass any comparison.
    seen = (joined - alone).abs().max()
    exact = seen > 0 and (packed - alone).abs().max() * DECISIVE <= seen
    return "" if exact else "its samples change each other"
