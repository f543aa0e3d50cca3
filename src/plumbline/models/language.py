"""Language models: causal and masked, from sizes or from a checkpoint."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline.models.config import CausalLmConfig, DecoderConfig, MaskedLmConfig
from plumbline.models.pretrained import build_from_checkpoint
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


def build_decoder(
    config: DecoderConfig, vocab_size: int, pad: int, stored: Path | None = None
) -> PreTrainedModel:
    """A Qwen3-type decoder: random weights from these sizes, or a checkpoint.

    Args:
        config: sizes, or the place of a checkpoint.
        vocab_size: number of token ids; a checkpoint's embedding grows to it where it is smaller.
        pad: id of the padding token.
        stored: folder with the architecture of a trained decoder, whose weights come later.
    """
    model = build_from_checkpoint(
        AutoModelForCausalLM,
        stored=stored,
        pretrained=config.pretrained,
        setting="decoder.pretrained",
    )
    if model is not None:
        table: Any = model.get_input_embeddings()
        # A stored one has grown before it was stored. It never shrinks: the rows of a checkpoint
        # beyond the tokenizer are often padding for the sake of the hardware.
        if stored is None and table.num_embeddings < vocab_size:
            model.resize_token_embeddings(vocab_size)
        return model
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.width // config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            attention_dropout=0.0,  # as in the published models of this type
            pad_token_id=pad,
        )
    )


class CausalLm(nn.Module):
    """A causal decoder that says how likely each next token is."""

    def __init__(
        self, config: CausalLmConfig, vocab_size: int, pad: int, stored: Path | None = None
    ) -> None:
        """Build as `build_decoder` does."""
        super().__init__()
        self._config = config
        decoder: Any = build_decoder(config.decoder, vocab_size, pad, stored)
        self.decoder = decoder

    @property
    def architecture(self) -> PreTrainedConfig | None:
        """What must be stored beside the weights of one that came from a checkpoint."""
        return self.decoder.config if self._config.decoder.pretrained else None

    def forward(self, input_ids: Tensor, **others: Any) -> Tensor:
        """Map ids [batch, seq] to logits [batch, seq, vocab] of the token after each.

        Padding stands at the end of a row, where no token that counts can see it.
        """
        logits: Tensor = self.decoder(input_ids=input_ids, use_cache=False).logits
        return logits


class CausalLmSpec(ModelSpec):
    """How to build and feed a causal language model."""

    kind: Literal["causal_lm"] = "causal_lm"
    model: CausalLmConfig
    vocab_size: int
    special_ids: SpecialIds
    text: Literal["text", "question_answer"]
    """What it was trained on: a running text, or answers to questions."""
    block_size: int
    """Tokens that it was trained to see at a time."""
    packed: bool

    def build(self, architecture: Path | None) -> CausalLm:
        """See `ModelSpec`."""
        return CausalLm(self.model, self.vocab_size, self.special_ids.pad, architecture)


class MaskedLm(nn.Module):
    """A BERT-type encoder that says which token stands in each place."""

    def __init__(
        self, config: MaskedLmConfig, vocab_size: int, pad: int, stored: Path | None = None
    ) -> None:
        """Build from sizes, or load a checkpoint; `stored` as in `build_decoder`.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        super().__init__()
        self._config = config
        self.encoder: Any = _build_masked(config, vocab_size, pad, stored)

    @property
    def architecture(self) -> PreTrainedConfig | None:
        """What must be stored beside the weights of one that came from a checkpoint."""
        return self.encoder.config if self._config.pretrained else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Any) -> Tensor:
        """Map ids and mask [batch, seq] to logits [batch, seq, vocab] of the token in place."""
        out = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        logits: Tensor = out.logits
        return logits


def _build_masked(
    config: MaskedLmConfig, vocab_size: int, pad: int, stored: Path | None
) -> PreTrainedModel:
    model = build_from_checkpoint(
        AutoModelForMaskedLM,
        stored=stored,
        pretrained=config.pretrained,
        setting="model.pretrained",
    )
    return model or BertForMaskedLM(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_positions,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            type_vocab_size=1,
            pad_token_id=pad,
        )
    )


class MaskedLmSpec(ModelSpec):
    """How to build and feed a masked language model."""

    kind: Literal["masked_lm"] = "masked_lm"
    model: MaskedLmConfig
    vocab_size: int
    special_ids: SpecialIds
    mask_id: int
    masked_share: float
    block_size: int
    packed: bool

    def build(self, architecture: Path | None) -> MaskedLm:
        """See `ModelSpec`."""
        return MaskedLm(self.model, self.vocab_size, self.special_ids.pad, architecture)
