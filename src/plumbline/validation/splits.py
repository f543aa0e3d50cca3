"""Splits that depend on a seed and a key alone, so that rows of one group stay together."""

import hashlib

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
