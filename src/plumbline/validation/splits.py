"""Splits that depend on a seed and a key alone, so that rows of one group stay together."""

import hashlib
from collections.abc import Mapping

PRIORITY = ("test", "val", "train")
"""Of two rows that may not both stay, the one whose split stands further left does."""


def hash_unit(key: str | bytes, seed: int) -> float:
    """Map a key to a number in [0, 1) that looks random and is the same on every machine.

    It has 53 bits, so that it survives a trip through JSON, SQL or numpy without a change.
    """
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    salt = seed.to_bytes(16, "little", signed=True)
    digest = hashlib.blake2b(data, digest_size=8, salt=salt).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2.0**53


def assign_split(group: str | bytes, seed: int, fractions: Mapping[str, float]) -> str:
    """Choose the split of a group: val from the low end of the hash, test from the high end.

    A group keeps its split when rows are added, and the two ends do not move each other: a larger
    test fraction takes groups from train only.

    Args:
        group: key of the rows that must stay together.
        seed: another seed gives another split.
        fractions: share of the groups, by split; `val` and `test` count, train has the rest.

    Raises:
        ValueError: a fraction is negative, or val and test leave nothing for train.
    """
    val, test = fractions.get("val", 0.0), fractions.get("test", 0.0)
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val {val} and test {test} must be at least 0 and sum to less than 1")
    place = hash_unit(group, seed)
    if place < val:
        return "val"
    return "test" if place >= 1 - test else "train"
