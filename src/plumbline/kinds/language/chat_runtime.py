"""Conversations in a request: the turns that an answer follows, and their ids."""

from collections.abc import Callable, Mapping, Sequence

from plumbline.data.turns import BadTurns, Turn, check_prompt, make_turn
from plumbline.export.runtime.files import InputError
from plumbline.export.runtime.text import TextReader
from plumbline.kinds.language.runtime import Chat
from plumbline.tokenization.chat_template import ChatError, ChatTemplate
from plumbline.tokenization.chat_tokens import ChatEncoder


def open_chat(chat: Chat, text: TextReader) -> Callable[[Sequence[Turn]], list[int]]:
    """What makes ids of turns, up to where an answer begins."""
    # Once, as templates are compiled and tokenizers copied.
    tokens = {name: str(token) for name, token in chat["tokens"].items()}
    template = ChatTemplate(chat["template"], tokens, chat.get("image"))
    encoder = ChatEncoder(template, text.tokenizer)

    def encode(turns: Sequence[Turn]) -> list[int]:
        try:
            return encoder.encode(turns, prompt=True).ids
        except ChatError as error:
            raise InputError(str(error)) from None

    return encode


def turns_in(request: Mapping[str, object], text: TextReader) -> list[Turn]:
    """The turns of a request's field `messages`.

    Raises:
        InputError: they are none that an answer follows.
    """
    messages = request["messages"]
    assert isinstance(messages, list)  # `Model` has compared it with its type
    try:
        turns = check_prompt([make_turn(at, entry) for at, entry in enumerate(messages, 1)])
    except BadTurns as error:
        raise InputError(f"messages: {error}") from None
    text.check("messages", "".join(turn["content"] for turn in turns), empty=True)
    return turns
