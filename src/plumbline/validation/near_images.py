"""Which images are nearly the same: encoded again, resized, mirrored or cropped by up to a tenth.

An image is remembered as `SIDE` x `SIDE` pixels, on disk. Signs of its 63 lowest frequencies make a
hash. Two images are compared where one of four bands of their signs is equal, which finds every
pair that differs in less than four signs, and many that differ in more. What counts then is how
well brightness correlates over those frequencies, and how far colours are apart. Windows of nine
tenths of each side stand for crops, and a mirror turns the signs of odd frequencies.

Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, for
signs of the DCT; G. Manku, A. Jain and A. Das Sarma, Detecting Near-Duplicates for Web Crawling,
WWW 2007, for bands.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

SIDE = 16
"""Of what is remembered of an image, in pixels: 768 bytes on disk."""
FLAT = 4.0
"""Standard deviation of brightness, of 255, below which an image says too little to be compared."""
FAR = 6.0
"""Root of the mean square by which colours of near duplicates may be apart, of 255."""

_LOW = 8
_CROP = 0.9
_BANDS, _BAND_BITS = 4, 16
_MOST_SIGNS = 14
_LOOSE = 0.05
"""By how much less a pair may correlate before its window has been looked for closely."""
_PAIRS = 2**18
"""The most pairs of hashes or of images to hold at a time."""
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
).T


def _frequencies(start: float, share: float) -> Floats:
    """Matrix [_LOW, SIDE] from a line of pixels to the cosines of a window of it."""
    places = (start + share * (np.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
    left = np.clip(np.floor(places), 0, SIDE - 2).astype(int)
    part = np.clip(places - left, 0, 1)
    lines = np.zeros((SIDE, SIDE))
    lines[np.arange(SIDE), left] = 1 - part
    lines[np.arange(SIDE), left + 1] += part
    cosines = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(_LOW)[:, None] / SIDE)
    cosines[0] /= np.sqrt(2)
    return np.asarray(cosines @ lines * np.sqrt(2 / SIDE), np.float32)


def _windows(steps: int) -> list[tuple[Floats, Floats]]:
    """Matrices of rows and columns of the whole image, then of windows in `steps` x `steps`."""
    whole = _frequencies(0.0, 1.0)
    lines = [_frequencies((1 - _CROP) * at / (steps - 1), _CROP) for at in range(steps)]
    return [(whole, whole), *((down, across) for down in lines for across in lines)]


_COARSE, _FINE = _windows(3), _windows(9)
_MIRROR = ((-1.0) ** np.arange(_LOW)).astype(np.float32)
_BIT_PLACES = np.arange(1, _LOW * _LOW, dtype=np.uint64)
_MIRROR_MASK = np.uint64(sum(1 << at for at in range(1, _LOW * _LOW) if at % _LOW % 2))


def fingerprint(image: Image.Image) -> bytes:
    """What is remembered of an image of mode RGB: `SIDE` x `SIDE` pixels."""
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes()


def _spectrum(prints: list[bytes]) -> tuple[Floats, NDArray[np.bool_]]:
    """Pixels as brightness and two colours: [images, 3, SIDE, SIDE]; and which are not flat."""
    pixels = np.frombuffer(b"".join(prints), np.uint8).reshape(-1, SIDE, SIDE, 3)
    planes = np.moveaxis(pixels.astype(np.float32) @ _TO_YCC, -1, 1)
    return planes, planes[:, 0].std(axis=(1, 2)) >= FLAT


def _low(planes: Floats, window: tuple[Floats, Floats]) -> Floats:
    """Lowest frequencies of a window: [..., _LOW, _LOW]."""
    return np.asarray(window[0] @ planes @ window[1].T)


def _signs(low: Floats) -> NDArray[np.uint64]:
    """Hash of frequencies [..., _LOW, _LOW]: bit i is the sign of the i-th, the mean left out."""
    flat = low.reshape(*low.shape[:-2], _LOW * _LOW)[..., 1:] > 0
    return np.asarray((flat.astype(np.uint64) << _BIT_PLACES).sum(axis=-1, dtype=np.uint64))


def _band(hashes: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """Every fourth sign, so that a band has low and high frequencies of both directions."""
    key = np.zeros_like(hashes)
    for at in range(_BAND_BITS):
        place = np.uint64(at * _BANDS + (number + at) % _BANDS)
        key |= (hashes >> place & np.uint64(1)) << np.uint64(at)
    return key


_BAND_MASKS = [
    np.uint64(sum(1 << (at * _BANDS + (number + at) % _BANDS) for at in range(_BAND_BITS)))
    for number in range(_BANDS)
]
"""Places of the signs of each band."""


class _Index:
    """Hashes by their bands."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        keys = [_band(hashes, number) for number in range(_BANDS)]
        self._orders = [np.argsort(key, kind="stable") for key in keys]
        self._keys = [key[order] for key, order in zip(keys, self._orders, strict=True)]

    def find(self, hashes: NDArray[np.uint64]) -> Iterator[tuple[Longs, Longs]]:
        """Yield pairs with few other signs: places in the index, and in `hashes`."""
        for number, (order, keys) in enumerate(zip(self._orders, self._keys, strict=True)):
            wanted = _band(hashes, number)
            first = np.searchsorted(keys, wanted, "left")
            counts = np.searchsorted(keys, wanted, "right") - first
            ends = np.cumsum(counts)
            for start in range(0, int(ends[-1]) if len(ends) else 0, _PAIRS):
                pair = np.arange(start, min(start + _PAIRS, int(ends[-1])))
                there = np.searchsorted(ends, pair, "right")
                here = order[first[there] + pair - (ends[there] - counts[there])]
                other = self._hashes[here] ^ hashes[there]
                near = np.bitwise_count(other) <= _MOST_SIGNS
                for earlier in _BAND_MASKS[:number]:
                    near &= other & earlier != 0  # else it has come by that band
                yield here[near], there[near]


def _correlation(one: Floats, other: Floats) -> Floats:
    """Cosine between frequencies [..., _LOW, _LOW] but for the mean."""
    flat = [low.reshape(*low.shape[:-2], _LOW * _LOW)[..., 1:] for low in (one, other)]
    norms = np.linalg.norm(flat[0], axis=-1) * np.linalg.norm(flat[1], axis=-1)
    return np.asarray((flat[0] * flat[1]).sum(axis=-1) / np.maximum(norms, 1e-6))


class Block(NamedTuple):
    """Some images, to compare with others."""

    planes: Floats
    """[images, 3, SIDE, SIDE]"""
    places: Longs
    """[images]: those that are not flat, by their place among all."""


def make_block(prints: list[bytes]) -> Block:
    """Read what `fingerprint` made of some images."""
    planes, used = _spectrum(prints)
    return Block(planes[used], np.flatnonzero(used))


class NearImages:
    """Finds the near duplicates of the images of a block."""

    def __init__(self, block: Block, match: float) -> None:
        """Index a block.

        Args:
            block: some images.
            match: least correlation of near duplicates.
        """
        self._block, self._match = block, match
        luma = block.planes[:, 0]
        self._hashes = [_signs(_low(luma, window)) for window in _COARSE]
        self._whole = _Index(self._hashes[0])
        self._crops = _Index(np.concatenate(self._hashes[1:]))

    def find(self, others: Block) -> Iterator[tuple[int, int]]:
        """Pairs of near duplicates: places among the block's images, and among the others.

        A pair may come again. Of thousands of images that are all alike nearly every pair is one,
        so as many are held as `_PAIRS` says, and no more.
        """
        count, theirs = len(self._block.places), len(others.places)
        if not count or not theirs:
            return
        luma = others.planes[:, 0]
        hashes = [_signs(_low(luma, window)) for window in _COARSE]
        for mask, mirror in ((np.uint64(0), False), (_MIRROR_MASK, True)):
            whole, crops = hashes[0] ^ mask, np.concatenate(hashes[1:]) ^ mask
            for index, wanted, crop in (
                (self._whole, whole, (False, False)),
                (self._crops, whole, (True, False)),
                (self._whole, crops, (False, True)),
            ):
                for places in index.find(wanted):
                    # Hashes of crops stand behind each other: the image is the rest.
                    pairs = np.unique(places[0] % count * theirs + places[1] % theirs)
                    for start in range(0, len(pairs), _PAIRS // 64):
                        here, there = np.divmod(pairs[start : start + _PAIRS // 64], theirs)
                        good = self._compare(here, others.planes[there], crop, mirror=mirror)
                        mine, other = self._block.places[here[good]], others.places[there[good]]
                        yield from zip(mine.tolist(), other.tolist(), strict=True)

    def _compare(
        self, here: Longs, other: Floats, crop: tuple[bool, bool], *, mirror: bool
    ) -> Longs:
        """Places of the pairs that are near duplicates; one of both may be a window of the other.

        Args:
            here: [pairs] into the block.
            other: [pairs, 3, SIDE, SIDE]
            crop: which of the two may be a window of the whole of the other one.
            mirror: whether the other ones are mirrored.
        """
        one = self._block.planes[here]
        if mirror:
            other = other[..., ::-1]
        cut, kept = (other, one) if crop[1] else (one, other)
        whole = _low(kept, _COARSE[0])
        left = np.arange(len(here))
        if any(crop):
            coarse = np.max(
                [_correlation(_low(cut[:, 0], window), whole[:, 0]) for window in _COARSE[1:]], 0
            )
            left = np.flatnonzero(coarse >= self._match - _LOOSE)
        good = np.zeros(len(left), bool)
        for window in _FINE[1:] if any(crop) else _FINE[:1]:
            open_ = np.flatnonzero(~good)
            low = _low(cut[left[open_]], window)
            against = whole[left[open_]]
            colours = (low[:, 1:] - against[:, 1:])[..., :4, :4]
            apart = np.sqrt((colours**2).sum(axis=(1, 2, 3)) / (2 * SIDE * SIDE))
            alike = _correlation(low[:, 0], against[:, 0]) >= self._match
            good[open_] = alike & (apart <= FAR)
        return left[good]
