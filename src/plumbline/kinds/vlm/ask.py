"""Ask a stored model about an image."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plumbline.asking import ANSWER_TOKENS, Answer, Ask, Options, read_image, say_cut_tokens
from plumbline.config import Config
from plumbline.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plumbline.inspection.predictions import Outputs, Prediction
    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored


def predictions(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """The next token of an answer; logits are computed for answers alone."""
    from plumbline.inspection.predictions import softmax_of

    return {"tokens": softmax_of(outputs["decoder.lm_head"])}


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """Answer a question about an image, or describe it where there is none."""
    from plumbline.kinds.vlm.features import encode_images
    from plumbline.kinds.vlm.generation import generate_answers
    from plumbline.kinds.vlm.model import Vlm, VlmSpec

    spec, model = stored.spec, stored.model
    assert isinstance(spec, VlmSpec)
    assert isinstance(model, Vlm)
    size = spec.image_encoder.image_size
    # [1, size, size, channels], as the cache holds images
    pixels = read_image(options.image, size, spec.images)[np.newaxis]
    features = encode_images(model.image_encoder, pixels, spec.normalization, size, device)
    prompt = spec.caption_prompt if options.question is None else options.question
    whole = stored.text.encode(prompt, add_special_tokens=False).ids
    # As training cut its own: further positions were never trained.
    ids = whole[: spec.max_text_tokens]
    if not ids:
        raise ConfigError("--question: empty; ask something, or leave it out for a caption")
    answer = generate_answers(
        model,
        features.to(device),
        [0],
        [ids],
        bos=spec.special_ids.bos,
        eos=spec.special_ids.eos,
        max_new_tokens=options.max_new_tokens or 64,
    )[0]
    return {
        "prompt": prompt,
        "answer": stored.text.decode(answer),
        **say_cut_tokens(len(whole) - len(ids)),
    }


ASK = Ask(
    answer,
    required="image",
    options={"question": {"help": "left out: describe the image"}, **ANSWER_TOKENS},
)
