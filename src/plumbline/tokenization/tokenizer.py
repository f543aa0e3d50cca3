"""Byte-pair encoding: training, loading, and the special tokens that all models here use."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from plumbline.config import Config
from plumbline.errors import ConfigError, DataError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL_TOKENS = (PAD, BOS, EOS)
"""Their ids are 0, 1 and 2 in a tokenizer that is trained here."""

FILE_NAME = "tokenizer.json"


class TokenizerConfig(Config):
    """How text becomes ids: trained on the training split, or taken from a checkpoint."""

    vocab_size: int = Field(2000, ge=260)
    """Upper limit; at least the 256 bytes and the special tokens."""
    min_frequency: int = Field(2, ge=1)
    pretrained: str | None = None
    """A folder with tokenizer.json, or a hub id; then nothing is trained."""


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a byte-level BPE, so that any text comes back from its ids exactly (after NFC).

    Raises:
        DataError: there is no text at all.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = _Counted(texts)
    tokenizer.train_from_iterator(seen, trainer)
    if not seen.count:
        raise DataError("no text to train a tokenizer on: no row has a caption or a question")
    return _as_plain_text(tokenizer)


class _Counted:
    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.count += 1
            yield text


def _as_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    # `<pad>` typed by a person is text. The flag is no part of tokenizer.json: set it at each door.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json (or the one in a folder).

    Raises:
        ConfigError: the file is missing or is no tokenizer.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        return _as_plain_text(Tokenizer.from_file(str(file)))
    except Exception as error:  # the Rust binding raises bare Exception
        raise ConfigError(f"{file}: not a readable tokenizer ({error})") from None


def load_pretrained(name: str) -> Tokenizer:
    """Load the tokenizer of a checkpoint: a local folder, or a model id of the hub.

    Raises:
        ConfigError: neither a folder nor an id that can be fetched, or a special token is missing.
    """
    if Path(name).exists():
        return load_tokenizer(Path(name))
    try:
        return _as_plain_text(Tokenizer.from_pretrained(name))
    except Exception as error:  # the Rust binding raises bare Exception
        raise ConfigError(
            f"{name}: no such folder, and not fetched from the hub: {error}"
        ) from None


class SpecialIds(Config):
    """Ids of the tokens that frame every sequence."""

    pad: int
    bos: int
    eos: int


_ALIASES = {
    "pad": (PAD, "<|endoftext|>", "[PAD]", "<pad>"),
    "bos": (BOS, "<|im_start|>", "<s>", "[CLS]"),
    "eos": (EOS, "<|im_end|>", "</s>", "[SEP]"),
}


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Find pad, bos and eos, also under the names of Qwen, Llama and BERT tokenizers.

    Raises:
        ConfigError: one of them is missing.
    """
    found: dict[str, int] = {}
    for role, names in _ALIASES.items():
        ids = [i for i in (tokenizer.token_to_id(name) for name in names) if i is not None]
        if not ids:
            raise ConfigError(f"the tokenizer has no {role} token (tried {', '.join(names)})")
        found[role] = ids[0]
    return SpecialIds(**found)
