"""Randomness that belongs to a sample and a moment, never to a worker.

Everything random in training draws from a counter-based generator keyed by what it is for, so a
batch is a pure function of (seed, step) for any number of loader workers and after any resume.
"""

import hashlib

from numpy.random import Generator, Philox


def keyed_generator(seed: int, purpose: str, *counters: int) -> Generator:
    """A generator for one purpose and up to three counters, such as (epoch, sample).

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    # Not hash(): Python salts that of texts, anew in every process.
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    # The lowest counter word is what the generator itself advances.
    counter = [0, *counters, *[0] * (3 - len(counters))]
    return Generator(Philox(key=[seed, word], counter=counter))


def keyed_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for a generator that is not numpy's, keyed as `keyed_generator`."""
    return int(keyed_generator(seed, purpose, *counters).integers(1 << 63))
