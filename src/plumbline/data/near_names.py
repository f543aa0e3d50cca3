"""Names that a reader would take for one: they are written otherwise, or are a letter apart."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

LONG_WORD = 6
"""Letters of a word in which one of them may be a slip; in shorter ones it makes another word."""
_FEWEST_LETTERS = 3
"""Of a name whose blanks and punctuation do not count: `-1` is not `1`, and `C#` is not `C`."""
_MOST_ALIKE = 100
"""Names that share a word but for one letter; of more of them nobody can read the pairs."""


def fold(name: str) -> str:
    """What a name has in common with those that differ by case, blanks or Unicode form."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return " ".join(seen.split())


def near_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that differ by accents, blanks and punctuation, or by one letter of a long word.

    Names that `fold` makes equal are no pair here.

    Returns:
        pairs in the order of their names, each once and sorted within.
    """
    words = {name: _words(name) for name in sorted(set(names))}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, parts in words.items():
        for key in _keys(parts):
            groups.setdefault(key, []).append(name)
    pairs = {
        pair
        for group in groups.values()
        if 1 < len(group) <= _MOST_ALIKE
        for pair in combinations(group, 2)
        if fold(pair[0]) != fold(pair[1]) and _are_near(words[pair[0]], words[pair[1]])
    }
    return sorted(pairs)


def _words(name: str) -> list[str]:
    """The words of a folded name, without punctuation and the accents of Latin letters."""
    kept: list[str] = []
    for char in unicodedata.normalize("NFKD", fold(name)):
        category = unicodedata.category(char)
        # In other scripts a mark may make another letter, as it does in Japanese.
        if category == "Mn" and kept and kept[-1].isascii():
            continue
        kept.append(" " if category[0] in "PZ" else char)
    words = "".join(kept).split()
    enough = sum(map(str.isalpha, "".join(words))) >= _FEWEST_LETTERS
    return words if enough else [fold(name)]


def _keys(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What a name shares with every one that may be near it."""
    yield ("", "".join(words))
    for at, word in enumerate(words):
        if len(word) >= LONG_WORD - 1 and word.isalpha():
            for short in {word, *(word[:cut] + word[cut + 1 :] for cut in range(len(word)))}:
                yield (*words[:at], f"{short}*", *words[at + 1 :])


def _are_near(one: Sequence[str], other: Sequence[str]) -> bool:
    if "".join(one) == "".join(other):
        return True
    if len(one) != len(other):
        return False
    differ = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    return len(differ) == 1 and _is_one_edit(*sorted(differ[0], key=len))


def _is_one_edit(short: str, long: str) -> bool:
    """Whether two different words are one letter apart, put in, left out or replaced."""
    if len(long) < LONG_WORD or not (short.isalpha() and long.isalpha()):
        return False
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return short[at + (len(short) == len(long)) :] == long[at + 1 :]
