"""Sequence, text and image encoders: padding has no influence, pooling is what it says."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.kinds.alignment.settings import DualEncoderConfig
from plumbline.kinds.headed.model import Classifier
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.models.encoder_config import (
    ENCODERS,
    NgramEncoderConfig,
    ResnetConfig,
    SequenceEncoderConfig,
    TextEncoderConfig,
)
from plumbline.models.encoders import Encoder, encoder_for, pool
from plumbline.models.text import NgramEncoder
from tests.tiny import NGRAMS, SEQUENCE, TEXT, VIT

CHANNELS = 3
LENGTHS = (5, 30, 17, 1)
STRIDED = [{"channels": 12, "kernel": 5, "stride": 2}, {"channels": 8, "kernel": 3, "stride": 3}]


def sequence_config(**settings: Any) -> SequenceEncoderConfig:
    return SequenceEncoderConfig.model_validate(SEQUENCE | {"max_steps": 32} | settings)


def built(config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return encoder_for(config, CHANNELS, vocab_size=50).eval()


def sequences() -> tuple[Tensor, Tensor]:
    """Four sequences of unequal length: steps [4, 30, 3] and their mask; noise in the padding."""
    steps = torch.randn(4, 30, CHANNELS, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(30) < torch.tensor(LENGTHS).unsqueeze(1)
    return steps, mask


def alone(encoder: Encoder, row: int, *, padding: int = 0) -> Any:
    """One sequence of `sequences` by itself, or with steps of padding behind it."""
    steps, _ = sequences()
    length = LENGTHS[row]
    one = torch.cat([steps[row : row + 1, :length], torch.full((1, padding, CHANNELS), 9.0)], dim=1)
    return encoder(steps=one, mask=(torch.arange(length + padding) < length)[None])


@torch.inference_mode()
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("convs", [[], STRIDED[:1], STRIDED], ids=["none", "stride 2", "stride 6"])
@pytest.mark.parametrize("pooling", ["mean", "max", "last", "none"])
def test_padding_has_no_influence_on_a_sequence(
    pooling: str, convs: list[dict[str, int]], layers: int
) -> None:
    """Through strides and attention, for every length, flat or not."""
    flat = pooling == "none"
    encoder = built(sequence_config(pooling=pooling, convs=convs, layers=layers, flatten=flat))
    steps, mask = sequences()
    together = encoder(steps=steps, mask=mask)
    assert not together.tokens[~together.mask].any()
    for row in range(len(LENGTHS)):
        one = alone(encoder, row)
        torch.testing.assert_close(together.pooled[row], one.pooled[0], rtol=1e-5, atol=1e-6)
        assert int(together.mask[row].sum()) == one.tokens.shape[1]
        torch.testing.assert_close(
            together.tokens[row][together.mask[row]], one.tokens[0], rtol=1e-5, atol=1e-6
        )
        padded = alone(encoder, row, padding=2)
        torch.testing.assert_close(padded.pooled, one.pooled, rtol=1e-5, atol=1e-6)


def test_no_gradient_reaches_padding() -> None:
    encoder = built(sequence_config(convs=STRIDED[:1]))
    steps, mask = sequences()
    steps.requires_grad_()
    (encoder(steps=steps, mask=mask).pooled * torch.arange(16)).sum().backward()
    assert steps.grad is not None
    assert not steps.grad[~mask].any()
    assert steps.grad[mask].any(dim=-1).all()  # and every real step counts


@torch.inference_mode()
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "last", "none"])
def test_every_pooling_with_and_without_flattening(pooling: str, flatten: bool) -> None:
    """The shape that is announced is that of a real batch, and heads stand on it."""
    config = sequence_config(pooling=pooling, flatten=flatten, convs=STRIDED[:1])
    encoder = built(config)
    steps, mask = sequences()
    out = encoder(steps=steps, mask=mask)
    steps_kept = {True: (config.max_tokens * config.width,), False: tuple(out.tokens.shape[1:])}
    expected = steps_kept[flatten] if pooling == "none" else (config.width,)
    assert tuple(out.pooled.shape[1:]) == expected
    assert out.pooled.shape[-1] == encoder.width
    torch.manual_seed(1)
    model = Classifier(encoder, {"a": 3, "b": 2}, dropout=0.0).eval()
    logits = model(steps=steps, mask=mask)
    assert {head: tuple(found.shape) for head, found in logits.items()} == {
        "a": (4, 3),
        "b": (4, 2),
    }
    for row, length in enumerate(LENGTHS):
        single = model(steps=steps[row : row + 1, :length], mask=mask[row : row + 1, :length])
        for head, found in logits.items():
            torch.testing.assert_close(found[row], single[head][0], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_without_pooling_the_logits_are_the_mean_of_those_of_the_steps() -> None:
    encoder = built(sequence_config(pooling="none", convs=[]))
    model = Classifier(encoder, {"": 3}, dropout=0.0).eval()
    steps, mask = sequences()
    tokens = encoder(steps=steps, mask=mask).tokens
    for row, length in enumerate(LENGTHS):
        expected = model.heads["head_"](tokens[row, :length]).mean(dim=0)
        found = model(steps=steps, mask=mask)[""][row]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_pooling_by_hand() -> None:
    tokens = torch.tensor([[[1.0, 8.0], [3.0, -4.0], [99.0, 99.0]], [[2.0, 1.0]] * 3])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert pool(tokens, mask, "mean").tolist() == [[2.0, 2.0], [2.0, 1.0]]
    assert pool(tokens, mask, "max").tolist() == [[3.0, 8.0], [2.0, 1.0]]
    assert pool(tokens, mask, "last").tolist() == [[3.0, -4.0], [2.0, 1.0]]
    below = pool(-tokens.abs(), mask, "max")
    assert below[0].tolist() == [-1.0, -4.0]  # the zeros of padding do not win
    with pytest.raises(ValueError, match="pooling 'none' does not reduce"):
        pool(tokens, mask, "none")


def test_an_unknown_pooling_is_refused_in_one_line() -> None:
    params = {"model": {"encoder": SEQUENCE | {"pooling": "avg"}}}
    with pytest.raises(ConfigError) as caught:
        check_config(ClassifierConfig, {"encoder": "model.encoder"}, params)
    expected = "model.encoder.pooling = 'avg': input should be 'mean', 'max', 'last' or 'none'"
    assert str(caught.value) == expected


def test_an_unknown_encoder_is_refused_with_the_nearest_name() -> None:
    params = {"model": {"encoder": {"name": "sequnce"}}}
    with pytest.raises(ConfigError, match="'sequnce': unknown; did you mean sequence"):
        check_config(ClassifierConfig, {"encoder": "model.encoder"}, params)


def test_a_sequence_longer_than_the_encoder_takes_names_the_setting() -> None:
    encoder = built(sequence_config(max_steps=29))
    steps, mask = sequences()
    with pytest.raises(ConfigError, match=r"encoder\.max_steps = 29: a sequence has 30 steps"):
        encoder(steps=steps, mask=mask)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"convs": [{"channels": 4, "kernel": 4}]}, "kernel 4 is even"),
        ({"width": 17}, "width 17 is not a multiple of heads 2"),
        ({"max_steps": 0}, "greater than or equal to 1"),
    ],
)
def test_contradicting_sizes_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        sequence_config(**settings)


def test_an_alignment_of_unpooled_clips_is_refused() -> None:
    sides = {"audio_encoder": SEQUENCE | {"pooling": "none"}, "text_encoder": TEXT}
    with pytest.raises(ValidationError, match="pooling none leaves no one vector"):
        DualEncoderConfig.model_validate(sides)
    with pytest.raises(ValidationError, match="set one of image_encoder and audio_encoder"):
        DualEncoderConfig.model_validate(sides | {"image_encoder": VIT})


def text_batch() -> dict[str, Tensor]:
    ids = torch.tensor([[1, 7, 8, 9, 2], [1, 11, 2, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


@torch.inference_mode()
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_padding_has_no_influence_on_a_text(pooling: str, layers: int) -> None:
    encoder = built(TextEncoderConfig.model_validate(TEXT | {"pooling": pooling, "layers": layers}))
    batch = text_batch()
    together = encoder(**batch)
    one = encoder(**{name: part[1:, :3] for name, part in batch.items()})
    torch.testing.assert_close(together.pooled[1:], one.pooled, rtol=1e-5, atol=1e-6)
    assert not together.tokens[1, 3:].any()


def ngrams(**settings: Any) -> NgramEncoder:
    encoder: NgramEncoder = built(NgramEncoderConfig.model_validate(NGRAMS | settings))
    return encoder


@torch.inference_mode()
def test_a_raw_text_is_encoded_alike_in_any_company() -> None:
    encoder = ngrams()
    texts = ["a red circle", "", "\u6a39\u306e\u4e0b", "a", "\ud800"]
    together = encoder(texts).pooled
    assert together.shape == (5, 16)
    assert together.isfinite().all()
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], encoder([text]).pooled[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(together[0], encoder(["a blue circle"]).pooled[0])


@torch.inference_mode()
def test_ngrams_are_those_of_the_framed_text() -> None:
    """They do not depend on Python's salted hash."""
    encoder = ngrams(shortest=2, longest_gram=3)
    read = encoder.reader()(["ab", "a"])
    assert read["starts"].tolist() == [0, 5]
    rows = read["ngrams"][:5]
    # 3 + 2: \x02a ab b\x03 and \x02ab ab\x03
    assert rows.tolist() == [76, 87, 77, 67, 13]
    mean = encoder.embeddings.weight[rows].mean(dim=0)
    torch.testing.assert_close(encoder(["ab"]).pooled[0], encoder.layers(mean))
    assert torch.equal(encoder(**read).pooled, encoder(["ab", "a"]).pooled)


def test_ngrams_of_no_size_are_refused() -> None:
    with pytest.raises(ValidationError, match="longest_gram 1 is below shortest 2"):
        NgramEncoderConfig(name="ngrams", longest_gram=1)


def resnet(**settings: Any) -> ResnetConfig:
    base = {
        "name": "resnet",
        "image_size": 17,
        "stem_channels": 8,
        "stages": [{"channels": 8, "blocks": 2, "stride": 1}, {"channels": 16}],
    }
    return ResnetConfig.model_validate(base | settings)


def images(count: int = 3, size: int = 17) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("stem", "tokens"), [(1, 81), (2, 25)])
def test_a_resnet_gives_the_shapes_that_it_announces(norm: str, stem: int, tokens: int) -> None:
    encoder = built(resnet(norm=norm, stem_stride=stem))
    out = encoder(pixel_values=images())
    assert out.tokens.shape == (3, encoder.tokens, encoder.token_width) == (3, tokens, 16)
    assert out.pooled.shape == (3, encoder.width)
    torch.testing.assert_close(out.pooled, out.tokens.mean(dim=1))
    single = encoder(pixel_values=images()[1:2]).pooled[0]
    torch.testing.assert_close(out.pooled[1], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "apart"), [("batch", False), ("group", True)])
def test_with_group_norm_a_training_sample_does_not_depend_on_its_batch(
    norm: str, apart: bool
) -> None:
    encoder = built(resnet(norm=norm)).train()
    whole, part = (
        encoder(pixel_values=images()).pooled[:2],
        encoder(pixel_values=images()[:2]).pooled,
    )
    assert torch.allclose(whole, part, rtol=1e-4, atol=1e-5) == apart
    named = {type(module).__name__ for module in encoder.modules()}
    assert ("BatchNorm2d" in named, "GroupNorm" in named) == (not apart, apart)


def test_a_resnet_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValidationError, match="channels in multiples of 8"):
        resnet(norm="group", stages=[{"channels": 12}])
    with pytest.raises(ValidationError, match="channels in multiples of 8"):
        resnet(norm="group", stem_channels=12)


SMALL: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "torchvision": {"name": "torchvision", "arch": "squeezenet1_1", "image_size": 64},
    "resnet": resnet().model_dump(),
    "timm": {"name": "timm", "arch": "vit_tiny_patch16_224", "image_size": 32},
    "sequence": SEQUENCE,
    "transformer": TEXT,
    "ngrams": NGRAMS,
}


def test_one_encoder_alone_has_no_sizes_of_its_own() -> None:
    others = {"transformers", "transformers_audio", "module", "image_module"}
    assert set(ENCODERS) - set(SMALL) == others
    config = ENCODERS["transformers"].model_validate({"name": "transformers"})
    with pytest.raises(ConfigError, match="starts from a checkpoint: set its pretrained"):
        built(config, 0)


@pytest.mark.parametrize("name", list(SMALL))
def test_every_encoder_is_built_from_its_settings_and_the_seed(name: str) -> None:
    config = ENCODERS[name].model_validate(SMALL[name])
    states: list[dict[str, Tensor]] = [built(config, seed).state_dict() for seed in (0, 0, 1)]
    assert all(
        torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )
    assert any(
        not torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True)
    )
    assert config.without_sources() == config
    assert config.source() is None
