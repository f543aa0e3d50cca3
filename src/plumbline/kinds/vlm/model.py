"""The vision-language model: image encoder, projector, causal decoder."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from typing_extensions import override

from plumbline.kinds.language.chat import ChatSpec
from plumbline.kinds.vlm.rows import dialogue_mask
from plumbline.kinds.vlm.settings import VlmConfig
from plumbline.loading.input_config import AnyInput, ImageInputConfig
from plumbline.loading.transform_config import Normalization
from plumbline.models.decoder import CausalDecoder, build_decoder, change_behind_map, no_change
from plumbline.models.encoder_config import AnyImageEncoder
from plumbline.models.encoders import encoder_for
from plumbline.models.module_decoder import needs_masks
from plumbline.models.packed import whole_rows
from plumbline.models.pretrained import NO_ORIGINS, Architecture, Origins
from plumbline.models.projectors import Joint, build_projector
from plumbline.models.spec import ModelSpec
from plumbline.models.stored import Stored
from plumbline.models.vision import ImageEncoder
from plumbline.tokenization.tokenizer import SpecialIds


class Vlm(nn.Module):
    """Answers a prompt about an image: projected image tokens, then text, through the decoder."""

    def __init__(
        self,
        image_encoder: ImageEncoder,
        config: VlmConfig,
        vocab_size: int,
        pad: int,
        origins: Origins = NO_ORIGINS,
    ) -> None:
        """Join a given encoder with a new projector and decoder, or with those of checkpoints.

        Raises:
            ConfigError: a checkpoint cannot be loaded, or the parts do not go together.
        """
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        origin = origins.get("decoder")
        self.decoder: CausalDecoder = build_decoder(config.decoder, vocab_size, pad, origin)
        needs_masks(self.decoder)
        self.whole_rows = False
        """Whether the decoder is told that a row is one text; see `takes_whole_rows`."""
        self.behind_map = no_change if origin is None else change_behind_map(self.decoder)
        width = self.decoder.get_input_embeddings().embedding_dim
        tokens, token_width = image_encoder.tokens, image_encoder.token_width
        joint = Joint(tokens, token_width, width, origins.get("projector"))
        self.projector = build_projector(config.projector, joint)
        self.image_tokens = config.projector.count(tokens)
        """That an image takes of a row."""

    @property
    def architectures(self) -> Mapping[str, Architecture]:
        """What is stored beside the weights: another training can start from the decoder."""
        return {"decoder": self.decoder.config, **self.image_encoder.architectures("image_encoder")}

    def embed_image(self, features: Tensor) -> Tensor:
        """Map encoder tokens [batch, tokens, token_width] to [batch, image_tokens, width]."""
        projected: Tensor = self.projector(features)
        return projected

    def embed_rows(self, image_features: Tensor, input_ids: Tensor, places: Tensor) -> Tensor:
        """Embed rows in which images stand among the text.

        Args:
            image_features: [images, tokens, token_width], in the order of their places.
            input_ids: [rows, seq], int64; of images any id.
            places: [rows, seq] bool, where tokens of images stand.

        Returns:
            [rows, seq, width].
        """
        text: Tensor = self.decoder.get_input_embeddings()(input_ids)
        image = self.embed_image(image_features).to(text.dtype)
        if not len(image):
            return text
        # As `masked_scatter`, for whose gradient the host waits: which token of an image stands in
        # a place, or did in the last one before it.
        order = (places.flatten().cumsum(0) - 1).clamp(min=0)
        seen = image.flatten(0, 1).index_select(0, order).view_as(text)
        inputs: Tensor = torch.where(places.unsqueeze(-1), seen, text)
        return inputs

    def hidden_states(
        self,
        image_features: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        image_places: Tensor | None = None,
    ) -> Tensor:
        """Run the decoder over image tokens followed by text, or over rows of several images.

        Args:
            image_features: [batch, tokens, token_width], from the image encoder.
            input_ids: [batch, seq], int64.
            position_ids: [batch, image_tokens + seq], int64.
            mask: as `join_places` makes it, of image_tokens + seq places.
            image_places: [rows, seq] bool, where tokens of images stand in rows that they share;
                then seq counts them above too, and there are as many rows as rows of ids.

        Returns:
            [batch, seq, width] for the text positions, or for all of rows of several images.
        """
        if image_places is None:
            text = self.decoder.get_input_embeddings()(input_ids)  # [batch, seq, width]
            image = self.embed_image(image_features).to(text.dtype)  # [batch, image_tokens, width]
            inputs = torch.cat([image, text], dim=1)
        else:
            inputs = self.embed_rows(image_features, input_ids, image_places)
        if mask.shape[1]:
            mask = dialogue_mask(mask)
        elif self.whole_rows:
            mask = whole_rows(inputs.device)
        else:
            seq = inputs.shape[1]
            mask = mask.new_ones((1, 1, seq, seq), dtype=torch.bool).tril()
        hidden = self.decoder.model(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=position_ids,
            # Training and scoring see whole rows; the keys and values would only take memory.
            use_cache=False,
        ).last_hidden_state
        if image_places is not None:
            return hidden
        return hidden[:, -input_ids.shape[1] :]  # nothing is predicted at the image

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., width] to logits [..., vocab]."""
        return self.behind_map(self.decoder.lm_head(hidden))


class VlmSpec(ModelSpec):
    """How to build and feed a vision-language model."""

    kind: Literal["vlm"] = "vlm"
    image_encoder: AnyImageEncoder
    model: VlmConfig
    vocab_size: int
    special_ids: SpecialIds
    inputs: AnyInput
    """How images reach the encoder; as in the alignment that it comes from, if it does."""
    max_text_tokens: int
    caption_prompt: str
    captions: bool = True
    """Whether it learned to say them behind that prompt, as far as its data has any."""
    chat: ChatSpec | None = None
    """Of a model of conversations; eos is then what ends an answer in its template."""
    block_size: int | None = None
    """Beside it: tokens that it was trained to see at a time."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what most models do not have: they stay the bytes that they were."""
        plain: dict[str, object] = handler(self)
        left_out = {"captions"} if self.captions else set[str]()
        left_out |= set() if self.chat else {"chat", "block_size"}
        return {name: value for name, value in plain.items() if name not in left_out}

    @property
    def images(self) -> ImageInputConfig:
        """How they reach the encoder."""
        assert isinstance(self.inputs, ImageInputConfig), "its encoder sees images"
        return self.inputs

    @property
    def normalization(self) -> Normalization:
        """Of the images."""
        return self.images.normalize

    @override
    def build(self, origins: Origins) -> Vlm:
        encoder = encoder_for(self.image_encoder, None, None, origins.get("image_encoder"))
        assert isinstance(encoder, ImageEncoder)
        return Vlm(encoder, self.model, self.vocab_size, self.special_ids.pad, origins)


SPEC = VlmSpec

StoredVlm = Stored[Vlm, VlmSpec]
