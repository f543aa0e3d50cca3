"""A causal decoder with its key-value cache."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import numpy as np

from plumbline.export.runtime.contract import COUNT, Fields, section
from plumbline.export.runtime.files import Array, Floats, Graph, Ids

SIZES: Fields = {"width": COUNT, "layers": COUNT, "kv_heads": COUNT, "head_dim": COUNT}
"""Section `decoder` of a contract."""


class DecoderSizes(TypedDict):
    """What `SIZES` describes."""

    width: int
    layers: int
    kv_heads: int
    head_dim: int


class ImageDecoderSizes(DecoderSizes):
    """The same of a decoder that sees images first."""

    image_tokens: int


class Image(TypedDict):
    """How an image stands in a text: what the template writes, and the tokens around its own."""

    placeholder: str
    before: list[str]
    behind: list[str]


class Chat(TypedDict):
    """Section `chat` of a contract: how turns become text."""

    template: str
    tokens: dict[str, object]
    """Name of a special token -> its text; there may be none."""
    image: NotRequired[Image]
    """Of a template that takes images as parts of a turn."""


def chat_shape(contract: Mapping[str, object]) -> Fields:
    """What `Chat` describes, in a contract that nobody checked yet."""
    image: Fields = {"placeholder": str, "before": [str], "behind": [str]}
    more: Fields = {} if section(contract, "chat", "image") is None else {"image": image}
    return {"template": str, "tokens": dict, **more}


class Decoding:
    """A batch of texts in the making."""

    def __init__(self, decoder: Graph, sizes: DecoderSizes, batch: int) -> None:
        """Begin with an empty cache.

        Args:
            decoder: from [embeddings,] ids, keys and values to logits, keys and values.
            sizes: section `decoder` of the contract; `image_tokens` where it sees images first.
            batch: number of texts.
        """
        self._decoder, self._width = decoder, sizes["width"]
        self._sees_images = "image_tokens" in sizes
        # Nothing is past yet: the axis of positions is of length 0 and grows with what is seen.
        shape = (sizes["layers"], batch, sizes["kv_heads"], 0, sizes["head_dim"])
        self._keys = self._values = np.zeros(shape, np.float32)

    def prefill(self, input_ids: Ids, image_embeds: Floats | None = None) -> Floats:
        """See image embeddings [batch, image_tokens, width] if any, then ids [batch, seq].

        Returns:
            Logits [batch, vocab] of the token after the last.
        """
        inputs: tuple[Array, ...] = (input_ids, self._keys, self._values)
        if self._sees_images:
            if image_embeds is None:
                # The graph always takes images; behind the prompt there are none of them.
                image_embeds = np.zeros((len(input_ids), 0, self._width), np.float32)
            inputs = (image_embeds, *inputs)
        # Both caches come back longer by what was seen.
        logits, self._keys, self._values = self._decoder(inputs)
        return logits

    def step(self, tokens: Ids) -> Floats:
        """See one more token each, [batch]; returns the logits [batch, vocab] of the next."""
        return self.prefill(tokens[:, None])  # [batch, 1]
