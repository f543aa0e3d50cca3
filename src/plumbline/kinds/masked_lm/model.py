"""The masked language model, from sizes or from a checkpoint."""

from collections.abc import Mapping
from typing import Literal, Protocol, cast

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedConfig,
)
from typing_extensions import override

from plumbline.kinds.masked_lm.settings import MaskedLmConfig
from plumbline.models.decoder import LogitsOutput
from plumbline.models.lm_head import LanguageModel, LmHead
from plumbline.models.pretrained import NO_ORIGINS, Origin, Origins, build_from_checkpoint
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


class MaskedEncoder(Protocol):
    """What is used of a masked language model of transformers."""

    config: PreTrainedConfig

    def get_output_embeddings(self) -> nn.Module:
        """The last map, to logits."""

    def __call__(
        self, *, input_ids: Tensor, attention_mask: Tensor, **rows: Tensor
    ) -> LogitsOutput:
        """See ids [batch, seq] under a mask of the same shape, or [batch, 1, seq, seq]."""


class MaskedLm(LanguageModel):
    """A BERT-type encoder that says which token stands in each place."""

    def __init__(
        self, config: MaskedLmConfig, vocab_size: int, pad: int, origins: Origins = NO_ORIGINS
    ) -> None:
        """Build from sizes, or load a checkpoint.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        super().__init__()
        origin = origins.get("encoder")
        self.encoder: MaskedEncoder = _build_masked(config, vocab_size, pad, origin)
        self.lm_head = LmHead(self.encoder)

    @property
    def architectures(self) -> Mapping[str, PreTrainedConfig]:
        """What is stored beside the weights: another training can start from them."""
        return {"encoder": self.encoder.config}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        spans: Tensor | None = None,
        position_ids: Tensor | None = None,
        **others: object,
    ) -> Tensor:
        """Map ids and mask [batch, seq] to logits [batch, seq, vocab] of the token in place.

        Args:
            input_ids: [batch, seq], int64.
            attention_mask: [batch, seq], 1 where a token counts; None of rows of several samples.
            spans: of those, as `Layout.spans`.
            position_ids: [batch, seq] beside them.
            others: what a batch holds beside.
        """
        if attention_mask is not None:
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits
        assert spans is not None
        assert position_ids is not None
        assert self.packing is not None
        with self.packing.given(self.encoder, position_ids) as positions:
            return self.encoder(input_ids=input_ids, attention_mask=spans, **positions).logits


def _build_masked(
    config: MaskedLmConfig, vocab_size: int, pad: int, origin: Origin | None
) -> MaskedEncoder:
    model = build_from_checkpoint(AutoModelForMaskedLM, origin)
    model = model or BertForMaskedLM(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_positions,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            type_vocab_size=1,  # a text, never a pair of them
            pad_token_id=pad,
        )
    )
    # Their classes type calls as nn.Module does, which says nothing of arguments and output.
    return cast(MaskedEncoder, model)


def takes_space(tokenizer: Tokenizer) -> bool:
    """Whether the space before a word is part of its token."""
    # In these the first token of a word holds it; in others it is a token of its own, or none.
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
    """Whether it was trained on rows as one stream; so called in models stored before."""

    @override
    def build(self, origins: Origins) -> MaskedLm:
        return MaskedLm(self.model, self.vocab_size, self.special_ids.pad, origins)


SPEC = MaskedLmSpec
