"""Whether the other machines of a training still live.

A process that ends closes its connections, which the others see at once. A machine that loses its
power or its network closes none: a sum over all processes would wait for `trainer.timeout_s`. So
the first process of each machine counts up in the store of torchrun, and looks whether the others
do.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from plumbline.training.nodes import is_first_here

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

BEAT_S = 3.0
LOST_S = 35.0
"""For so long nothing was heard of a machine that counts as lost: ten beats, since what computes
may keep the thread that counts from its turn."""
_DONE = "done"


@contextmanager
def watching_nodes() -> Iterator[None]:
    """End this process where another machine is lost within the block; one machine watches none.

    A machine that leaves the block without an error may end before the others.
    """
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if nodes == 1 or not is_first_here():
        yield
        return
    watch = _Watch(int(os.environ["GROUP_RANK"]), nodes)
    # Beside the training, which computes and waits without a look at the clock.
    thread = threading.Thread(target=watch.run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.stop.set()
        thread.join()
    # Not after an error, of which the others shall not think that all is well here.
    watch.tell(_DONE)


class _Watch:
    """One machine's count, and those of the others."""

    def __init__(self, node: int, nodes: int) -> None:
        self._node, self._others = node, [other for other in range(nodes) if other != node]
        self._store = _connect()
        self.stop = threading.Event()

    def run(self) -> None:
        """Count and look until it is stopped or another machine is lost."""
        seen: dict[int, bytes] = {}
        heard = dict.fromkeys(self._others, time.monotonic())
        beat = 0
        while not self.stop.wait(BEAT_S):
            beat += 1
            # Where the machine that holds the store is lost, nothing is heard of any.
            self.tell(str(beat))
            for other in self._others:
                count = self._read(other)
                if count == _DONE.encode() or (count is not None and count != seen.get(other)):
                    heard[other] = time.monotonic()
                    seen[other] = count
                elif time.monotonic() - heard[other] > LOST_S:
                    _end(other)

    def tell(self, count: str) -> None:
        """Say how far this machine has counted."""
        try:
            self._store.set(_key(self._node), count)
        except RuntimeError:  # not there, or no answer: seen by what is not heard
            logger.debug("the store of the training does not answer", exc_info=True)

    def _read(self, node: int) -> bytes | None:
        try:
            return self._store.get(_key(node)) if self._store.check([_key(node)]) else None
        except RuntimeError:
            return None


def _end(node: int) -> None:
    logger.error(
        "error: node %d of this training has not been heard of for %.0f s: is it, or its network, "
        "down? The last checkpoint stands: start all nodes again to go on from it",
        *(node, LOST_S),
    )
    # Threads of the backend wait for what will not come, and nothing would end them.
    os._exit(1)


def _connect() -> "Store":
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=LOST_S / 4))
    return PrefixStore("heartbeat", store)


def _key(node: int) -> str:
    return f"node {node}"
