"""Encoders and decoders of other kinds, each in both formats."""

from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.files import read_json, write_digests
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.kinds.vlm.settings import VlmConfig, VlmExportConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.encoder_config import TorchvisionConfig
from plumbline.models.encoders import build_encoder
from plumbline.models.stored import Stored
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.tokenizer import SpecialIds, TokenizerConfig, load_tokenizer
from tests.models.test_module_decoder import NETS

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
DECODERS: dict[str, tuple[type, type]] = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
}


def save_decoder(kind: str, folder: Path) -> str:
    """A checkpoint in half precision, as they come from the hub."""
    model_type, config_type = DECODERS[kind]
    torch.manual_seed(0)
    model: PreTrainedModel = model_type(config_type(**SIZES))
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        ("resnet18", "llama"),
        ("mobilenet_v3_small", "qwen2"),
        ("vgg11", None),
        ("resnet18", "module"),
    ],
)
def test_both_formats_agree_with_the_checkpoint(
    scenes_clean: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_plugins: None,
    arch: str,
    kind: str | None,
) -> None:
    folder, out = tmp_path / "cache", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    tokenize = TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=300), image_size=[64, 64])
    found = detect_shapes(scenes_clean, ShapesConfig())
    build_cache(scenes_clean, folder, tokenize, found)
    write_digests(folder)
    cache = TrainingCache(folder)
    decoder = DecoderConfig(width=32, layers=2, heads=4, kv_heads=4)
    if kind == "module":
        (tmp_path / "plugins").mkdir()
        (tmp_path / "plugins/_nets.py").write_text(NETS, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        decoder = DecoderConfig(module="plugins._nets:Attentive", width=32, max_positions=128)
    elif kind:
        decoder = DecoderConfig(pretrained=save_decoder(kind, tmp_path / kind))
    encoder = TorchvisionConfig(name="torchvision", arch=arch, image_size=64)
    special = SpecialIds(**cache.facts["special_ids"])
    spec = VlmSpec(
        image_encoder=encoder,
        model=VlmConfig(decoder=decoder),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special,
        inputs=ImageInputConfig(modality="image"),
        max_text_tokens=24,
        caption_prompt="describe the image",
    )
    torch.manual_seed(0)
    model = Vlm(build_encoder(encoder), spec.model, spec.vocab_size, special.pad).eval()
    stored = Stored(model, spec, load_tokenizer(folder), {})
    source = BundleSource(stored, cache, {}, threads=1)
    write_bundle(source, VlmExportConfig(max_new_tokens=8, parity_samples=16), out)
    for result in read_json(out / "metadata.json")["formats"].values():
        assert result["status"] == "ok"
        assert result["parity"]["max_logits_difference"] < 1e-4
        assert result["parity"]["token_agreement"] == 1.0
    described = decoder.model_dump() | {"pretrained": kind if kind in DECODERS else None}
    assert read_json(out / "model.json")["model"]["decoder"] == described
