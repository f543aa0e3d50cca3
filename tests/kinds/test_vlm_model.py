"""The joints of the vision-language model, and decoders from sizes or from a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from plumbline.errors import ConfigError
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.settings import VlmConfig
from plumbline.models.decoder import build_decoder
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.encoder_config import VitConfig
from plumbline.models.encoders import build_encoder
from plumbline.models.pretrained import Origin
from plumbline.models.projector_config import MlpConfig
from plumbline.models.projectors import Joint, build_projector
from tests.checkpoints import write_checkpoint

VOCAB, PAD = 40, 0


def sizes(**settings: Any) -> DecoderConfig:
    base = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "mlp_width": 16}
    return DecoderConfig(**(base | settings))


def tiny_vlm() -> Vlm:
    torch.manual_seed(0)
    vit = VitConfig(
        name="vit", image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_width=16
    )
    config = VlmConfig(projector=MlpConfig(name="mlp", width=24), decoder=sizes())
    return Vlm(build_encoder(vit), config, VOCAB, PAD).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A stored Qwen3 decoder of 40 tokens, and its weights."""
    folder = tmp_path_factory.mktemp("qwen3")
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        intermediate_size=16,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    return folder, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_decoder_has_the_sizes_asked_for() -> None:
    decoder: Any = build_decoder(sizes(), VOCAB, PAD)
    config = decoder.config
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim) == (16, 2, 8)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert config.pad_token_id == PAD
    assert decoder.lm_head.weight is decoder.get_input_embeddings().weight


def test_a_decoder_from_a_checkpoint_has_its_weights(
    checkpoint: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, weights = checkpoint
    decoder = build_decoder(sizes(), VOCAB, PAD, Origin(folder, with_weights=True))
    found = decoder.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_a_half_precision_checkpoint_is_trained_in_float32(
    checkpoint: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    Qwen3ForCausalLM.from_pretrained(checkpoint[0]).to(torch.bfloat16).save_pretrained(tmp_path)
    decoder = build_decoder(sizes(), VOCAB, PAD, Origin(tmp_path, with_weights=True))
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, checkpoint[1][name].bfloat16().float()), name


def test_the_embedding_of_a_checkpoint_grows_to_the_vocabulary(
    checkpoint: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, weights = checkpoint
    decoder: Any = build_decoder(sizes(), VOCAB + 8, PAD, Origin(folder, with_weights=True))
    embedding = decoder.get_input_embeddings().weight
    assert embedding.shape == (VOCAB + 8, 24)
    assert torch.equal(embedding[:VOCAB], weights["model.embed_tokens.weight"])
    hidden = torch.randn(1, 24)
    torch.testing.assert_close(decoder.lm_head(hidden), hidden @ embedding.T)  # grown with it
    smaller: Any = build_decoder(sizes(), VOCAB - 8, PAD, Origin(folder, with_weights=True))
    assert smaller.get_input_embeddings().num_embeddings == VOCAB


def test_the_vlm_takes_the_width_of_its_checkpoint(
    checkpoint: tuple[Path, dict[str, Tensor]],
) -> None:
    config = VlmConfig(projector=MlpConfig(name="mlp", width=24), decoder=sizes())
    origins = {"decoder": Origin(checkpoint[0], with_weights=True)}
    model = Vlm(tiny_vlm().image_encoder, config, VOCAB, PAD, origins)
    # Of zeros the norm leaves nothing: what remains are the biases, and the place.
    bias = functional.gelu(model.projector.layers[1].bias)
    expected = (model.projector.layers[3](bias) + model.projector.position).expand(2, 4, 24)
    torch.testing.assert_close(model.embed_image(torch.zeros(2, 4, 16)), expected)


def test_the_projector_maps_tokens_and_adds_their_place() -> None:
    torch.manual_seed(0)
    projector = build_projector(MlpConfig(name="mlp", width=24), Joint(4, 16, 8))
    features = torch.randn(2, 4, 16)
    out = projector(features)
    assert out.shape == (2, 4, 8)
    # The norm comes first: neither the scale nor the mean of features matters.
    torch.testing.assert_close(projector(features * 100 + 7), out, rtol=1e-4, atol=1e-4)
    same = projector(torch.ones(1, 4, 16))[0]
    torch.testing.assert_close(same - same[0], projector.position - projector.position[0])


def inputs(model: Vlm, seq: int = 5) -> dict[str, Tensor]:
    image_tokens = model.image_encoder.tokens
    random = torch.Generator().manual_seed(1)
    length = image_tokens + seq
    return {
        "image_features": torch.randn(2, image_tokens, 16, generator=random),
        "input_ids": torch.randint(0, VOCAB, (2, seq), generator=random),
        "position_ids": torch.arange(length).expand(2, -1),
        "mask": torch.tensor([[[0, 1]] * image_tokens + [[1, 1]] * seq] * 2),  # one text each
    }


@torch.inference_mode()
def test_hidden_states_are_those_of_the_text_after_the_image() -> None:
    model = tiny_vlm()
    batch = inputs(model)
    hidden = model.hidden_states(**batch)
    assert hidden.shape == (2, 5, 16)
    assert model.logits(hidden).shape == (2, 5, VOCAB)
    # The causal mask that is made of these places is the one that the decoder makes by itself.
    text = model.decoder.get_input_embeddings()(batch["input_ids"])
    whole = torch.cat([model.embed_image(batch["image_features"]), text], dim=1)
    expected = model.decoder.model(inputs_embeds=whole).last_hidden_state[:, 4:]
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_the_image_and_its_order_matter() -> None:
    model = tiny_vlm()
    batch = inputs(model)
    hidden = model.hidden_states(**batch)
    turned = batch | {"image_features": batch["image_features"].flip(1)}
    assert (model.hidden_states(**turned) - hidden).abs().max() > 1e-4


def test_every_joint_learns() -> None:
    model = tiny_vlm().train()
    model.logits(model.hidden_states(**inputs(model))).square().sum().backward()
    for part in (model.projector, model.decoder):
        assert isinstance(part, nn.Module)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"width": 17}, "width 17 is not a multiple of heads 2"),
        ({"heads": 4, "kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
    ],
)
def test_contradicting_sizes_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        sizes(**settings)


@pytest.mark.parametrize("name", ["gemma3", "granite", "cohere"])
def test_logits_are_capped_and_scaled_as_the_decoder_does_it(name: str, tmp_path: Path) -> None:
    write_checkpoint(name, tmp_path)
    origins = {"decoder": Origin(tmp_path, with_weights=True)}
    model = Vlm(tiny_vlm().image_encoder, tiny_vlm().config, VOCAB, PAD, origins).eval()
    decoder: Any = model.decoder
    ids = torch.randint(0, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(10)  # so that what is behind the map is felt
        hidden = decoder.model(input_ids=ids).last_hidden_state
        expected = decoder(input_ids=ids).logits
        assert not torch.allclose(decoder.lm_head(hidden), expected, atol=0.1)
        torch.testing.assert_close(model.logits(hidden), expected, rtol=1e-5, atol=1e-5)


def test_a_decoder_that_changes_logits_in_a_way_of_its_own_is_refused(
    checkpoint: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = {"decoder": Origin(checkpoint[0], with_weights=True)}
    own = Qwen3ForCausalLM.forward

    def shifted(self: Any, **given: Any) -> Any:
        out = own(self, **given)
        out.logits = out.logits + 1
        return out

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", shifted)
    with pytest.raises(ConfigError, match="type qwen3 changes logits behind its last map"):
        Vlm(tiny_vlm().image_encoder, tiny_vlm().config, VOCAB, PAD, origins)
