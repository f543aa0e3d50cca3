"""Image encoders give tokens and a pooled vector of the shapes that they announce."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import (
    ConvStemLayer,
    ResnetConfig,
    TorchvisionConfig,
    VitConfig,
)
from plumbline.models.encoders import build_encoder
from plumbline.models.pretrained import Origin
from plumbline.models.vision import ImageEncoder, VitEncoder


def vit(**settings: Any) -> VitConfig:
    base: dict[str, Any] = {
        "name": "vit",
        "image_size": 16,
        "patch_size": 8,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "mlp_width": 16,
    }
    return VitConfig(**(base | settings))


def images(batch: int = 3, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


STEM = [ConvStemLayer(channels=4, stride=2), ConvStemLayer(channels=8, stride=4)]


@pytest.mark.parametrize(
    "config",
    [
        vit(),
        vit(conv_stem=STEM),
        vit(feature_layers=[0, 1, -1]),
        vit(patch_size=4, layers=1),
        TorchvisionConfig(name="torchvision", arch="resnet18", image_size=64),
        TorchvisionConfig(name="torchvision", arch="mobilenet_v3_small", image_size=64),
    ],
    ids=lambda c: getattr(c, "arch", c.name),
)
def test_outputs_have_the_announced_shapes(config: Any) -> None:
    encoder = build_encoder(config).eval()
    with torch.inference_mode():
        out = encoder(images(2, config.image_size))
    assert out.tokens.shape == (2, encoder.tokens, encoder.token_width)
    assert out.pooled.shape == (2, encoder.width)
    assert out.tokens.isfinite().all()


def resnet(**settings: Any) -> ResnetConfig:
    stages = [{"channels": 8, "stride": 1}, {"channels": 16}]
    base = {"name": "resnet", "image_size": 16, "stem_channels": 8, "stages": stages}
    return ResnetConfig.model_validate(base | settings)


@pytest.mark.parametrize(
    "config",
    [
        vit(),
        vit(conv_stem=STEM),
        resnet(),
        TorchvisionConfig(name="torchvision", arch="resnet18", image_size=64),
        TorchvisionConfig(name="torchvision", arch="mobilenet_v3_small", image_size=64),
    ],
    ids=["vit", "conv_stem", "resnet", "resnet18", "mobilenet"],
)
def test_one_channel_gives_what_three_equal_ones_give(config: Any) -> None:
    torch.manual_seed(0)
    colour = build_encoder(config).eval()
    torch.manual_seed(0)
    gray = build_encoder(config.model_copy(update={"channels": 1})).eval()
    seen = images(2, config.image_size)[:, :1]
    with torch.inference_mode():
        expected, got = colour(seen.expand(-1, 3, -1, -1)), gray(seen)
    torch.testing.assert_close(got.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.pooled, expected.pooled, rtol=1e-4, atol=1e-5)
    assert sum(1 for p in gray.parameters() if p.requires_grad) == len(list(colour.parameters()))


def test_known_sizes() -> None:
    resnet = build_encoder(TorchvisionConfig(name="torchvision", arch="resnet18", image_size=64))
    assert (resnet.tokens, resnet.token_width, resnet.width) == (4, 512, 512)
    small = build_encoder(vit(feature_layers=[0, -1]))
    assert (small.tokens, small.token_width, small.width) == (4, 32, 16)


def test_feature_layers_are_concatenated_in_the_order_asked_for() -> None:
    torch.manual_seed(0)
    both = VitEncoder(vit(feature_layers=[-1, 0])).eval()
    with torch.inference_mode():
        joined = both(images()).tokens
        for at, layer in enumerate((2, 0)):
            single = VitEncoder(vit(feature_layers=[layer])).eval()
            single.load_state_dict(both.state_dict())
            assert torch.equal(joined[..., at * 16 : at * 16 + 16], single(images()).tokens)


def test_layer_0_is_the_patch_embedding_with_its_position() -> None:
    torch.manual_seed(0)
    encoder = VitEncoder(vit(feature_layers=[0])).eval()
    with torch.inference_mode():
        patches = encoder.vit.conv_proj(images()).flatten(2).transpose(1, 2)
        expected = patches + encoder.vit.encoder.pos_embedding[:, 1:]
        torch.testing.assert_close(encoder(images()).tokens, expected, rtol=1e-6, atol=1e-6)


def test_pooled_is_the_mean_of_the_normalised_patch_tokens() -> None:
    torch.manual_seed(0)
    encoder = VitEncoder(vit()).eval()
    with torch.inference_mode():
        out = encoder(images())
        expected = encoder.vit.encoder.ln(out.tokens).mean(dim=1)
    torch.testing.assert_close(out.pooled, expected, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = VitEncoder(vit(dropout=0.5))
    encoder.eval()
    assert torch.equal(encoder(images()).pooled, encoder(images()).pooled)
    encoder.train()
    assert not torch.equal(encoder(images()).pooled, encoder(images()).pooled)


def test_an_image_is_encoded_alike_in_any_company() -> None:
    torch.manual_seed(0)
    encoder = VitEncoder(vit()).eval()
    with torch.inference_mode():
        alone, together = encoder(images()[1:2]).tokens[0], encoder(images()).tokens[1]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def torchvision_config(**settings: Any) -> TorchvisionConfig:
    return TorchvisionConfig(**({"name": "torchvision", "image_size": 64} | settings))


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ConfigError, match="arch = 'resnet19': no torchvision classifier"):
        build_encoder(torchvision_config(arch="resnet19"))


def test_an_architecture_without_a_trunk_is_refused() -> None:
    with pytest.raises(ConfigError, match="'shufflenet_v2_x0_5': has no convolutional trunk"):
        build_encoder(torchvision_config(arch="shufflenet_v2_x0_5"))


def test_a_trunk_with_channels_last_is_refused_or_read_right() -> None:
    try:
        encoder = build_encoder(torchvision_config(arch="swin_t"))
    except ConfigError:
        return
    assert (encoder.tokens, encoder.token_width) == (4, 768)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_trunk_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    classifier = torchvision.models.get_model("squeezenet1_1")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(classifier.state_dict(), path)
    else:
        save_file(classifier.state_dict(), path)
    config = torchvision_config(arch="squeezenet1_1", pretrained="theirs")
    encoder = build_encoder(config, origin=Origin(path, with_weights=True))
    for name, tensor in encoder.trunk.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, classifier.state_dict()[f"features.{name}"])


def test_missing_trunk_weights_are_named(tmp_path: Path) -> None:
    origin = Origin(tmp_path / "nowhere.pt", with_weights=True)
    with pytest.raises(ConfigError, match=r"nowhere\.pt: .* starts from the file of a state dict"):
        build_encoder(torchvision_config(arch="resnet18"), origin=origin)


@pytest.mark.parametrize("name", ["other.safetensors", "damaged.safetensors", "damaged.pt"])
def test_trunk_weights_that_do_not_fit_are_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("damaged"):
        path.write_bytes(b"not weights")
    else:
        save_file({"x": torch.zeros(1)}, path)
    origin = Origin(path, with_weights=True)
    with pytest.raises(ConfigError, match=f"{name}: does not fit the network"):
        build_encoder(torchvision_config(arch="squeezenet1_1"), origin=origin)


def test_the_base_class_does_not_pretend_to_encode() -> None:
    with pytest.raises(TypeError, match="ImageEncoder does not say how it encodes"):
        ImageEncoder()(images())


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"image_size": 18}, "image_size 18 is not a multiple of patch_size 8"),
        ({"width": 17}, "width 17 is not a multiple of heads 2"),
        ({"feature_layers": [3]}, "layers are 0 to 2"),
        ({"feature_layers": [-4]}, "layers are 0 to 2"),
        ({"feature_layers": []}, "at least 1"),
        ({"conv_stem": STEM[:1]}, "strides multiply to 2, patch_size 8"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_contradicting_sizes_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        vit(**settings)
