"""Encoder-decoder models: a text in, another text out."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedConfig,
)
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from plumbline.kinds.seq2seq.settings import Seq2SeqConfig
from plumbline.loading.masks import padding_mask
from plumbline.models.decoder import LogitsOutput
from plumbline.models.lm_head import LanguageModel, LmHead
from plumbline.models.pretrained import NO_ORIGINS, Origin, Origins, build_from_checkpoint
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


class SourceOutput(Protocol):
    """What the encoder gives."""

    last_hidden_state: Tensor
    """[batch, source_seq, width]."""


class GenerationRules(Protocol):
    """What a checkpoint says of its writing."""

    bad_words_ids: list[list[int]] | None
    """Sequences of tokens that it never says."""


class EncoderDecoder(Protocol):
    """What is used of an encoder-decoder of transformers."""

    config: PreTrainedConfig
    generation_config: GenerationRules

    def get_output_embeddings(self) -> nn.Module:
        """The last map, to logits."""

    def get_encoder(self) -> nn.Module:
        """The part that reads sources."""

    def get_decoder(self) -> nn.Module:
        """The part that writes targets."""

    def generate(self, **options: object) -> Tensor:
        """Target ids [batch, target_seq], the start token first."""

    def __call__(
        self,
        *,
        input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        attention_mask: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None = None,
        use_cache: bool,
    ) -> LogitsOutput:
        """See sources, or what the encoder made of them, and targets so far."""


class Seq2Seq(LanguageModel):
    """An encoder-decoder; the decoder is given the labels one place later, behind bos."""

    def __init__(
        self,
        config: Seq2SeqConfig,
        vocab_size: int,
        special_ids: SpecialIds,
        origins: Origins = NO_ORIGINS,
    ) -> None:
        """Build from sizes, or load a checkpoint.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        super().__init__()
        self._special_ids = special_ids
        origin = origins.get("net")
        self.net: EncoderDecoder = _build(config, vocab_size, special_ids, origin)
        self.lm_head = LmHead(self.net)

    @property
    def architectures(self) -> Mapping[str, PreTrainedConfig]:
        """What is stored beside the weights: another training can start from them."""
        return {"net": self.net.config}

    def forward(
        self,
        input_ids: Tensor,
        decoder_input_ids: Tensor,
        attention_mask: Tensor | None = None,
        **others: Tensor,
    ) -> Tensor:
        """Logits [batch, target_seq, vocab] of the token after each decoder input.

        Args:
            input_ids: [batch, source_seq], int64.
            decoder_input_ids: [batch, target_seq]; padding stands at the end, where no token that
                counts can see it.
            attention_mask: [batch, source_seq], 1 where a token counts; of rows of several pairs
                None.
            others: what a batch holds beside; of rows of several pairs spans and positions.
        """
        if attention_mask is None:
            return self._packed(input_ids, decoder_input_ids, **others)
        out = self.net(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        )
        return out.logits

    def _packed(
        self,
        input_ids: Tensor,
        decoder_input_ids: Tensor,
        *,
        spans: Tensor,
        position_ids: Tensor,
        source_position_ids: Tensor,
        **others: Tensor,
    ) -> Tensor:
        assert self.packing is not None
        encoder, decoder = self.net.get_encoder(), self.net.get_decoder()
        # [rows, 1, pairs, 2] of targets and sources: each sees itself, and targets their sources.
        with self.packing.given(encoder, source_position_ids):
            sources: SourceOutput = encoder(input_ids=input_ids, attention_mask=spans[..., [1, 1]])
        with self.packing.given(decoder, position_ids):
            return self.net(
                encoder_outputs=BaseModelOutput(last_hidden_state=sources.last_hidden_state),
                attention_mask=spans,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=spans[..., [0, 0]],
                use_cache=False,
            ).logits

    @torch.inference_mode()
    def generate(
        self, sources: Sequence[Sequence[int]], *, beams: int, length_penalty: float, limit: int
    ) -> list[list[int]]:
        """Find the likeliest targets by beam search; one beam is greedy decoding.

        Args:
            sources: token ids of each source, framed as in training.
            beams: hypotheses kept per source.
            length_penalty: a hypothesis is scored by its log-likelihood over length ** this.
            limit: longest target in tokens, with eos.

        Returns:
            Token ids of each target, without bos and eos.
        """
        special, device = self._special_ids, next(self.parameters()).device
        lengths = torch.tensor([len(source) for source in sources])
        mask = padding_mask(lengths, int(lengths.max()))  # [batch, source_seq]
        ids = torch.full(mask.shape, special.pad)  # [batch, source_seq]
        ids[mask] = torch.tensor([token for source in sources for token in source])
        # Relative positions have no limit, and no such setting.
        positions = getattr(self.net.config, "max_position_embeddings", limit)
        out = self.net.generate(
            input_ids=ids.to(device),
            attention_mask=mask.long().to(device),
            num_beams=beams,
            length_penalty=length_penalty,
            early_stopping=beams > 1,
            max_new_tokens=min(limit, positions),
            do_sample=False,
            # As in training, whatever a checkpoint was used to.
            decoder_start_token_id=special.bos,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
            forced_bos_token_id=None,
            forced_eos_token_id=None,
        )
        return [_until(row[1:], special.eos) for row in out.tolist()]  # the first is bos


def _until(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos)] if eos in ids else ids


def _build(
    config: Seq2SeqConfig, vocab_size: int, special_ids: SpecialIds, origin: Origin | None
) -> EncoderDecoder:
    model = build_from_checkpoint(AutoModelForSeq2SeqLM, origin)
    model = model or MarianMTModel(
        MarianConfig(
            vocab_size=vocab_size,
            d_model=config.width,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.mlp_width,
            decoder_ffn_dim=config.mlp_width,
            max_position_embeddings=config.max_positions,
            dropout=config.dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            activation_function="gelu",
            init_std=config.width**-0.5,
            # Embeddings of deviation width ** -0.5 times width ** 0.5 meet positions of order 1.
            scale_embedding=True,
            share_encoder_decoder_embeddings=True,
            tie_word_embeddings=True,
            pad_token_id=special_ids.pad,
            bos_token_id=special_ids.bos,
            eos_token_id=special_ids.eos,
            decoder_start_token_id=special_ids.bos,
            forced_eos_token_id=None,
        )
    )
    # Their classes type calls as nn.Module does, which says nothing of arguments and output.
    return cast(EncoderDecoder, model)


class Seq2SeqSpec(ModelSpec):
    """How to build and feed an encoder-decoder."""

    kind: Literal["seq2seq"] = "seq2seq"
    model: Seq2SeqConfig
    vocab_size: int
    special_ids: SpecialIds
    max_source_tokens: int
    max_target_tokens: int

    @override
    def build(self, origins: Origins) -> Seq2Seq:
        return Seq2Seq(self.model, self.vocab_size, self.special_ids, origins)


SPEC = Seq2SeqSpec
