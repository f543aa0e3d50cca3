"""The graphs of a vision-language model: image to embeddings, then a decoder with a cache."""

import torch
from torch import Tensor, nn

from plumbline.export.graphs import (
    DECODER_OUTPUTS,
    DecoderSizes,
    GraphSpec,
    decode_step,
    decoder_examples,
    decoder_sizes,
    pixels_example,
)
from plumbline.kinds.vlm.model import Vlm, VlmSpec


class VisionGraph(nn.Module):
    """Image encoder and projector."""

    def __init__(self, model: Vlm) -> None:
        super().__init__()
        self.image_encoder, self.projector = model.image_encoder, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to [batch, image_tokens, width], float32."""
        embeds: Tensor = self.projector(self.image_encoder(pixel_values).tokens)
        return embeds


class DecoderGraph(nn.Module):
    """One graph for the prompt and for every token after it."""

    def __init__(self, model: Vlm) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, image_embeds: Tensor, input_ids: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See an image, then ids.

        Args:
            image_embeds: [batch, images, width]; `images` is 0 after the prompt.
            input_ids: [batch, seq], int64.
            past_keys: as in `decode_step`, as what is returned.
            past_values: as `past_keys`.
        """
        text = self.decoder.get_input_embeddings()(input_ids)  # [batch, seq, width]
        inputs = torch.cat([image_embeds, text], dim=1)
        return decode_step(self.decoder, inputs, past_keys, past_values)


def vision_spec(model: Vlm, image_size: int, channels: int) -> GraphSpec:
    """The vision graph with an example."""
    return GraphSpec(
        VisionGraph(model).eval(),
        {"pixel_values": pixels_example(image_size, channels)},
        {"pixel_values": {0: "batch"}},
        ["image_embeds"],
    )


def decoder_spec(model: Vlm, sizes: DecoderSizes) -> GraphSpec:
    """The decoder graph, with example inputs."""
    inputs, dynamic = decoder_examples(sizes)
    embeds = torch.linspace(-1, 1, 2 * 3 * sizes.width).view(2, 3, sizes.width)
    inputs = {"image_embeds": embeds, **inputs}
    # Of any length: the image once, before the prompt, and then none.
    dynamic = {"image_embeds": {0: "batch", 1: "images"}, **dynamic}
    return GraphSpec(DecoderGraph(model).eval(), inputs, dynamic, DECODER_OUTPUTS)


def vlm_graphs(model: Vlm, spec: VlmSpec) -> dict[str, GraphSpec]:
    """Both graphs by the names of their parts."""
    encoder = spec.image_encoder
    vision = vision_spec(model, encoder.image_size, encoder.channels)
    return {"vision": vision, "decoder": decoder_spec(model, decoder_sizes(model.decoder))}
