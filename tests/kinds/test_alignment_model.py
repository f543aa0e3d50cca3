"""Two encoders and their shared space: shapes, pooling, temperature, freezing, checkpoints."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import BertConfig, BertModel

from plumbline.kinds.alignment.model import DualEncoder, unit
from plumbline.kinds.alignment.settings import DualEncoderConfig
from plumbline.models.encoder_config import TextEncoderConfig, VitConfig
from plumbline.models.pretrained import Origin
from plumbline.models.text import TextEncoder

VOCAB = 50


def text_config(**settings: Any) -> TextEncoderConfig:
    base = {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "mlp_width": 16}
    return TextEncoderConfig.model_validate(base | {"max_tokens": 12} | settings)


def dual_encoder(**settings: Any) -> DualEncoder:
    vit = VitConfig(
        name="vit", image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_width=16
    )
    torch.manual_seed(0)
    base: dict[str, Any] = {"image_encoder": vit, "text_encoder": text_config(), "embed_dim": 8}
    return DualEncoder(DualEncoderConfig(**(base | settings)), VOCAB)


def texts() -> tuple[Tensor, Tensor]:
    """Two texts, the second one shorter: ids and mask [2, 5]."""
    ids = torch.tensor([[1, 7, 8, 9, 2], [1, 11, 2, 0, 0]])
    return ids, (ids != 0).long()


def pixels() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def both() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    ids, mask = texts()
    return {"pixel_values": pixels()}, {"input_ids": ids, "attention_mask": mask}


def test_both_sides_meet_in_the_shared_space() -> None:
    model = dual_encoder()
    out = model(*both())
    media, said = model.image_encoder(pixels()).pooled, model.text_encoder(*texts()).pooled
    torch.testing.assert_close(out.media, media @ model.media_projection.weight.T)
    torch.testing.assert_close(out.texts, said @ model.text_projection.weight.T)
    assert (out.media.shape, out.texts.shape) == ((3, 8), (2, 8))
    assert out.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert out.logit_bias.item() == -10.0


def test_the_text_vector_is_the_mean_over_tokens_that_are_not_padding() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(text_config(), vocab_size=VOCAB).eval()
    ids, mask = texts()
    hidden = encoder.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = torch.stack([hidden[0].mean(dim=0), hidden[1, :3].mean(dim=0)])
    torch.testing.assert_close(encoder(ids, mask).pooled, expected, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing_about_a_text() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(text_config(), vocab_size=VOCAB).eval()
    ids, mask = texts()
    alone = encoder(ids[1:, :3], mask[1:, :3]).pooled
    together = encoder(ids, mask).pooled
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-6)
    other = ids.clone()
    other[1, 3:] = 30  # what stands under the mask does not matter
    torch.testing.assert_close(encoder(other, mask).pooled, together, rtol=0, atol=0)


def test_the_temperature_has_a_floor() -> None:
    model = dual_encoder(min_temperature=0.05)
    model.log_scale.data.fill_(math.log(1000))
    assert model(*both()).logit_scale.item() == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_projection_after_a_frozen_text_encoder_still_learns(frozen: bool) -> None:
    """By the gradient of a sum of squares, |W x|^2: twice W x, times x."""
    model = dual_encoder()
    model.text_encoder.requires_grad_(not frozen)
    embedded = model.embed_texts(**both()[1])
    embedded.square().sum().backward()
    with torch.no_grad():
        expected = 2 * embedded.T @ model.text_encoder(**both()[1]).pooled
    torch.testing.assert_close(model.text_projection.weight.grad, expected, rtol=1e-5, atol=1e-6)
    gradients = [p.grad for p in model.text_encoder.parameters()]
    if frozen:
        assert all(g is None for g in gradients)
    else:
        assert all(g is not None for g in gradients)


def test_unit_cuts_and_scales_to_length_one() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    for width in (None, 3):
        cut = unit(x, width)
        assert cut.shape == (4, width or 8)
        torch.testing.assert_close(cut.norm(dim=-1), torch.ones(4), rtol=1e-6, atol=0)


def test_a_text_encoder_comes_from_a_checkpoint_folder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    stored = BertModel(config).eval()
    stored.save_pretrained(tmp_path)
    origin = Origin(tmp_path, with_weights=True)
    encoder = TextEncoder(text_config(), vocab_size=VOCAB, origin=origin).eval()
    assert encoder.width == 24
    for name, tensor in encoder.encoder.state_dict().items():  # all but the pooler
        assert torch.equal(stored.state_dict()[name], tensor), name
    assert encoder.encoder.pooler is None
    ids, mask = texts()
    hidden = stored(input_ids=ids[:1], attention_mask=mask[:1]).last_hidden_state
    torch.testing.assert_close(
        encoder(ids[:1], mask[:1]).pooled, hidden.mean(dim=1), rtol=1e-5, atol=1e-6
    )


def test_contradicting_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="width 18 is not a multiple of heads 4"):
        text_config(width=18, heads=4)
