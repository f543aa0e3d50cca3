"""What an engine is, and opening the one that a dataset's settings name.

What a stage does to an item is a pure function of it, so that an engine decides where and when
that is computed and never what comes of it: outputs have the same bytes with any of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from plumbline.registry import load_attribute

Item = TypeVar("Item")
Result = TypeVar("Result")

EngineName = Literal["local", "ray"]
"""Where a dataset's items are computed: on this machine, or on a Ray cluster (`RAY_ADDRESS`)."""

ITEM_S = 1800.0
"""The longest wait for the next result, which takes seconds, or minutes of the worst images."""

_PLACES = {
    "local": "plumbline.engines.local:LocalEngine",
    "ray": "plumbline.engines.ray_cluster:open_ray",
}


AHEAD_BYTES = 2**27
"""Of items that are under way, beside one for each process: a few clips of many minutes."""


def one_byte(item: object) -> int:
    """Weigh items that all are small."""
    return 1


class Work(NamedTuple):
    """What is done to items, in words for messages."""

    done: str
    """Such as judged."""
    what: str
    """Such as rows."""
    pays: bool = True
    """Whether an item takes much longer than it takes to send it and its result: other processes
    of this machine are only used for it then, or where the environment asks for them."""
    weigh: Callable[[Any], int] = one_byte
    """Bytes that an item and its result take while they wait, where some take very many."""


class Engine(Protocol):
    """Computes one function of many items."""

    @property
    def elsewhere(self) -> bool:
        """Whether items may be computed on other machines, with which no lock is shared."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], work: Work
    ) -> Iterator[Result]:
        """Yield what the function makes of each item, in the order of the items.

        Only a few items are taken ahead of the result that is waited for.

        Args:
            function: pure, so that an item may be computed twice; like items and results it can
                be pickled.
            items: taken as they are needed.
            work: for messages.

        Raises:
            DataError: what computes was ended from outside more often than is tried, or stands
                still.
            PlumblineError: the function raised it.
        """


def open_engine(name: EngineName) -> AbstractContextManager[Engine]:
    """The engine of that name, which is released at the end of the block.

    Raises:
        ConfigError: this machine cannot use it, or the cluster cannot be reached.
    """
    opened: AbstractContextManager[Engine] = load_attribute(_PLACES[name])()
    return opened
