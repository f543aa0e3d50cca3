"""Encoders of sounds give what transformers gives, whatever a clip shares a batch with."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperModel,
    WhisperProcessor,
)

from plumbline.errors import ConfigError
from plumbline.loading.audio_transforms import audio_steps, fill_with_silence, stack_waveforms
from plumbline.loading.input_config import AudioInputConfig
from plumbline.models.audio_checkpoints import AudioEncoder, build_audio_encoder
from plumbline.models.encoder_config import TransformersAudioConfig
from plumbline.models.encoders import pool
from plumbline.models.pretrained import Origin, save_architectures, stored_origins
from plumbline.models.processor import settle
from plumbline.models.weights import WEIGHTS, load_weights, save_weights
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters
from plumbline.weights.checkpoint import Checkpoint
from tests.checkpoints import write_checkpoint

SOUNDS = ["whisper", "wav2vec2", "hubert", "wavlm"]
CONFIG = TransformersAudioConfig(name="transformers_audio")
Samples = NDArray[np.float32]


def inputs_of(folder: Path, **settings: Any) -> AudioInputConfig:
    """The inputs that a checkpoint asks for."""
    asked = {"modality": "audio", "form": "checkpoint"} | settings
    _, inputs = settle(CONFIG, AudioInputConfig.model_validate(asked), Checkpoint(folder, {}))
    assert isinstance(inputs, AudioInputConfig)
    return inputs


def encoder_of(folder: Path, inputs: AudioInputConfig, **settings: Any) -> AudioEncoder:
    origin = Origin(folder, with_weights=True)
    config = CONFIG.model_copy(update=settings)
    return build_audio_encoder(config, channels=inputs.channels, origin=origin).eval()


def clips(*lengths: int) -> list[Samples]:
    random = np.random.default_rng(0)
    return [(0.1 * random.standard_normal(n) + 0.05).astype(np.float32) for n in lengths]


def batch_of(batch: list[Samples], inputs: AudioInputConfig) -> dict[str, Tensor]:
    steps, mask = fill_with_silence(*audio_steps(*stack_waveforms(batch), inputs), inputs)
    return {"steps": steps, "mask": mask}


LENGTHS = (3840, 2000, 333, 4500)
"""Of the clips; a Whisper type of the tests takes 3840 samples."""


@torch.no_grad()
@pytest.mark.parametrize("name", SOUNDS)
def test_tokens_are_those_of_transformers_on_the_same_clip(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    inputs = inputs_of(folder)
    encoder = encoder_of(folder, inputs)
    # Loaded and fed by the library alone: the model, and what its own processor makes of a clip.
    theirs: Any = AutoModel.from_pretrained(folder).eval()
    processor = AutoFeatureExtractor.from_pretrained(folder)
    for clip in clips(*LENGTHS):
        if name == "whisper":
            made = processor(clip, sampling_rate=16_000, return_tensors="pt", max_length=3840)
            expected = theirs.encoder(made["input_features"]).last_hidden_state
        else:
            made = processor(clip, sampling_rate=16_000, return_tensors="pt")
            expected = theirs(made["input_values"]).last_hidden_state
        found = encoder(**batch_of([clip], inputs))
        assert found.mask is not None
        assert found.tokens.shape == expected.shape
        heard = found.mask[0]
        torch.testing.assert_close(found.tokens[0, heard], expected[0, heard], rtol=0, atol=2e-5)
        assert not found.tokens[0, ~heard].any()
        assert encoder.width == encoder.token_width == expected.shape[2]
        if name == "whisper":
            # Two frames a token, of those whose window of 400 reaches into the clip.
            assert heard.sum() == min(12, math.ceil(math.ceil((len(clip) + 200) / 160) / 2))
        else:
            assert heard.all()


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last"])
@pytest.mark.parametrize("name", SOUNDS)
def test_a_clip_gives_the_same_in_any_company(name: str, pooling: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    inputs = inputs_of(folder)
    encoder = encoder_of(folder, inputs, pooling=pooling)
    batch = clips(*LENGTHS, 7)
    together = encoder(**batch_of(batch, inputs))
    assert together.mask is not None
    for at, clip in enumerate(batch):
        alone = encoder(**batch_of([clip], inputs))
        assert alone.mask is not None
        torch.testing.assert_close(together.pooled[at], alone.pooled[0], rtol=0, atol=2e-5)
        torch.testing.assert_close(
            together.tokens[at, together.mask[at]],
            alone.tokens[0, alone.mask[0]],
            rtol=0,
            atol=2e-5,
        )
        expected = pool(alone.tokens, alone.mask, pooling)
        assert torch.equal(alone.pooled, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", SOUNDS)
def test_what_came_from_a_checkpoint_is_whole_without_it(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path / "theirs")
    inputs = inputs_of(folder)
    encoder = encoder_of(folder, inputs)
    save_weights(encoder, tmp_path / WEIGHTS)
    save_architectures(tmp_path, encoder.architectures("encoder"))
    stored = stored_origins(tmp_path)["encoder"]
    again = build_audio_encoder(CONFIG, channels=inputs.channels, origin=stored).eval()
    load_weights(again, tmp_path / WEIGHTS)
    assert not [name for name in again.state_dict() if "decoder" in name or "masked" in name]
    batch = batch_of(clips(*LENGTHS), inputs)
    assert torch.equal(encoder(**batch).tokens, again(**batch).tokens)


@torch.no_grad()
@pytest.mark.parametrize("saved_as", [WhisperModel, WhisperForAudioClassification])
def test_the_encoder_is_found_in_every_model_that_holds_it(saved_as: Any, tmp_path: Path) -> None:
    write_checkpoint("whisper", tmp_path / "first")
    config = AutoConfig.from_pretrained(tmp_path / "first")
    torch.manual_seed(1)
    model = saved_as(config).eval()
    model.save_pretrained(tmp_path / "second")
    origin = Origin(tmp_path / "second", with_weights=True)
    encoder = build_audio_encoder(CONFIG, channels=20, origin=origin).eval()
    steps = torch.randn(2, 24, 20)
    expected = model.encoder(steps.transpose(1, 2)).last_hidden_state
    found = encoder(steps=steps, mask=torch.ones(2, 24, dtype=torch.bool))
    assert torch.equal(found.tokens, expected)


@pytest.mark.parametrize("name", SOUNDS)
def test_every_tensor_learns_in_half_precision_too(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    inputs = inputs_of(folder)
    encoder = encoder_of(folder, inputs)
    batch = batch_of(clips(*LENGTHS), inputs)
    expected = encoder(**batch).pooled
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(**batch).pooled
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        encoder(**batch).pooled.square().sum().backward()
    still = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert still == set()
    finite = [p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None]
    assert all(finite)


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_every_tensor_of_an_adapter_learns(name: str, quantize: str | None, tmp_path: Path) -> None:
    """The maps in WavLM's attention are read and never called, so they get none."""
    folder = write_checkpoint(name, tmp_path)
    inputs = inputs_of(folder)
    model = nn.ModuleDict({"encoder": encoder_of(folder, inputs)})
    settings = {"rank": 2, "alpha": 4.0, "quantize": quantize}
    config = AdapterConfig.model_validate(settings)
    attach_adapters(model, {"encoder": config}, seed=0, compute_dtype=torch.float32)
    model["encoder"](**batch_of(clips(*LENGTHS), inputs)).pooled.square().sum().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    adapted = {n.split(".lora_")[0].rpartition(".")[2] for n in trained}
    attention = {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert adapted & attention == (set() if name == "wavlm" else attention)
    read = AdapterConfig.model_validate(settings | {"targets": ["q_proj"]})
    if name == "wavlm":
        fresh = nn.ModuleDict({"encoder": encoder_of(folder, inputs)})
        with pytest.raises(ConfigError, match="'q_proj' is no linear layer of encoder"):
            attach_adapters(fresh, {"encoder": read}, seed=0, compute_dtype=torch.float32)


WAVES = {"conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2]}
FAMILY: dict[str, dict[str, Any]] = {
    "unispeech": {},
    "unispeech-sat": {},
    "data2vec-audio": {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    "wav2vec2-conformer": {},
    "sew": {"squeeze_factor": 2},
}
HEEDS = {"unispeech", "unispeech-sat"}
"""Those whose every layer heeds the mask."""


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_what_hears_its_padding_says_so(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is a property of some types; on a clip alone they too give what transformers gives."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    convs = WAVES | {"conv_dim": [16] * 3, "num_feat_extract_layers": 3}
    places = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        name, **sizes, **convs, intermediate_size=48, **(places | FAMILY[name])
    )
    theirs: Any = AutoModel.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="plumbline.models.audio_checkpoints"):
        origin = Origin(tmp_path, with_weights=True)
        encoder = build_audio_encoder(CONFIG, channels=1, origin=origin).eval()
    told = [record for record in caplog.records if "padding behind it" in record.message]
    assert bool(told) == (name not in HEEDS)
    waveforms = torch.randn(2, 900)
    found = encoder(waveforms.unsqueeze(-1), torch.ones(2, 900, dtype=torch.bool)).tokens
    torch.testing.assert_close(found, theirs(waveforms).last_hidden_state, rtol=0, atol=2e-5)


def test_inputs_are_those_of_the_processor(tmp_path: Path) -> None:
    said = {"edges": "reflect", "scale": "whisper", "fft": 400, "window_ms": 25.0, "hop_ms": 10.0}
    found = inputs_of(write_checkpoint("whisper", tmp_path / "whisper"), augment={"gain_db": 1.0})
    assert found == AudioInputConfig.model_validate(
        said
        | {"modality": "audio", "form": "log_mel", "n_mels": 20, "normalize": "none"}
        | {"min_steps": 24, "max_steps": 24, "augment": {"gain_db": 1.0}}
    )
    for name, normalize in (("wav2vec2", "clip"), ("wavlm", "none")):
        found = inputs_of(write_checkpoint(name, tmp_path / name), max_steps=9000)
        assert (found.form, found.normalize, found.channels) == ("waveform", normalize, 1)
        assert (found.min_steps, found.max_steps) == (40, 9000)


def test_a_processor_of_sounds_and_texts_is_read_too(tmp_path: Path) -> None:
    folder = write_checkpoint("whisper", tmp_path)
    alone = inputs_of(folder)
    own = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").unlink()
    joint = {"feature_extractor": own, "processor_class": WhisperProcessor.__name__}
    (folder / "processor_config.json").write_text(json.dumps(joint), encoding="utf-8")
    assert inputs_of(folder) == alone
    # Where an older one does not name its type, what it holds tells it.
    waves = write_checkpoint("hubert", tmp_path / "waves")
    said = json.loads((waves / "preprocessor_config.json").read_text(encoding="utf-8"))
    del said["feature_extractor_type"]
    (waves / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    assert inputs_of(waves).form == "waveform"


def test_what_cannot_be_prepared_is_one_line(tmp_path: Path) -> None:
    folder = write_checkpoint("whisper", tmp_path / "whisper")
    with pytest.raises(ConfigError, match=r"16000 Hz, but task\.inputs\.sample_rate = 8000: set"):
        inputs_of(folder, sample_rate=8000)
    with pytest.raises(ConfigError, match=r"24 steps .* leave task\.inputs\.max_steps out"):
        inputs_of(folder, max_steps=12)
    with pytest.raises(ConfigError, match="starts from none: set pretrained, or another form"):
        settle(CONFIG, AudioInputConfig(modality="audio", form="checkpoint"), None)
    WhisperFeatureExtractor(feature_size=20, dither=0.1).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: dither: Input should be"):
        inputs_of(folder)
    spectrogram = tmp_path / "ast"
    ASTFeatureExtractor().save_pretrained(spectrogram)
    with pytest.raises(ConfigError, match=r"known here \(ASTFeatureExtractor\): set task"):
        inputs_of(spectrogram)
    waves = write_checkpoint("wav2vec2", tmp_path / "waves")
    with pytest.raises(ConfigError, match=r"task\.inputs .*: min_steps 40 is more than"):
        inputs_of(waves, max_steps=9)
    with pytest.raises(ConfigError, match=r"task\.inputs .*: augment\.time_masks and mel_masks"):
        inputs_of(waves, augment={"mel_masks": 1, "mel_width": 2})


OWN, MODEL = "preprocessor_config.json", "config.json"


@pytest.mark.parametrize(
    ("name", "file", "change", "told"),
    [
        ("whisper", OWN, {"hop_length": None}, f"{OWN}: hop_length: Input should be a valid int"),
        ("whisper", OWN, {"n_fft": "many"}, f"{OWN}: n_fft: Input should be a valid integer"),
        ("whisper", OWN, {"feature_size": 0}, "together: n_mels: Input should be greater than"),
        ("whisper", OWN, {"hop_length": 4000}, "together: hop_ms 250.0 is 4000 samples"),
        ("whisper", OWN, {"feature_extractor_type": 3}, "says how sounds are prepared"),
        ("whisper", OWN, None, f"{OWN}: Invalid JSON"),
        ("whisper", MODEL, {"max_source_positions": None}, f"{MODEL}: max_source_positions: Input"),
        ("whisper", MODEL, None, f"{MODEL}: Invalid JSON"),
        ("wav2vec2", OWN, {"sampling_rate": None}, f"{OWN}: sampling_rate: Input should be"),
        ("wav2vec2", MODEL, {"conv_stride": [5]}, "conv_kernel is of 3 layers, conv_stride of 1"),
        (
            "wav2vec2",
            MODEL,
            {"conv_kernel": [10, 0, 2]},
            r"conv_kernel\.1: Input should be",
        ),
    ],
)
def test_damaged_files_are_named_with_their_key(
    name: str, file: str, change: dict[str, Any] | None, told: str, tmp_path: Path
) -> None:
    path = write_checkpoint(name, tmp_path) / file
    said = json.loads(path.read_text(encoding="utf-8")) | (change or {})
    path.write_text("{" if change is None else json.dumps(said), encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as error:
        inputs_of(tmp_path)
    assert "\n" not in str(error.value)


def test_an_encoder_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="starts from a checkpoint: set its pretrained"):
        build_audio_encoder(CONFIG, channels=1)
    folder = write_checkpoint("whisper", tmp_path / "whisper")
    origin = Origin(folder, with_weights=True)
    with pytest.raises(ConfigError, match=r"takes 20 channels a step, but task\.inputs give 128"):
        build_audio_encoder(CONFIG, channels=128, origin=origin)
    encoder = build_audio_encoder(CONFIG, channels=20, origin=origin)
    mask = torch.ones(1, 23, dtype=torch.bool)
    with pytest.raises(ConfigError, match="spectrograms of 24 frames, not 23: set"):
        encoder(torch.zeros(1, 23, 20), mask)
    waves = Origin(write_checkpoint("hubert", tmp_path / "hubert"), with_weights=True)
    with pytest.raises(ConfigError, match="a clip of 23 samples is shorter than the 40 that one"):
        build_audio_encoder(CONFIG, channels=1, origin=waves)(torch.zeros(1, 23, 1), mask)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ASTModel(ASTConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path / "ast")
    with pytest.raises(ConfigError, match="type audio-spectrogram-transformer takes inputs that"):
        build_audio_encoder(CONFIG, channels=128, origin=Origin(tmp_path / "ast", True))


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    """The decoder's alone may be gone."""
    folder = write_checkpoint("whisper", tmp_path)
    origin = Origin(folder, with_weights=True)
    state = {n: t for n, t in load_file(folder / WEIGHTS).items() if "decoder" not in n}
    save_file(state, folder / WEIGHTS)
    build_audio_encoder(CONFIG, channels=20, origin=origin)
    del state["model.encoder.conv1.bias"]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=r"lacks 1 of the model's tensors, such as conv1\.bias"):
        build_audio_encoder(CONFIG, channels=20, origin=origin)
