"""Splits that depend on a seed and a key alone, so that rows of one group stay together."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from plumbline.validation.digests import digest_all

PRIORITY = ("test", "val", "train")
"""Of two rows that may not both stay, the one whose split stands further left does."""

SPLIT_CODES: Mapping[str, int] = {name: code for code, name in enumerate(PRIORITY)}


def hash_unit(key: str | bytes, seed: int) -> float:
    """Map a key to a number in [0, 1) that looks random and is the same on every machine.

    It has 53 bits, so that it survives a trip through JSON, SQL or numpy without a change.
    """
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return float(hash_units([data], seed)[0])


def hash_units(keys: Iterable[bytes | memoryview], seed: int) -> NDArray[np.float64]:
    """Map many keys: [keys]; see `hash_unit`."""
    found = digest_all(keys, 8, seed.to_bytes(16, "little", signed=True))
    return (found.view("<u8")[:, 0] >> np.uint64(11)) / 2.0**53
