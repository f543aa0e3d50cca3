"""Which positions of a padded row are real: true where attention is allowed."""

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
    # [longest] against [batch, 1].
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
