"""How texts fall into words, in any script."""

import unicodedata
from collections.abc import Iterable
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


def _lies_in(character: str, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, their marks, and digits.

    Of scripts without spaces between words each letter is one. Of ASCII these are the runs of a-z
    and 0-9, as rouge-score takes them.
    """
    found: list[str] = []
    open_run = False
    for character in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(character)[0]
        if kind == "M" and found and open_run:
            found[-1] += character
        elif kind not in "LN":
            open_run = False
        elif _lies_in(character, _UNSPACED):
            found.append(character)
            open_run = True
        elif open_run and not _lies_in(found[-1][0], _UNSPACED):
            found[-1] += character
        else:
            found.append(character)
            open_run = True
    return found


def is_mostly_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters are of scripts without spaces between words."""
    letters = [c for text in texts for c in text if unicodedata.category(c)[0] == "L"]
    return 2 * sum(_lies_in(c, _UNSPACED) for c in letters) > len(letters)


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether most letters are Han and none is of another script without spaces, as in Japanese."""
    letters = [c for text in texts for c in text if unicodedata.category(c)[0] == "L"]
    han = sum(_lies_in(c, _HAN) for c in letters)
    return 2 * han > len(letters) and han == sum(_lies_in(c, _UNSPACED) for c in letters)
