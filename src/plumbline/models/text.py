"""Text encoders: one that takes token ids, one that takes the raw texts."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel
from typing_extensions import override

from plumbline.batch import Batch
from plumbline.errors import ConfigError
from plumbline.models.encoder_config import NgramEncoderConfig, TextEncoderConfig
from plumbline.models.encoders import Encoded, Encoder, pool
from plumbline.models.pretrained import Origin, build_from_checkpoint
from plumbline.models.sentence import SentenceArchitecture, SentenceHead
from plumbline.weights.sentence import layers_folder, read_modules


class TextEncoder(Encoder):
    """A transformers encoder, pooled over the tokens that are not padding."""

    def __init__(
        self, config: TextEncoderConfig, *, vocab_size: int, origin: Origin | None = None
    ) -> None:
        """Build from sizes with random weights, or what a checkpoint says.

        Raises:
            ConfigError: the checkpoint cannot be loaded, or pools in a way that is not followed.
        """
        super().__init__()
        self._config = config
        spare = None if config.pooling == "pooler" else "pooler"
        layers = replace(origin, path=layers_folder(origin.path)) if origin else None
        loaded = build_from_checkpoint(AutoModel, layers, tower="text", spare=spare)
        if loaded is not None:
            self.architecture = loaded.config
        self.encoder = loaded if loaded is not None else _from_sizes(config, vocab_size)
        self.width = self.token_width = int(self.encoder.config.hidden_size)
        self.head: SentenceHead | None = None
        if config.pooling == "checkpoint":
            self._pool_as_declared(origin)

    def _pool_as_declared(self, origin: Origin | None) -> None:
        """Put behind the layers what a checkpoint of sentence-transformers declares."""
        if origin is None or self.architecture is None:
            raise ConfigError(
                "pooling checkpoint is what a checkpoint declares, and the text encoder starts "
                "from none: set pretrained, or another pooling"
            )
        modules = read_modules(origin.path)
        self.head = SentenceHead(modules, self.token_width, origin)
        self.width, self.longest = self.head.width, modules.longest
        self.architecture = SentenceArchitecture(self.encoder.config, modules)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: object) -> Encoded:
        """Encode texts.

        Args:
            input_ids: [batch, seq], int64.
            attention_mask: [batch, seq], 1 where a token counts; at least one a row.
            others: what a batch holds beside.
        """
        out = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        hidden = out.last_hidden_state
        mask = attention_mask.bool()
        if self.head is not None:
            pooled = self.head(hidden, mask)
        elif self._config.pooling == "pooler":
            pooled = out.pooler_output
        else:
            pooled = pool(hidden, mask, self._config.pooling)
        # BERT gives padding a vector too; `Encoded` promises zeros there.
        return Encoded(hidden * mask.unsqueeze(-1), pooled, mask)


def _from_sizes(config: TextEncoderConfig, vocab_size: int) -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=vocab_size,
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


def read_ngrams(texts: Sequence[str], config: NgramEncoderConfig) -> Batch:
    """The hashed n-grams of texts, each with its ends marked, one text behind the other.

    Returns:
        ngrams [n-grams of all texts]: numbers of their buckets; starts [texts]: where each text's
        begin. EmbeddingBag takes them so, without padding.
    """
    rows = [_buckets(text, config) for text in texts]
    starts = [0]
    for row in rows[:-1]:
        starts.append(starts[-1] + len(row))
    numbers = [number for row in rows for number in row]
    return {"ngrams": torch.tensor(numbers).long(), "starts": torch.tensor(starts)}


def _buckets(text: str, config: NgramEncoderConfig) -> list[int]:
    framed = f"\x02{text}\x03"
    return [
        zlib.crc32(framed[at : at + size].encode("utf-8", "surrogatepass")) % config.buckets
        for size in range(config.shortest, config.longest_gram + 1)
        for at in range(len(framed) - size + 1)
    ]


class NgramEncoder(Encoder):
    """The mean of the embeddings of hashed character n-grams, through two layers.

    Source: Bojanowski et al. 2017, arXiv:1607.04606, section 3.2 (hashed subword units).
    """

    def __init__(self, config: NgramEncoderConfig, **others: object) -> None:
        """Build with random weights; it needs no tokenizer."""
        super().__init__()
        self._read = partial(read_ngrams, config=config)
        self.embeddings = nn.EmbeddingBag(config.buckets, config.width, mode="mean")
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(config.width, config.width))
        self.width = self.token_width = config.width

    @override
    def reader(self) -> Callable[[Sequence[str]], Batch]:
        return self._read

    def forward(
        self,
        texts: Sequence[str] | None = None,
        ngrams: Tensor | None = None,
        starts: Tensor | None = None,
        **others: object,
    ) -> Encoded:
        """Encode texts; the empty one is the mean of no n-gram, a vector like another.

        Args:
            texts: raw; or None, and what `read_ngrams` makes of them:
            ngrams: [n-grams], int64.
            starts: [texts], int64.
            others: what a batch holds beside.
        """
        if texts is not None:
            read, device = self._read(texts), self.embeddings.weight.device
            ngrams, starts = read["ngrams"].to(device), read["starts"].to(device)
        pooled = self.layers(self.embeddings(ngrams, starts))  # [texts, width]
        return Encoded(pooled.unsqueeze(1), pooled)
