"""The masked language model, from sizes or from a checkpoint."""

from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from plumbline.kinds.masked_lm.settings import MaskedLmConfig
from plumbline.models.pretrained import build_from_checkpoint
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


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


def takes_space(tokenizer: Tokenizer) -> bool:
    """Whether the space before a word is part of its token."""
    return type(tokenizer.model).__name__ in ("BPE", "Unigram")


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


SPEC = MaskedLmSpec
