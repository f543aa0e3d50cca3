"""Conversations through the template of a model's own: what is stored of it, and prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import SerializerFunctionWrapHandler, model_serializer
from tokenizers import Tokenizer

from plumbline.config import Config
from plumbline.data.turns import Turn
from plumbline.errors import DataError
from plumbline.tokenization.chat_template import ChatError, ChatTemplate, ImageText
from plumbline.tokenization.chat_tokens import ChatEncoder
from plumbline.tokenization.tokenizer import SpecialIds

if TYPE_CHECKING:
    from plumbline.loading.cache_reader import TrainingCache


class ImageSpec(Config):
    """How an image stands in a text: see `ImageText`."""

    placeholder: str
    before: list[str]
    behind: list[str]

    @property
    def text(self) -> ImageText:
        """The same for a template."""
        return {"placeholder": self.placeholder, "before": self.before, "behind": self.behind}


class ChatSpec(Config):
    """How turns become text."""

    template: str
    """In Jinja."""
    tokens: dict[str, str]
    """What it may name beside the turns, such as `bos_token`."""
    image: ImageSpec | None = None
    """Of one whose images are parts of what a turn says."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what templates of texts do not have: they stay the bytes that they were."""
        plain: dict[str, object] = handler(self)
        return plain if self.image else {k: v for k, v in plain.items() if k != "image"}

    def compile(self) -> ChatTemplate:
        """The template itself.

        Raises:
            ChatError: it is no template.
        """
        return ChatTemplate(self.template, self.tokens, self.image.text if self.image else None)


def read_chat(cache: "TrainingCache", special_ids: SpecialIds) -> tuple[ChatSpec, SpecialIds]:
    """The template of a dataset of conversations, and the special ids that go with it.

    Raises:
        DataError: the dataset has no conversations.
    """
    found = cache.facts.get("chat")
    if found is None:
        raise DataError(f"{cache.folder}: this dataset has no turns")
    # What ends an answer in the template ends what the model writes, whatever eos else is.
    ids = special_ids.model_copy(update={"eos": found["end"]})
    image = ImageSpec(**found["image"]) if "image" in found else None
    return ChatSpec(template=found["template"], tokens=found["tokens"], image=image), ids


def encode_prompt(chat: ChatSpec, tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """Ids of turns up to where an answer begins, `IMAGE_ID` for each image.

    Raises:
        DataError: the template refuses the turns.
    """
    try:
        encoder = ChatEncoder(chat.compile(), tokenizer)
        return encoder.encode(turns, prompt=True).ids
    except ChatError as error:
        raise DataError(str(error)) from None
