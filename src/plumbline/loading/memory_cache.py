"""Decoded samples kept in memory; put it before anything random, never behind."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


class MemoryCache:
    """Arrays by key up to a limit in bytes; the one not asked for the longest goes first.

    Each loader process has a cache of its own.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Keep up to `limit_bytes`; 0 keeps nothing."""
        self._limit = limit_bytes
        self._held: OrderedDict[Hashable, Array] = OrderedDict()
        self.size_bytes = 0
        """Bytes of the arrays held."""
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable, load: Callable[[], Array]) -> Array:
        """The array of `key`, from memory or from `load`.

        It is read-only: whoever changes it works on a copy, so the next one finds it as it was.
        """
        held = self._held.get(key)
        if held is not None:
            self.hits += 1
            self._held.move_to_end(key)
            return held
        self.misses += 1
        # A view: the lock on writing is this cache's, not one on the array of whoever made it.
        array = load().view()
        array.flags.writeable = False
        # One larger than all of the room would only drive everything else out.
        if array.nbytes <= self._limit:
            self._keep(key, array)
        return array

    def _keep(self, key: Hashable, array: Array) -> None:
        self._held[key] = array
        self.size_bytes += array.nbytes
        while self.size_bytes > self._limit:
            _, oldest = self._held.popitem(last=False)
            self.size_bytes -= oldest.nbytes
