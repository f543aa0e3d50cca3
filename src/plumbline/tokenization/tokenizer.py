"""Tokenizers: training, loading, and the special tokens that all models here use."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from plumbline.config import Config
from plumbline.errors import ConfigError, DataError

PAD, BOS, EOS, MASK, UNKNOWN = "<pad>", "<bos>", "<eos>", "<mask>", "<unk>"
SPECIAL_TOKENS: dict[str, tuple[str, ...]] = {
    "bpe": (PAD, BOS, EOS, MASK),
    "char": (PAD, BOS, EOS, MASK, UNKNOWN),
}
"""Kind of tokenizer -> its special tokens; their ids are 0, 1, ... in one that is trained here."""

SMALLEST_VOCABULARY = {
    "bpe": 256 + len(SPECIAL_TOKENS["bpe"]),
    "char": len(SPECIAL_TOKENS["char"]) + 1,
}

FILE_NAME = "tokenizer.json"


class TokenizerConfig(Config):
    """How text becomes ids: trained on the training split, or taken from a checkpoint."""

    kind: Literal["bpe", "char"] = "bpe"
    """Byte-level byte-pair encoding, or one token per character."""
    vocab_size: int = Field(2000, ge=1)
    """Upper limit; at least the special tokens and, for bpe, the 256 bytes."""
    min_frequency: int = Field(2, ge=1)
    """How often a pair, or with char a character, has to be there to become a token."""
    pretrained: str | None = None
    """An entry of `weights` with a tokenizer.json; then nothing is trained."""

    @model_validator(mode="after")
    def _room(self) -> "TokenizerConfig":
        smallest = SMALLEST_VOCABULARY[self.kind]
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size {self.vocab_size} has no room: {self.kind} needs at least {smallest} "
                f"for {', '.join(SPECIAL_TOKENS[self.kind])}"
                + (" and the 256 bytes" if self.kind == "bpe" else " and a character")
            )
        return self


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, more_special: Sequence[str] = ()
) -> Tokenizer:
    """Train one tokenizer on all texts of a dataset, of whatever language.

    With `bpe` any text comes back from its ids exactly (after NFC); with `char` characters that
    training has not seen, or seen too rarely, become the unknown token. The tokens `more_special`
    come after those that every tokenizer has.

    Raises:
        DataError: there is no text at all.
    """
    special = [*SPECIAL_TOKENS[config.kind], *more_special]
    make = _bpe if config.kind == "bpe" else _characters
    tokenizer, trainer = make(config, special)
    tokenizer.normalizer = normalizers.NFC()
    seen = _Counted(texts)
    tokenizer.train_from_iterator(seen, trainer)
    if not seen.count:
        raise DataError("no text to train a tokenizer on: no training row has any")
    return as_plain_text(tokenizer)


def _bpe(config: TokenizerConfig, special: list[str]) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _characters(config: TokenizerConfig, special: list[str]) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer, trainers.WordLevelTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=special,
        show_progress=False,
    )


class _Counted:
    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.count += 1
            yield text


def as_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Let it take special tokens that stand in a text for text, and cut and fill nothing."""
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
        return as_plain_text(Tokenizer.from_file(str(file)))
    except Exception as error:  # the Rust binding raises bare Exception
        raise ConfigError(f"{file}: not a readable tokenizer ({error})") from None


class SpecialIds(Config):
    """Ids of the tokens that frame every sequence."""

    pad: int
    bos: int
    eos: int


def mask_id(tokenizer: Tokenizer) -> int:
    """Id of the token that hides another one, also under BERT's name.

    Raises:
        ConfigError: the tokenizer has none.
    """
    for name in (MASK, "[MASK]"):
        if (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    raise ConfigError(f"the tokenizer has no mask token (tried {MASK}, [MASK])")


_ALIASES: Mapping[str, tuple[str, ...]] = {
    "pad": (PAD, "<|endoftext|>", "[PAD]", "<pad>"),
    "bos": (BOS, "<|im_start|>", "<s>", "[CLS]", "<|startoftext|>"),
    "eos": (EOS, "<|im_end|>", "</s>", "[SEP]", "<|endoftext|>"),
}


def special_ids(tokenizer: Tokenizer, declared: Mapping[str, str] | None = None) -> SpecialIds:
    """Find pad, bos and eos, also under the names of Qwen, Llama, BERT and CLIP tokenizers.

    Args:
        tokenizer: has them in its vocabulary.
        declared: `bos_token` and the like of a checkpoint, for those that have other names. Where
            that has no pad, eos does as well: no position of a row can see what fills it up.

    Raises:
        ConfigError: one of them is missing.
    """
    found: dict[str, int] = {}
    for role, names in _ALIASES.items():
        if declared:
            others = (f"{role}_token", *(("eos_token",) if role in ("pad", "bos") else ()))
            names = (*names, *(declared[other] for other in others if other in declared))
        ids = [i for i in (tokenizer.token_to_id(name) for name in names) if i is not None]
        if not ids:
            raise ConfigError(f"the tokenizer has no {role} token (tried {', '.join(names)})")
        found[role] = ids[0]
    return SpecialIds(**found)
