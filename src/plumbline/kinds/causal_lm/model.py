"""The causal language model, from sizes or from a checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor
from transformers import PreTrainedConfig
from typing_extensions import override

from plumbline.kinds.causal_lm.settings import CausalLmConfig
from plumbline.kinds.language.chat import ChatSpec
from plumbline.models.decoder import CausalDecoder, build_decoder, find_change, no_change
from plumbline.models.lm_head import LanguageModel, LmHead
from plumbline.models.packed import whole_rows
from plumbline.models.pretrained import NO_ORIGINS, Origins
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


class CausalLm(LanguageModel):
    """A causal decoder that says how likely each next token is."""

    def __init__(
        self, config: CausalLmConfig, vocab_size: int, pad: int, origins: Origins = NO_ORIGINS
    ) -> None:
        """Build as `build_decoder` does."""
        super().__init__()
        origin = origins.get("decoder")
        self.decoder: CausalDecoder = build_decoder(config.decoder, vocab_size, pad, origin)
        self.lm_head = LmHead(self.decoder)
        self.behind_map = no_change if origin is None else find_change(self.decoder)
        self.whole_rows = False
        """Whether it is told that a row without spans is one sample; see `takes_whole_rows`."""

    @property
    def architectures(self) -> Mapping[str, PreTrainedConfig]:
        """What is stored beside the weights: another training can start from them."""
        return {"decoder": self.decoder.config}

    def forward(
        self,
        input_ids: Tensor,
        spans: Tensor | None = None,
        position_ids: Tensor | None = None,
        **others: object,
    ) -> Tensor:
        """Map ids [batch, seq] to logits [batch, seq, vocab] of the token after each.

        Padding stands at the end of a row, where no token that counts can see it.

        Args:
            input_ids: [batch, seq], int64.
            spans: of rows of several samples, as `Layout.spans`.
            position_ids: [batch, seq] beside them.
            others: what a batch holds beside.
        """
        with self._laid_out(input_ids, spans, position_ids) as rows:
            # Whole rows at a time: kept keys and values would only take memory.
            return self.decoder(input_ids=input_ids, use_cache=False, **rows).logits

    def layers(
        self,
        *,
        input_ids: Tensor,
        spans: Tensor | None = None,
        position_ids: Tensor | None = None,
        **others: object,
    ) -> Tensor:
        """Map what `forward` takes to [batch, seq, width], which the last map is given."""
        with self._laid_out(input_ids, spans, position_ids) as rows:
            return self.decoder.base_model(
                input_ids=input_ids, use_cache=False, **rows
            ).last_hidden_state

    @contextmanager
    def _laid_out(
        self, input_ids: Tensor, spans: Tensor | None, position_ids: Tensor | None
    ) -> Iterator[dict[str, Tensor]]:
        """What the decoder is called with beside ids, within the block."""
        if spans is None:
            yield {"attention_mask": whole_rows(input_ids.device)} if self.whole_rows else {}
            return
        assert position_ids is not None
        assert self.packing is not None
        with self.packing.given(self.decoder, position_ids) as positions:
            yield {"attention_mask": spans, **positions}


class CausalLmSpec(ModelSpec):
    """How to build and feed a causal language model."""

    kind: Literal["causal_lm"] = "causal_lm"
    model: CausalLmConfig
    vocab_size: int
    special_ids: SpecialIds
    """Of a model of conversations, eos is what ends an answer in its template."""
    text: Literal["text", "question_answer", "turns"]
    """What it was trained on: a running text, answers to questions, or conversations."""
    chat: ChatSpec | None = None
    """Of conversations."""
    block_size: int
    """Tokens that it was trained to see at a time."""
    packed: bool
    """Whether it was trained on rows as one stream; so called in models stored before."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave `chat` out where there is none: models of texts stay the bytes that they were."""
        plain: dict[str, object] = handler(self)
        return plain if self.chat else {k: v for k, v in plain.items() if k != "chat"}

    @override
    def build(self, origins: Origins) -> CausalLm:
        return CausalLm(self.model, self.vocab_size, self.special_ids.pad, origins)


SPEC = CausalLmSpec
