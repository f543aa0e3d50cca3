"""The mask equals one written by hand, and what it hides has no influence at all."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plumbline.loading.masks import padding_mask

LENGTHS = torch.tensor([1, 3, 4])


def bools(*rows: str) -> Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_the_padding_mask_equals_one_written_by_hand() -> None:
    assert torch.equal(padding_mask(LENGTHS, 4), bools("x...", "xxx.", "xxxx"))
    assert torch.equal(padding_mask(torch.tensor([0, 2]), 2), bools("..", "xx"))


@pytest.mark.parametrize("lengths", [[5], [-1], [2, 5]])
def test_lengths_outside_the_rows_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.4"):
        padding_mask(torch.tensor(lengths), 4)


def test_a_hidden_token_has_exactly_zero_influence() -> None:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 4, 8, generator=random, requires_grad=True)
    seen = padding_mask(LENGTHS, 4)
    mask = seen.unsqueeze(1).expand(3, 4, 4)
    mixed = functional.scaled_dot_product_attention(tokens, tokens.detach(), tokens, attn_mask=mask)
    rows = [torch.autograd.grad(mixed[:, i].sum(), tokens, retain_graph=True)[0] for i in range(4)]
    influence = torch.stack([row.abs().sum(-1) for row in rows], dim=1)  # [batch, query, key]
    own = torch.eye(4, dtype=torch.bool)  # a query always reaches itself, past the attention
    assert torch.equal((influence != 0) | own, mask | own)
