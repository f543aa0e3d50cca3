"""Ask a stored model for the next token, or for an answer in a conversation."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from plumbline.config import Config
from plumbline.data.turns import BadTurns, Turn, check_prompt, held_images, parse_turns
from plumbline.errors import ConfigError

if TYPE_CHECKING:
    from plumbline.inspection.predictions import Outputs, Prediction


def of_tokens(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """The next or the hidden token, one of all."""
    from plumbline.inspection.predictions import softmax_of

    # Of a model whose layers are called for themselves its last map alone is seen.
    seen = "" if "" in outputs else "decoder.lm_head"
    return {"tokens": softmax_of(outputs[seen])}


_URL = re.compile("(data|https?|file):", re.IGNORECASE)


class Messages(NamedTuple):
    """What an option says of a conversation that is to be answered."""

    turns: list[Turn]
    images: list[object]
    """What names each image, in the order of their places."""


def read_messages(text: str) -> Messages:
    """The turns of an option, and their images.

    Raises:
        ConfigError: it is no list of turns, or they do not end where an answer begins.
    """
    try:
        turns = check_prompt(parse_turns(text))
    except BadTurns as error:
        raise ConfigError(f"--messages: {error}") from None
    if any("\ud800" <= character <= "\udfff" for turn in turns for character in turn["content"]):
        raise ConfigError("--messages: holds half of a surrogate pair")
    images = [image for entry in json.loads(text) for image in held_images(entry["content"])]
    if any(isinstance(image, str) and _URL.match(image) for image in images):
        raise ConfigError("--messages: an image is a URL; name a file")
    return Messages(turns, images)


MESSAGES: Mapping[str, Mapping[str, Any]] = {
    "messages": {
        "type": read_messages,
        "metavar": "JSON",
        "help": "turns of role and content, in place of the first option; parts of content of "
        'type "image" name a file as "image"',
    }
}
"""The option of every kind that answers in conversations."""
