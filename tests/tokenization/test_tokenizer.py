"""Any text comes back from its ids, and no text can pass for a control token."""

import unicodedata
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models

from plumbline.errors import ConfigError, DataError
from plumbline.tokenization.tokenizer import (
    SPECIAL_TOKENS,
    TokenizerConfig,
    load_tokenizer,
    mask_id,
    special_ids,
    train_tokenizer,
)

TEXTS = ["a small red circle at the top left"] * 5 + ["where is the blue square?", "left"]

HARD_TEXTS = [
    "plain",
    "  spaces  at both ends ",
    "tab\tand\nnew line\r\n",
    "\U0001f9d1\u200d\U0001f680 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",  # emoji sequences
    "\u0634\u062c\u0631\u0629 \u05e2\u05e5",  # right to left
    "\u6a39\u306e\u4e0b\u306b\ub098\ubb34",  # Chinese, Japanese, Korean
    "<pad><bos> text <eos>",
    "<|endoftext|>[PAD]</s>",
    "\x00\x07 control",
    "na\u00efve caf\u00e9",
    "\u0120\u010a",  # letters that byte-level BPE uses for space and new line
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocab_size=300))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_any_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text
    assert tokenizer.decode_batch([ids(tokenizer, text)]) == [text]


@pytest.mark.parametrize("text", SPECIAL_TOKENS["char"])
def test_a_control_token_typed_by_a_person_is_plain_text(tokenizer: Tokenizer, text: str) -> None:
    assert not set(ids(tokenizer, f"say {text} please")) & {0, 1, 2, 3}


def test_composed_and_decomposed_letters_have_the_same_ids(tokenizer: Tokenizer) -> None:
    text = "caf\u00e9 \uac00 \u1e9b\u0323"
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    assert ids(tokenizer, decomposed) == ids(tokenizer, text)
    assert tokenizer.decode(ids(tokenizer, decomposed)) == unicodedata.normalize("NFC", text)


def test_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert special_ids(tokenizer).model_dump() == {"pad": 0, "bos": 1, "eos": 2}


@pytest.mark.parametrize("limit", [260, 270, 300])
def test_the_vocabulary_keeps_its_limit(limit: int) -> None:
    trained = train_tokenizer(TEXTS * 3, TokenizerConfig(vocab_size=limit))
    assert 260 <= trained.get_vocab_size() <= limit


def test_what_is_rare_is_not_merged() -> None:
    rare = train_tokenizer(["qzx"], TokenizerConfig(vocab_size=300, min_frequency=2))
    assert rare.get_vocab_size() == 260


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValidationError, match="vocab_size 259 has no room: bpe needs at least 260"):
        TokenizerConfig(vocab_size=259)


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer([], TokenizerConfig())


def test_training_does_not_depend_on_the_order_of_texts() -> None:
    config = TokenizerConfig(vocab_size=300)
    one, other = (train_tokenizer(texts, config).to_str() for texts in (TEXTS, TEXTS[::-1]))
    assert one == other


def test_a_stored_tokenizer_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for loaded in (load_tokenizer(tmp_path), load_tokenizer(tmp_path / "tokenizer.json")):
        for text in HARD_TEXTS:
            assert ids(loaded, text) == ids(tokenizer, text)


def test_an_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a readable tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a readable tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<pad>", "<s>", "</s>"),
        ("[PAD]", "[CLS]", "[SEP]"),
    ],
)
def test_special_tokens_are_found_under_the_names_of_known_families(
    names: tuple[str, str, str],
) -> None:
    other = Tokenizer(models.BPE())
    other.add_special_tokens(["<other>", *names])
    assert special_ids(other).model_dump() == {"pad": 1, "bos": 2, "eos": 3}


def test_the_token_that_ends_texts_of_clip_pads_them_too() -> None:
    other = Tokenizer(models.BPE())
    other.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    assert special_ids(other).model_dump() == {"pad": 1, "bos": 0, "eos": 1}


def test_a_tokenizer_without_a_special_token_is_refused() -> None:
    other = Tokenizer(models.BPE())
    other.add_special_tokens(["<pad>", "<s>"])
    with pytest.raises(ConfigError, match=r"no eos token \(tried <eos>, "):
        special_ids(other)


PAIRS = ["a red circle", "the blue square stands"] * 4 + [
    "ein roter Kreis",
    "das blaue Viereck steht \u00fcber M\u00fcllers Stra\u00dfe",
] * 4


def test_one_vocabulary_serves_both_languages() -> None:
    """Joint training keeps its limit, both languages come back, both are merged."""
    joint = train_tokenizer(PAIRS, TokenizerConfig(vocab_size=320))
    assert joint.get_vocab_size() <= 320
    for text in PAIRS:
        assert joint.decode(ids(joint, text)) == text
    english = train_tokenizer(PAIRS[:8], TokenizerConfig(vocab_size=320))
    german = PAIRS[-1]
    assert len(ids(joint, german)) < len(ids(english, german))
    assert len(ids(joint, PAIRS[0])) < len(PAIRS[0])


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(kind="char", min_frequency=1))


def test_characters_come_back_one_by_one(characters: Tokenizer) -> None:
    for text in TEXTS:
        assert len(ids(characters, text)) == len(text)
        assert characters.decode(ids(characters, text)) == text
    assert characters.get_vocab_size() == 5 + len(set("".join(TEXTS)))
    assert special_ids(characters).model_dump() == {"pad": 0, "bos": 1, "eos": 2}
    assert mask_id(characters) == 3


def test_line_breaks_and_combined_letters_are_characters() -> None:
    texts = ["a\nb\tc\r\n", "cafe\u0301 \U0001f44d"]
    trained = train_tokenizer(texts, TokenizerConfig(kind="char", min_frequency=1))
    for text in texts:
        composed = unicodedata.normalize("NFC", text)
        assert len(ids(trained, text)) == len(composed)
        assert trained.decode(ids(trained, text)) == composed


def test_a_character_that_training_has_not_seen_is_unknown(characters: Tokenizer) -> None:
    unknown = characters.token_to_id("<unk>")
    assert ids(characters, "a\u6a39a") == [*ids(characters, "a"), unknown, *ids(characters, "a")]
    rare = train_tokenizer(["aab"], TokenizerConfig(kind="char", min_frequency=2))
    assert ids(rare, "ab")[1] == rare.token_to_id("<unk>")


def test_the_limit_keeps_the_most_frequent_characters() -> None:
    trained = train_tokenizer(
        ["aaaabbbccd"], TokenizerConfig(kind="char", vocab_size=7, min_frequency=1)
    )
    assert set(trained.get_vocab()) == {*SPECIAL_TOKENS["char"], "a", "b"}


@pytest.mark.parametrize(("kind", "size"), [("bpe", 3), ("char", 5), ("char", 4)])
def test_a_vocabulary_smaller_than_its_special_tokens_is_refused(kind: str, size: int) -> None:
    with pytest.raises(ValidationError, match=f"vocab_size {size} has no room: {kind} needs"):
        TokenizerConfig.model_validate({"kind": kind, "vocab_size": size})


def test_the_mask_is_found_under_the_name_of_bert_or_missed() -> None:
    other = Tokenizer(models.BPE())
    with pytest.raises(ConfigError, match=r"no mask token \(tried <mask>, \[MASK\]\)"):
        mask_id(other)
    other.add_special_tokens(["[PAD]", "[MASK]"])
    assert mask_id(other) == 1
