"""Masks equal those written by hand, and what they hide has no influence at all."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plumbline.loading.masks import causal_mask, causal_padding_mask, padding_mask

LENGTHS = torch.tensor([1, 3, 4])


def bools(*rows: str) -> Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_the_padding_mask_equals_one_written_by_hand() -> None:
    assert torch.equal(padding_mask(LENGTHS, 4), bools("x...", "xxx.", "xxxx"))
    assert torch.equal(padding_mask(torch.tensor([0, 2]), 2), bools("..", "xx"))


def test_the_causal_mask_equals_one_written_by_hand() -> None:
    assert torch.equal(causal_mask(4), bools("x...", "xx..", "xxx.", "xxxx"))


def test_the_combination_equals_one_written_by_hand() -> None:
    expected = torch.stack(
        [
            bools("x...", "x...", "x...", "x..."),
            bools("x...", "xx..", "xxx.", "xxx."),
            bools("x...", "xx..", "xxx.", "xxxx"),
        ]
    )
    assert torch.equal(causal_padding_mask(LENGTHS, 4), expected)


@pytest.mark.parametrize("lengths", [[5], [-1], [2, 5]])
def test_lengths_outside_the_rows_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.4"):
        padding_mask(torch.tensor(lengths), 4)


def attend(tokens: Tensor, mask: Tensor) -> Tensor:
    """Two layers of attention with two heads over [batch, 4, 8], so that influence could travel."""
    weights = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for layer in weights:
        query, key, value = (
            (tokens @ weight).unflatten(-1, (2, 4)).transpose(1, 2) for weight in layer
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask.unsqueeze(1)
        )
        tokens = tokens + mixed.transpose(1, 2).flatten(2)
    return tokens


def influence(mask: Tensor) -> Tensor:
    """Whether output i of a row depends on input j: [batch, 4, 4], by the gradient."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 4, 8, generator=random, requires_grad=True)
    out = attend(tokens, mask)
    rows = [torch.autograd.grad(out[:, i].sum(), tokens, retain_graph=True)[0] for i in range(4)]
    return torch.stack([row.abs().sum(-1) for row in rows], dim=1)


def test_a_hidden_token_has_exactly_zero_influence() -> None:
    own = torch.eye(4, dtype=torch.bool)  # a token always reaches itself past the attention
    for mask in (
        causal_mask(4).expand(3, 4, 4),
        padding_mask(LENGTHS, 4).unsqueeze(1).expand(3, 4, 4),
        causal_padding_mask(LENGTHS, 4),
    ):
        assert torch.equal(influence(mask) != 0, mask | own)


def test_changing_padding_or_the_future_changes_no_bit_before_it() -> None:
    tokens = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = causal_padding_mask(LENGTHS, 4)
    before = attend(tokens, mask)
    changed = tokens.clone()
    changed[0, 1:] = 1e4  # padding
    changed[2, 3] = -1e4  # the last token
    after = attend(changed, mask)
    assert torch.equal(after[0, :1], before[0, :1])
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[2, :3], before[2, :3])
    assert not torch.equal(after[2, 3], before[2, 3])
