"""From text to token ids and back."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from .files import Files, InputError, TooLargeError


class TextReader:
    """The tokenizer of the bundle, with the limits of the contract."""

    def __init__(self, files: Files, max_chars: int) -> None:
        """Load tokenizer.json."""
        self._tokenizer = Tokenizer.from_buffer(files.read("tokenizer.json"))
        self._max_chars = max_chars
        # `<pad>` typed by a person is text; the flag is not part of tokenizer.json.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes the ids."""
        return self._tokenizer

    def check(self, name: str, text: str, *, empty: bool = False) -> str:
        """Refuse what no model can read; `name` is that of the field.

        Raises:
            InputError: the text is empty where that is not allowed, too long, or no text.
        """
        if not empty and not text.strip():
            raise InputError(f"{name}: empty")
        if len(text) > self._max_chars:
            raise TooLargeError(f"{name}: longer than {self._max_chars} characters")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{name}: holds half of a surrogate pair")
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids, without what frames them."""
        # The fast form leaves out where each token began, which costs more than the ids.
        (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoded.ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return str(self._tokenizer.decode(list(ids)))
