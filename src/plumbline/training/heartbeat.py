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
    threads = [threading.Thread(target=run, daemon=True) for run in (watch.talk, watch.look)]
    for thread in threads:
        thread.start()
    try:
        yield
        # Not after an error, of which the others shall not think that all is well here.
        watch.last_word = _DONE
    finally:
        watch.stop.set()
        threads[0].join(LOST_S)


class _Watch:
    """One machine's count, and when something was heard of the others."""

    def __init__(self, node: int, nodes: int) -> None:
        self._node = node
        self._heard = {other: time.monotonic() for other in range(nodes) if other != node}
        self._store = _connect()
        self.stop = threading.Event()
        self.last_word = ""

    def talk(self) -> None:
        """Count, and listen to the others, until it is stopped."""
        seen: dict[int, bytes] = {}
        beat = 0
        while not self.stop.wait(BEAT_S):
            beat += 1
            self._tell(str(beat))
            for other in self._heard:
                count = self._read(other)
                if count == _DONE.encode() or (count is not None and count != seen.get(other)):
                    self._heard[other] = time.monotonic()
                    seen[other] = count
        if self.last_word:
            self._tell(self.last_word)

    def look(self) -> None:
        """End this process when nothing was heard of another machine for too long.

        In a thread of its own: where the machine that holds the store is lost, nothing is heard of
        any, and a question to it may never return.
        """
        while not self.stop.wait(BEAT_S):
            for other, heard in list(self._heard.items()):
                if time.monotonic() - heard > LOST_S:
                    _end(other)

    def _tell(self, count: str) -> None:
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
