"""Encoders of sounds from transformers, with the weights of a checkpoint.

A clip gives the same whatever it shares a batch with. Whisper types see every clip in silence of
one length, and have no mask. Types of wav2vec 2.0 take a mask, which all but the group norm in
their first layer heed; that one is replaced by one that does.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention
from typing_extensions import override

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import TransformersAudioConfig
from plumbline.models.encoders import Encoded, Encoder, pool
from plumbline.models.pretrained import Origin, build_from_checkpoint

logger = logging.getLogger(__name__)

CHANGES: Mapping[str, object] = {
    # Both draw from generators that no training state holds; `augment` of the inputs covers too.
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    # A layer that is left out has no gradient in that step.
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
}
"""What is otherwise than in a checkpoint's configuration."""


def build_audio_encoder(
    config: TransformersAudioConfig, *, channels: int | None, origin: Origin | None = None
) -> "AudioEncoder":
    """Build and load the encoder of a checkpoint.

    Args:
        config: the pooling.
        channels: of the steps: mel bands, or 1 of a waveform.
        origin: of the checkpoint, or of the architecture of one that was trained here.

    Raises:
        ConfigError: there is no checkpoint, it cannot be loaded, or it takes other inputs.
    """
    if origin is None:
        raise ConfigError(
            "an audio encoder of transformers starts from a checkpoint: set its pretrained to an "
            "entry of weights"
        )
    built = build_from_checkpoint(AutoModel, origin, tower="encoder", changes=CHANGES)
    assert built is not None, "it has an origin"
    settings = built.config
    encoder: AudioEncoder
    if hasattr(settings, "max_source_positions") and hasattr(settings, "num_mel_bins"):
        taken, encoder = int(settings.num_mel_bins), SpectrogramEncoder(config, built)
    elif hasattr(settings, "conv_stride") and built.main_input_name == "input_values":
        taken, encoder = 1, WaveformEncoder(config, built)
    else:
        raise ConfigError(
            f"{origin.path}: an encoder of type {settings.model_type} takes inputs that are not "
            "made here; types of Whisper and of wav2vec 2.0 can be had"
        )
    if channels != taken:
        raise ConfigError(
            f"{origin.path}: takes {taken} channels a step, but task.inputs give {channels}: set "
            "task.inputs.form to checkpoint"
        )
    if origin.with_weights:
        encoder.say_if_padding_is_heard(str(origin.path))
    return encoder


class TowerOutput(Protocol):
    """What an encoder of transformers gives."""

    last_hidden_state: Tensor
    """[batch, tokens, width]."""


class Tower(Protocol):
    """What is used of an encoder of transformers."""

    def __call__(self, inputs: Tensor, *, attention_mask: Tensor | None = None) -> TowerOutput:
        """Hear a spectrogram or what convolutions made of a waveform, [batch, channels, steps]."""


class ReduceMask(Protocol):
    """From a mask of samples to that of tokens."""

    def __call__(self, tokens: int, attention_mask: Tensor, /) -> Tensor:
        """Map [batch, samples] to [batch, tokens] bool."""


class NormedLayer(Protocol):
    """What is used of a convolution whose norm is one of clips."""

    conv: nn.Module
    layer_norm: nn.Module
    activation: nn.Module


class AudioEncoder(Encoder, ABC):
    """Base of the encoders of sounds from checkpoints."""

    architecture: PreTrainedConfig

    def __init__(self, config: TransformersAudioConfig, built: PreTrainedModel) -> None:
        """Take what was built from a checkpoint."""
        super().__init__()
        self._pooling = config.pooling
        self.architecture = built.config
        self.encoder = built
        adapted = getattr(built.config, "add_adapter", False)  # by layers that shorten the tokens
        width = built.config.output_hidden_size if adapted else built.config.hidden_size
        self.width = self.token_width = int(width)

    def forward(self, steps: Tensor, mask: Tensor, **others: object) -> Encoded:
        """Encode clips.

        Args:
            steps: [batch, steps, channels], float.
            mask: [batch, steps] bool: those that hear the clip, first in a row; at least one.
            others: what a batch holds beside.

        Raises:
            ConfigError: there are fewer or more steps than the encoder takes.
        """
        tokens, heard = self._hear(steps, mask)  # [batch, tokens, width] and [batch, tokens]
        tokens = tokens.masked_fill(~heard.unsqueeze(-1), 0.0)
        return Encoded(tokens, pool(tokens, heard, self._pooling), heard)

    @abstractmethod
    def _hear(self, steps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens, and those of them that hear the clip."""

    def say_if_padding_is_heard(self, name: str) -> None:
        """Log that what clips are padded with changes what they give, where it does."""


class SpectrogramEncoder(AudioEncoder):
    """The encoder of a Whisper type: log-mel spectrograms of one length, silence included."""

    def __init__(self, config: TransformersAudioConfig, built: PreTrainedModel) -> None:
        """Take what was built from a checkpoint."""
        super().__init__(config, built)
        self._frames = 2 * int(built.config.max_source_positions)

    @override
    def _hear(self, steps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if steps.shape[1] != self._frames:
            raise ConfigError(
                f"the encoder takes spectrograms of {self._frames} frames, not {steps.shape[1]}: "
                f"set task.inputs.form to checkpoint, or min_steps and max_steps to {self._frames}"
            )
        states = cast(Tower, self.encoder)(steps.transpose(1, 2)).last_hidden_state
        # Its second convolution strides by 2: token i has its centre at frame 2 * i.
        return states, mask[:, ::2]


class ClipNorm(nn.GroupNorm):
    """A group norm over a clip's own frames, where that of torch counts its padding too."""

    @override
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise each channel by itself.

        Args:
            frames: [batch, channels, frames]; padding holds anything.
            lengths: [batch] frames of each clip.
        """
        counted = _counted(lengths, frames.shape[2]).unsqueeze(1)  # [batch, 1, frames]
        count = lengths[:, None, None]
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))  # sums need it
        values = wide.masked_fill(~counted, 0.0)
        values = (values - values.sum(dim=2, keepdim=True) / count).masked_fill(~counted, 0.0)
        variance = values.square().sum(dim=2, keepdim=True) / count  # [batch, channels, 1]
        scaled = values * (variance + self.eps).rsqrt()
        return scaled * self.weight[:, None] + self.bias[:, None]


class ConvStack(nn.Module):
    """The convolutions of a type of wav2vec 2.0, none of which pads."""

    def __init__(self, layers: nn.ModuleList, kernel: int, stride: int) -> None:
        """Take theirs over.

        Args:
            layers: each a convolution, mostly a norm, and an activation.
            kernel: of the first.
            stride: of the first.
        """
        super().__init__()
        self.layers = layers
        self._kernel, self._stride = kernel, stride
        norm = getattr(layers[0], "layer_norm", None)
        self._whole_clip = isinstance(norm, nn.GroupNorm)
        if isinstance(norm, nn.GroupNorm):
            own = ClipNorm(norm.num_groups, norm.num_channels, norm.eps)
            own.weight, own.bias = norm.weight, norm.bias
            layers[0].layer_norm = own

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Map [batch, samples], of which [batch] count, to [batch, channels, frames]."""
        hidden = waveforms.unsqueeze(1)
        for at, layer in enumerate(self.layers):
            if at == 0 and self._whole_clip:
                frames = (lengths - self._kernel) // self._stride + 1
                first = cast(NormedLayer, layer)
                hidden = first.activation(first.layer_norm(first.conv(hidden), frames))
            else:
                hidden = layer(hidden)
        return hidden


class ReadLinear(nn.Linear):
    """A linear map whose weights something else reads, so that it is never called.

    Of a type of its own, so that no adapter, which would learn nothing, and no layer of 4 bits,
    which has no such weights, comes in its place.
    """


def _mark_read_layers(built: PreTrainedModel) -> None:
    """Tell the maps in WavLM's attention, which reads them, from layers that are called."""
    for attention in [m for m in built.modules() if isinstance(m, WavLMAttention)]:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear: nn.Linear = getattr(attention, name)
            own = ReadLinear(linear.in_features, linear.out_features, device="meta")
            own.weight, own.bias = linear.weight, linear.bias
            setattr(attention, name, own)


class WaveformEncoder(AudioEncoder):
    """The encoder of a type of wav2vec 2.0: samples, and which of them are the clip's."""

    def __init__(self, config: TransformersAudioConfig, built: PreTrainedModel) -> None:
        """Take what was built from a checkpoint; its convolutions stand apart."""
        super().__init__(config, built)
        convs = [*zip(self.architecture.conv_kernel, self.architecture.conv_stride, strict=True)]
        self._reach = 1
        """Samples that one token hears."""
        for kernel, stride in reversed(convs):
            self._reach = (self._reach - 1) * stride + kernel
        layers = built.get_submodule("feature_extractor.conv_layers")
        assert isinstance(layers, nn.ModuleList)
        self.convs = ConvStack(layers, *convs[0])
        built.feature_extractor = nn.Identity()  # what `convs` gives goes through
        _mark_read_layers(built)

    @override
    def _hear(self, steps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if steps.shape[1] < self._reach:
            raise ConfigError(
                f"a clip of {steps.shape[1]} samples is shorter than the {self._reach} that one "
                "token hears: set task.inputs.form to checkpoint, or min_steps"
            )
        # Of a clip that is shorter the silence behind it counts too, or it would have no token.
        lengths = mask.sum(dim=1).clamp(min=self._reach)
        features = self.convs(steps[..., 0].masked_fill(~mask, 0.0), lengths)
        counted = _counted(lengths, steps.shape[1]).long()
        tower = cast(Tower, self.encoder)  # their classes type calls as nn.Module does
        states = tower(features, attention_mask=counted).last_hidden_state
        reduce = cast(ReduceMask, self.encoder._get_feature_vector_attention_mask)
        return states, reduce(states.shape[1], counted)

    @override
    @torch.no_grad()
    def say_if_padding_is_heard(self, name: str) -> None:
        samples = 8 * self._reach
        # Two tones for a clip, and silence behind it.
        time = torch.arange(samples) / self._reach
        clip = (time * 40).sin() + (time * 100).sin()
        steps = torch.stack([clip, clip])[..., None]
        mask = _counted(torch.tensor([samples // 2, samples]), samples)
        was_training = self.training
        self.eval()
        alone = self(steps[:1, : samples // 2], mask[:1, : samples // 2]).pooled
        beside = self(steps, mask).pooled[:1]
        self.train(was_training)
        difference = float((alone - beside).abs().max() / alone.abs().max())
        if difference > 1e-3:
            logger.warning(
                "%s: what a clip gives depends on the padding behind it (here by %.1g of it): put "
                "clips of one length together by loader.bucket_by_length",
                *(name, difference),
            )


def _counted(lengths: Tensor, longest: int) -> Tensor:
    """The first positions of each row, [batch, longest] bool; no graph can look at lengths."""
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
