"""Which positions may look at which: true where attention is allowed."""

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, longest: int) -> Tensor:
    """Mark the positions that are no padding, for rows padded at the end.

    Args:
        lengths: [batch] int64.
        longest: positions per row.

    Returns:
        [batch, longest] bool.

    Raises:
        ValueError: a length lies outside 0..longest.
    """
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise ValueError(f"lengths {lengths.tolist()}: must lie in 0..{longest}")
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)


def causal_mask(seq: int) -> Tensor:
    """Let each position see itself and what stands before it: [seq, seq] bool, [query, key]."""
    return torch.ones(seq, seq, dtype=torch.bool).tril()


def causal_padding_mask(lengths: Tensor, longest: int) -> Tensor:
    """Combine both: [batch, longest, longest] bool, [row, query, key].

    A query that is padding itself sees the real positions before it, so that its softmax has
    something to sum; only in a row of length 0 does a query see nothing. Give heads their
    dimension with `unsqueeze(1)`. Arguments and errors as in `padding_mask`.
    """
    causal = causal_mask(longest).to(lengths.device)
    return causal & padding_mask(lengths, longest).unsqueeze(1)
