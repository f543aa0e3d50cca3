"""An engine that shares nothing with its items but what can be pickled, as a cluster does."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from plumbline.engines.base import Work


class PicklingEngine:
    """Computes in this process, every item twice, on copies alone."""

    elsewhere = True

    def __init__(self) -> None:
        """Nothing is computed yet."""
        self.items = 0

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], work: Work
    ) -> Iterator[Any]:
        """See `Engine`; the second result counts, as if the first one had been lost."""
        pickled = pickle.dumps(function)
        for item in map(pickle.dumps, items):
            self.items += 1
            pickle.loads(pickled)(pickle.loads(item))
            again = pickle.loads(pickled)(pickle.loads(item))
            yield pickle.loads(pickle.dumps(again))
