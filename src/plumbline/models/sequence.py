"""The encoder of spectrograms and feature sequences: what is padding changes nothing."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import ConvLayer, SequenceEncoderConfig
from plumbline.models.encoders import Encoded, Encoder, pool


class MaskedConv(nn.Module):
    """A convolution over time whose padding is the zeros beyond each sequence's own end."""

    def __init__(self, channels: int, config: ConvLayer) -> None:
        """Map `channels` to `config.channels`."""
        super().__init__()
        self.stride = config.stride
        self.conv = nn.Conv1d(
            channels, config.channels, config.kernel, config.stride, padding=config.kernel // 2
        )
        self.norm = nn.LayerNorm(config.channels)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map [batch, steps, channels] and mask [batch, steps] to those of the strided steps."""
        # Conv1d takes [batch, channels, steps].
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        # An odd kernel is centred: strided step i has its centre at step i * stride.
        mask = mask[:, :: self.stride]
        return functional.gelu(self.norm(x)) * mask.unsqueeze(-1), mask


class SequenceEncoder(Encoder):
    """Masked convolutions, then BERT layers; see `SequenceEncoderConfig`."""

    def __init__(self, config: SequenceEncoderConfig, *, channels: int) -> None:
        """Build for inputs of `channels` features a step."""
        super().__init__()
        self._config = config
        self.convs = nn.ModuleList()
        for layer in config.convs:
            self.convs.append(MaskedConv(channels, layer))
            channels = layer.channels
        self.projection = nn.Linear(channels, config.width)
        self.layers = _transformer(config) if config.layers else None
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.token_width = config.width
        flat = config.flatten and config.pooling == "none"
        self.width = config.width * (config.max_tokens if flat else 1)

    def forward(self, steps: Tensor, mask: Tensor, **others: object) -> Encoded:
        """Encode sequences.

        Args:
            steps: [batch, steps, channels], float.
            mask: [batch, steps] bool; true first, then padding; at least one true a row.
            others: what a batch holds beside.

        Raises:
            ConfigError: a sequence is longer than `max_steps`.
        """
        if steps.shape[1] > self._config.max_steps:
            raise ConfigError(
                f"encoder.max_steps = {self._config.max_steps}: a sequence has {steps.shape[1]} "
                "steps; raise it, or cut the inputs with inputs.max_steps"
            )
        # Padding may hold anything, NaN included, which times 0 would stay NaN.
        x = steps.masked_fill(~mask.unsqueeze(-1), 0.0)
        for conv in self.convs:
            x, mask = conv(x, mask)
        x = self.dropout(self.projection(x))
        if self.layers is not None:
            x = self.layers(inputs_embeds=x, attention_mask=mask.long()).last_hidden_state
        # The norm gives padding its bias: zero again.
        x = self.norm(x) * mask.unsqueeze(-1)  # [batch, steps, width]
        return Encoded(x, self._pool(x, mask), mask)

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        if self._config.pooling != "none":
            return pool(x, mask, self._config.pooling)
        if not self._config.flatten:
            return x
        # To the longest that may come: the heads need one width, whatever is in the batch.
        padded = functional.pad(x, (0, 0, 0, self._config.max_tokens - x.shape[1]))
        return padded.flatten(1)


def _transformer(config: SequenceEncoderConfig) -> BertModel:
    model = BertModel(
        BertConfig(
            vocab_size=1,  # it is given vectors, never ids
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_tokens,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            type_vocab_size=1,
        ),
        add_pooling_layer=False,
    )
    model.embeddings.word_embeddings = torch.nn.Identity()  # type: ignore[assignment]
    return model
