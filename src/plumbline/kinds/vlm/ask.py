"""Ask a stored model about an image, or about those of a conversation."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plumbline.asking import ANSWER_TOKENS, Answer, Ask, Options, read_image, say_cut_tokens
from plumbline.config import Config
from plumbline.data.turns import IMAGE_MARK, count_images
from plumbline.errors import ConfigError
from plumbline.kinds.language.ask import MESSAGES, Messages

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import nn

    from plumbline.inspection.predictions import Outputs, Prediction
    from plumbline.kinds.vlm.model import Vlm, VlmSpec
    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored


def predictions(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """The next token of an answer; logits are computed for answers alone."""
    from plumbline.inspection.predictions import softmax_of

    return {"tokens": softmax_of(outputs["decoder.lm_head"])}


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """Answer a question about an image, or describe it; or answer in a conversation."""
    from plumbline.kinds.vlm.features import encode_images
    from plumbline.kinds.vlm.generation import generate_answers
    from plumbline.kinds.vlm.model import Vlm, VlmSpec

    spec, model = stored.spec, stored.model
    assert isinstance(spec, VlmSpec)
    assert isinstance(model, Vlm)
    if spec.chat:
        return _answer_talk(model, spec, stored.text, options, device)
    if options.messages:
        raise ConfigError("--messages: the model was not trained on conversations")
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


def _answer_talk(
    model: "Vlm", spec: "VlmSpec", tokenizer: "Tokenizer", options: Options, device: "torch.device"
) -> Answer:
    """The assistant's next turn; an image with a question is a first turn of the user."""
    import torch

    from plumbline.kinds.vlm.features import encode_images
    from plumbline.kinds.vlm.talks import Talk, answer_talks, make_prompt

    turns, images = options.messages or _first_turn(options, spec.caption_prompt)
    named = [Path(image) for image in images if isinstance(image, str | Path)]
    if not count_images(turns) == len(images) == len(named):
        raise ConfigError('--messages: parts of type "image" name a file as "image"')
    ids = make_prompt(spec, tokenizer, model.image_tokens, turns)
    longest = model.decoder.config.max_position_embeddings
    if len(ids) >= longest:
        raise ConfigError(f"--messages: {len(ids)} tokens, and the model has {longest} positions")
    size, encoder = spec.image_encoder.image_size, model.image_encoder
    features = torch.zeros(0, encoder.tokens, encoder.token_width)
    if named:
        # [images, size, size, channels], as the cache holds images
        pixels = np.stack([read_image(name, size, spec.images) for name in named])
        features = encode_images(encoder, pixels, spec.normalization, size, device)
    (said,) = answer_talks(
        model,
        features.to(device),
        [Talk(ids, list(range(len(named))))],
        eos=spec.special_ids.eos,
        max_new_tokens=min(options.max_new_tokens or 64, longest - len(ids)),
    )
    return {"messages": turns, "answer": tokenizer.decode(said)}


def _first_turn(options: Options, question: str) -> Messages:
    if options.question is not None and not options.question.strip():
        raise ConfigError("--question: empty; ask something, or leave it out for a caption")
    said = f"{IMAGE_MARK}\n{options.question or question}"
    return Messages([{"role": "user", "content": said, "images": [0]}], [options.image])


ASK = Ask(
    answer,
    required="image",
    options={"question": {"help": "left out: describe the image"}, **ANSWER_TOKENS, **MESSAGES},
    instead="messages",
)
