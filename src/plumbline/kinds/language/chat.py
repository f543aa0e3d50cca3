"""Conversations through the template of a model's own: what is stored of it, and prompts."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from plumbline.config import Config
from plumbline.data.turns import Turn
from plumbline.errors import DataError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.tokenization.chat_template import ChatError, ChatTemplate
from plumbline.tokenization.chat_tokens import ChatEncoder
from plumbline.tokenization.tokenizer import SpecialIds


class ChatSpec(Config):
    """How turns become text."""

    template: str
    """In Jinja."""
    tokens: dict[str, str]
    """What it may name beside the turns, such as `bos_token`."""


def read_chat(cache: TrainingCache, special_ids: SpecialIds) -> tuple[ChatSpec, SpecialIds]:
    """The template of a dataset of conversations, and the special ids that go with it.

    Raises:
        DataError: the dataset has no conversations.
    """
    found = cache.facts.get("chat")
    if found is None:
        raise DataError(f"{cache.folder}: this dataset has no turns")
    # What ends an answer in the template ends what the model writes, whatever eos else is.
    ids = special_ids.model_copy(update={"eos": found["end"]})
    return ChatSpec(template=found["template"], tokens=found["tokens"]), ids


def encode_prompt(chat: ChatSpec, tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """Ids of turns up to where an answer begins, `IMAGE_ID` for each image.

    Raises:
        DataError: the template refuses the turns.
    """
    try:
        encoder = ChatEncoder(ChatTemplate(chat.template, chat.tokens), tokenizer)
        return encoder.encode(turns, prompt=True).ids
    except ChatError as error:
        raise DataError(str(error)) from None
