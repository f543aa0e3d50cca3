"""The chat template of a checkpoint, and the special tokens that it declares."""

import json
from collections.abc import Mapping
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.tokenization.chat_template import ImageText
from plumbline.tokenization.facts import ChatFormat

TEMPLATE = "chat_template.jinja"
OLD_TEMPLATE = "chat_template.json"
"""Of a processor of texts and images, as older releases write it."""
SETTINGS = "tokenizer_config.json"
REMEDY = "set tokenize.chat_template"


_IDEFICS3: ImageText = {
    "placeholder": "<image>",
    # Of an image as a whole; tiles, which stand before it, would have rows and columns.
    "before": ["<fake_token_around_image>", "<global-img>"],
    "behind": ["<fake_token_around_image>"],
}
IMAGE_TEXTS: Mapping[str, ImageText] = {
    "Idefics3Processor": _IDEFICS3,
    "SmolVLMProcessor": _IDEFICS3,
}
"""Class of a processor of texts and images -> what it makes of an image in a text."""


def read_chat_format(folder: Path, template: str | None) -> ChatFormat:
    """Read what a checkpoint's folder says of chats.

    Args:
        folder: of its tokenizer.
        template: in place of the folder's own.

    Raises:
        ConfigError: a file is damaged, or there is no template.
    """
    settings = _read_object(folder / SETTINGS)
    names = {name: _token(value) for name, value in settings.items() if name.endswith("_token")}
    tokens = {name: token for name, token in names.items() if token is not None}
    found = template or _stored_template(folder, settings)
    if found is None:
        raise ConfigError(
            f"{folder}: has no chat template, neither {TEMPLATE} nor chat_template in {SETTINGS}; "
            f"{REMEDY}"
        )
    image = IMAGE_TEXTS.get(str(settings.get("processor_class")))
    chat: ChatFormat = {"template": found, "tokens": tokens}
    return {**chat, "image": image} if image else chat


def _read_object(file: Path) -> Mapping[str, object]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: no object")
    return settings


def _stored_template(folder: Path, settings: Mapping[str, object]) -> str | None:
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    # A processor's comes before its tokenizer's, as in transformers.
    old = _read_object(folder / OLD_TEMPLATE).get("chat_template")
    found = old if isinstance(old, str) else settings.get("chat_template")
    if isinstance(found, list):  # of several, each with its name
        named = {e.get("name"): e.get("template") for e in found if isinstance(e, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _token(value: object) -> str | None:
    """The text of a special token, which may stand there with how it is matched."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
