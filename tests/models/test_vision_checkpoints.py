"""Image encoders of other libraries give what those give, and stay whole without the checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from plumbline.errors import ConfigError
from plumbline.loading.input_config import ImageInputConfig
from plumbline.models.encoder_config import TimmConfig, TransformersImageConfig
from plumbline.models.pretrained import Origin, save_architectures, stored_origins
from plumbline.models.processor import read_processor, settle
from plumbline.models.vision import ImageEncoder
from plumbline.models.vision_checkpoints import TimmEncoder, TransformersImageEncoder
from plumbline.models.weights import WEIGHTS, load_weights, save_weights
from plumbline.weights.checkpoint import Checkpoint

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 12,
    "projection_size": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PATCHES = 16

MODELS: dict[str, Callable[[], nn.Module]] = {
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=SIZES)),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=SIZES)),
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES)),
    "registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**SIZES, num_register_tokens=4)),
    "convnext": lambda: ConvNextModel(
        ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=64)
    ),
}
BEFORE = {"siglip": 0, "clip": 1, "vit": 1, "dinov2": 1, "registers": 5, "dinov3": 5}
"""Tokens before those of patches."""


def saved(name: str, folder: Path) -> Any:
    torch.manual_seed(3)
    model: Any = MODELS[name]().eval()
    model.save_pretrained(folder)
    return model


def settings(name: str, **others: Any) -> TransformersImageConfig:
    size = 64 if name == "convnext" else 32
    return TransformersImageConfig(name="transformers", image_size=size, **others)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_pooled_vector_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    config = settings(name)
    encoder = TransformersImageEncoder(config, origin=Origin(tmp_path, with_weights=True)).eval()
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    tower = getattr(model, "vision_model", model)
    with torch.no_grad():
        expected, found = tower(pixels), encoder(pixels)
    states = expected.last_hidden_state
    if name == "convnext":
        tokens = states.flatten(2).transpose(1, 2)
    else:
        tokens = states[:, BEFORE[name] :]
        assert tokens.shape[1] == PATCHES
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.pooled, expected.pooler_output.flatten(1))
    assert (encoder.tokens, encoder.token_width) == tuple(tokens.shape[1:])
    assert encoder.width == found.pooled.shape[1]


@pytest.mark.parametrize("name", MODELS)
def test_what_came_from_a_checkpoint_is_whole_without_it(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path / "theirs")
    config = settings(name)
    origin = Origin(tmp_path / "theirs", with_weights=True)
    encoder = TransformersImageEncoder(config, origin=origin).eval()
    save_weights(encoder, tmp_path / WEIGHTS)
    save_architectures(tmp_path, encoder.architectures("image_encoder"))
    stored = stored_origins(tmp_path)["image_encoder"]
    again = TransformersImageEncoder(config, origin=stored).eval()
    load_weights(again, tmp_path / WEIGHTS)
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    with torch.no_grad():
        assert torch.equal(encoder(pixels).tokens, again(pixels).tokens)
        assert torch.equal(encoder(pixels).pooled, again(pixels).pooled)


def test_an_earlier_layer_and_another_pooling_can_be_chosen(tmp_path: Path) -> None:
    model = saved("clip", tmp_path)
    config = settings("clip", feature_layer=-2, pooling="mean")
    encoder = TransformersImageEncoder(config, origin=Origin(tmp_path, with_weights=True)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = model.vision_model(pixels, output_hidden_states=True), encoder(pixels)
    assert torch.equal(found.tokens, expected.hidden_states[-2][:, 1:])
    assert torch.equal(found.pooled, expected.last_hidden_state[:, 1:].mean(dim=1))


def test_another_size_of_images_interpolates_the_places(tmp_path: Path) -> None:
    model = saved("vit", tmp_path)
    config = settings("vit").model_copy(update={"image_size": 48})
    encoder = TransformersImageEncoder(config, origin=Origin(tmp_path, with_weights=True)).eval()
    pixels = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        assert torch.equal(encoder(pixels).tokens, expected)
    assert encoder.tokens == 36


def test_a_checkpoint_whose_pooling_was_never_trained_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SIZES), add_pooling_layer=False).save_pretrained(tmp_path)
    origin = Origin(tmp_path, with_weights=True)
    with pytest.raises(ConfigError, match=r"lacks 2 of the model's tensors, such as pooler\.dense"):
        TransformersImageEncoder(settings("vit"), origin=origin)
    encoder = TransformersImageEncoder(settings("vit", pooling="first"), origin=origin)
    assert not [name for name in encoder.state_dict() if "pooler" in name]


@pytest.mark.parametrize(
    ("arch", "before"),
    [("vit_tiny_patch16_224", 1), ("resnet18", 0), ("swin_tiny_patch4_window7_224", 0)],
)
def test_a_network_of_timm_gives_what_timm_gives(arch: str, before: int, tmp_path: Path) -> None:
    torch.manual_seed(2)
    theirs = timm.create_model(arch, pretrained=False, num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = TimmConfig(name="timm", arch=arch, image_size=224)
    encoder: ImageEncoder = TimmEncoder(config, origin=Origin(tmp_path, with_weights=True)).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = theirs.forward_features(pixels)
        pooled = theirs.forward_head(features, pre_logits=True)
        found = encoder(pixels)
    if features.ndim == 3:
        tokens = features[:, before:]
    elif arch == "resnet18":
        tokens = features.flatten(2).mT
    else:
        tokens = features.flatten(1, 2)
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.pooled, pooled)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = TimmConfig(name="timm", arch="resnet18", image_size=32)
    with pytest.raises(ConfigError, match=r"does not fit the network: .* such as conv1\.weight"):
        TimmEncoder(config, origin=Origin(tmp_path, with_weights=True))
    with pytest.raises(ConfigError, match="'resnet19': timm has no such network"):
        TimmEncoder(config.model_copy(update={"arch": "resnet19"}))


PROCESSORS: dict[str, tuple[Any, int, list[float]]] = {
    "siglip": (SiglipImageProcessor(size={"height": 32, "width": 32}), 32, [0.5] * 3),
    "clip": (
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        32,
        [0.48145466, 0.4578275, 0.40821073],
    ),
    "vit": (ViTImageProcessor(size={"height": 48, "width": 48}), 48, [0.5] * 3),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_size_and_statistics_are_those_of_the_processor(name: str, tmp_path: Path) -> None:
    processor, size, mean = PROCESSORS[name]
    processor.save_pretrained(tmp_path)
    found = read_processor(tmp_path)
    assert (found.image_size, found.mean) == (size, mean)
    config = TransformersImageConfig(name="transformers")
    inputs = ImageInputConfig.model_validate(
        {"modality": "image", "normalize": {"preset": "checkpoint"}}
    )
    encoder, settled = settle(config, inputs, Checkpoint(tmp_path, {}))
    assert isinstance(encoder, TransformersImageConfig)
    assert isinstance(settled, ImageInputConfig)
    assert encoder.image_size == size
    assert list(settled.normalize.statistics[0]) == mean
    # What the settings say stays.
    fixed = TransformersImageConfig(name="transformers", image_size=64)
    assert settle(fixed, ImageInputConfig(modality="image"), None)[0] == fixed


def test_size_and_statistics_of_timm_are_those_of_its_configuration(tmp_path: Path) -> None:
    said = {"pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(said), encoding="utf-8")
    found = read_processor(tmp_path)
    assert (found.image_size, found.mean, found.std) == (96, [0.1] * 3, [0.2] * 3)


def test_a_checkpoint_that_says_nothing_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="says how images are prepared: set image_size and"):
        read_processor(tmp_path)
    config = TransformersImageConfig(name="transformers")
    with pytest.raises(ConfigError, match="it starts from none: set pretrained, or all"):
        settle(config, ImageInputConfig(modality="image"), None)
