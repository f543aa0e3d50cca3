"""How texts fall into words, in any script."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

BleuTokenizer = Literal["auto", "13a", "intl", "zh", "char", "none"]
"""How texts are cut for BLEU, as sacrebleu calls it; `auto` by their script."""

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han, as are the next ones
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)
"""Ranges of the scripts that put no spaces between words."""

_HAN = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


_ASCII_WORDS = re.compile("[a-z0-9]+")


def _lies_in(character: str, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, their marks, and digits.

    Of scripts without spaces between words each letter is one. Of ASCII these are the runs of a-z
    and 0-9, as rouge-score takes them.
    """
    if text.isascii():
        return _ASCII_WORDS.findall(text.lower())
    found: list[str] = []
    open_run = False
    for character in unicodedata.normalize("NFC", text.lower()):
        role = _role(character)
        if role == "mark" and found and open_run:
            found[-1] += character
        elif role in ("mark", "gap"):
            open_run = False
        elif role == "letter" and open_run and _role(found[-1][0]) == "letter":
            found[-1] += character
        else:
            found.append(character)
            open_run = True
    return found


@cache
def _role(character: str) -> Literal["mark", "gap", "letter", "word"]:
    """What a character is in a text: of scripts without spaces each letter is a word."""
    kind = unicodedata.category(character)[0]
    if kind == "M":
        return "mark"
    if kind not in "LN":
        return "gap"
    return "word" if _lies_in(character, _UNSPACED) else "letter"


def is_mostly_unspaced(texts: Sequence[str]) -> bool:
    """Whether most letters are of scripts without spaces between words."""
    if all(map(str.isascii, texts)):
        return False  # what most corpora are, at a hundredth of the cost
    letters = _count_letters(texts)
    return 2 * _count_in(letters, _UNSPACED) > letters.total()


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether most letters are Han and none is of another script without spaces, as in Japanese."""
    letters = _count_letters(texts)
    han = _count_in(letters, _HAN)
    return 2 * han > letters.total() and han == _count_in(letters, _UNSPACED)


def _count_letters(texts: Iterable[str]) -> Counter[str]:
    """How often each letter occurs: few are distinct, and only those need be looked up."""
    found = Counter("".join(texts))
    return Counter({c: n for c, n in found.items() if unicodedata.category(c)[0] == "L"})


def _count_in(letters: Counter[str], ranges: Iterable[tuple[int, int]]) -> int:
    return sum(number for letter, number in letters.items() if _lies_in(letter, ranges))
