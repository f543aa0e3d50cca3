"""A Ray cluster of two nodes on this machine, on the loopback, with little memory."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

STORE_BYTES = 200 * 2**20

# Before Ray is imported: nobody is told of it, and nothing listens beyond this machine.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# Tests name functions of their own, which nodes have to find.
ROOT = Path(__file__).resolve().parents[2]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402


class LocalNodes:
    """Two nodes of one CPU; the first is the head."""

    def __init__(self) -> None:
        """Start them."""
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**self._sizes, "include_dashboard": False},
        )
        self.address = str(self._cluster.address)
        self._second = self._add()

    _sizes: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}

    def _add(self) -> Any:
        return self._cluster.add_node(**self._sizes)

    def kill_second(self) -> None:
        """Kill all processes of the second node, as a loss of power would."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def kill_workers(self) -> int:
        """Kill what computes right now, and say how many that were."""
        workers = [p for p in self._processes() if p.name() == "ray::task"]
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGKILL)
        return len(workers)

    def mend(self) -> None:
        """Have two nodes again."""
        if not any(node is self._second for node in self._cluster.list_all_nodes()):
            self._second = self._add()

    def close(self) -> None:
        """End all of it."""
        left = self._processes()
        with suppress(Exception):
            ray.shutdown()
        with suppress(Exception):
            self._cluster.shutdown()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _processes(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)


@contextmanager
def two_nodes() -> Iterator[LocalNodes]:
    """Two nodes, which `RAY_ADDRESS` names in the block."""
    nodes, before = LocalNodes(), os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = nodes.address
    try:
        yield nodes
    finally:
        nodes.close()
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
