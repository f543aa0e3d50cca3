"""MurmurHash3 (x64, 128 bits) of many short values at once: for what is counted, not trusted.

Whoever wants to can make two values with one hash, so that nothing may be rejected for it.

Source: Austin Appleby, MurmurHash3.cpp, public domain.
"""

import numpy as np
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells

_Words = NDArray[np.uint64]

_BLOCK = 16
_ONE, _TWO = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
_ADDED = np.uint64(0x52DCE729), np.uint64(0x38495AB5)
_LAST = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_FIVE = np.uint64(5)


def murmur3(cells: DistinctCells) -> NDArray[np.uint8]:
    """Hashes of all values: [values, 16]; meant for those of a hundred bytes."""
    found = np.empty((len(cells.starts), _BLOCK), np.uint8)
    blocks = cells.lengths // _BLOCK
    for full in np.unique(blocks).tolist():
        at = np.flatnonzero(blocks == full)
        some = cells._replace(starts=cells.starts[at], ends=cells.ends[at])
        # [words, values]: each word of all values together; zeros behind their ends.
        words = np.ascontiguousarray(some.heads(_BLOCK * (full + 1)).view("<u8").T)
        found[at] = _hash(words, some.lengths.astype(np.uint64)).view(np.uint8)
    return found


def _hash(words: _Words, lengths: _Words) -> _Words:
    """Hashes of values with equally many whole blocks, and one of the rest: [values, 2]."""
    first, second = np.zeros((2, len(lengths)), np.uint64)
    for at in range(0, len(words) - 2, 2):
        first = _turned(first ^ _mixed(words[at], _ONE, 31, _TWO), 27) + second
        first = first * _FIVE + _ADDED[0]
        second = _turned(second ^ _mixed(words[at + 1], _TWO, 33, _ONE), 31) + first
        second = second * _FIVE + _ADDED[1]
    first = first ^ _mixed(words[-2], _ONE, 31, _TWO) ^ lengths
    second = second ^ _mixed(words[-1], _TWO, 33, _ONE) ^ lengths
    first = first + second
    second = second + first
    first, second = _finished(first), _finished(second)
    first = first + second
    return np.stack((first, second + first), axis=1).astype("<u8")


def _mixed(word: _Words, before: np.uint64, bits: int, behind: np.uint64) -> _Words:
    return _turned(word * before, bits) * behind


def _turned(word: _Words, bits: int) -> _Words:
    turned: _Words = word << np.uint64(bits) | word >> np.uint64(64 - bits)
    return turned


def _finished(word: _Words) -> _Words:
    for factor in _LAST:
        word = (word ^ word >> np.uint64(33)) * factor
    return word ^ word >> np.uint64(33)
