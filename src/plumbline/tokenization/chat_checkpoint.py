"""The chat template of a checkpoint, and the special tokens that it declares."""

import json
from collections.abc import Mapping
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.tokenization.facts import ChatFormat

TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"
REMEDY = "set tokenize.chat_template"


def read_chat_format(folder: Path, template: str | None) -> ChatFormat:
    """Read what a checkpoint's folder says of chats.

    Args:
        folder: of its tokenizer.
        template: in place of the folder's own.

    Raises:
        ConfigError: a file is damaged, or there is no template.
    """
    settings = _read_settings(folder / SETTINGS)
    names = {name: _token(value) for name, value in settings.items() if name.endswith("_token")}
    tokens = {name: token for name, token in names.items() if token is not None}
    found = template or _stored_template(folder, settings)
    if found is None:
        raise ConfigError(
            f"{folder}: has no chat template, neither {TEMPLATE} nor chat_template in {SETTINGS}; "
            f"{REMEDY}"
        )
    return {"template": found, "tokens": tokens}


def _read_settings(file: Path) -> Mapping[str, object]:
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
    found = settings.get("chat_template")
    if isinstance(found, list):  # of several, each with its name
        named = {e.get("name"): e.get("template") for e in found if isinstance(e, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _token(value: object) -> str | None:
    """The text of a special token, which may stand there with how it is matched."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
