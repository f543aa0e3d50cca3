"""Which texts are nearly the same: in another case or punctuation, or with a few words changed.

Texts lose case, blanks and punctuation. Runs of `RUN` characters of what is left are hashed; least
values under permutations, in bands, find candidates, whose runs are then compared one by one: so
what is found has the overlap that was asked for, and what is missed is missed by the bands alone.

numpy is enough: indexes of libraries lie in memory as a whole, and this one must not.

Source: A. Broder, On the Resemblance and Containment of Documents, SEQUENCES 1997.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

RUN = 5
"""Characters of a run."""
MIN_CHARS = 20
"""Letters, digits and signs that a text has at least; shorter ones are alike by accident."""

_BANDS, _ROWS = 20, 6
"""A pair that shares 0.8 of its runs is a candidate with 0.998, one that shares 0.7 with 0.92."""
_CROWD = 64
"""Of the texts with one band in common, those that are looked at."""
_DROPPED = frozenset("PZC")
"""First letters of the Unicode categories of punctuation, blanks and controls."""


def normalise(text: str) -> str:
    """A text without case, blanks and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = {char: unicodedata.category(char)[0] not in _DROPPED for char in set(folded)}
    return "".join(char for char in folded if kept[char])


def _mix(values: Hashes) -> Hashes:
    """Scatter 64 bits; the last step of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _runs(text: str) -> Hashes:
    """Hashes of all distinct runs of a text, in order."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(points) - RUN + 1, np.uint64)
    for at in range(RUN):
        hashes = _mix(hashes * np.uint64(0x9E3779B97F4A7C15) + points[at : at + len(hashes)])
    return np.unique(hashes)


def _salts() -> list[np.uint64]:
    names = (f"permutation {number}".encode() for number in range(_BANDS * _ROWS))
    found = (hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return [np.uint64(int.from_bytes(digest, "little")) for digest in found]


_SALTS = _salts()


def _bands(runs: Sequence[Hashes]) -> Hashes:
    """Keys of texts by band: [texts, bands]."""
    joined = np.concatenate(runs)
    starts = np.cumsum([0, *map(len, runs[:-1])])
    keys = np.zeros((len(runs), _BANDS), np.uint64)
    for number, salt in enumerate(_SALTS):
        least = np.minimum.reduceat(_mix(joined ^ salt), starts)
        keys[:, number // _ROWS] = _mix(keys[:, number // _ROWS] + least)
    return keys


class NearTexts:
    """Finds the near duplicates of some texts."""

    def __init__(self, texts: Sequence[str], overlap: float) -> None:
        """Index texts.

        Args:
            texts: of `normalise`, of `MIN_CHARS` at least.
            overlap: least share of all runs of two near duplicates that both have (Jaccard).
        """
        self._texts, self._overlap = texts, overlap
        keys = _bands([_runs(text) for text in texts])
        self._orders = np.argsort(keys, axis=0, kind="stable")
        self._keys = np.take_along_axis(keys, self._orders, axis=0)

    def find(self, others: Sequence[str]) -> set[tuple[int, int]]:
        """Pairs of near duplicates: places among the texts, and among the others."""
        runs = [_runs(text) for text in others]
        found = set()
        for here, there in sorted(self._candidates(_bands(runs))):
            if self._texts[here] == others[there]:
                found.add((here, there))
                continue
            mine = _runs(self._texts[here])
            both = len(np.intersect1d(mine, runs[there], assume_unique=True))
            if both >= self._overlap * (len(mine) + len(runs[there]) - both):
                found.add((here, there))
        return found

    def _candidates(self, keys: Hashes) -> set[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for band in range(_BANDS):
            first = np.searchsorted(self._keys[:, band], keys[:, band], "left")
            end = np.searchsorted(self._keys[:, band], keys[:, band], "right")
            for there in np.flatnonzero(end > first).tolist():
                last = min(int(end[there]), int(first[there]) + _CROWD)
                places = self._orders[first[there] : last, band].tolist()
                found.update((here, there) for here in places)
        return found


def long_enough(cells: Iterable[str]) -> Iterator[str]:
    """The normalised texts of a row as one, where they are long enough to be compared."""
    text = "\n".join(map(normalise, cells))
    if len(text) >= MIN_CHARS:
        yield text
