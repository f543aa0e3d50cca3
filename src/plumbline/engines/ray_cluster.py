"""The engine of a Ray cluster: items are tasks, done again where a node or a worker dies."""

import logging
import os
import pickle
import socket
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import plumbline
from plumbline.engines import base
from plumbline.engines.base import Work
from plumbline.engines.node import Run, describe_run
from plumbline.errors import ConfigError, DataError, PlumblineError
from plumbline.files import STATE_DIR
from plumbline.text import one_line

if TYPE_CHECKING:
    import ray

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

ADDRESS = "RAY_ADDRESS"
"""Names the cluster, which changes no result and so is no setting."""
RETRIES = 5
"""How often an item is computed anew whose node or worker died: an item that kills whatever
computes it shall end the run."""
_AHEAD = 2
"""Items for each CPU that are under way: results wait in the memory of the nodes."""
_CONNECT_S = 10.0


class RayEngine:
    """Computes items as tasks of a cluster that this process is connected to."""

    elsewhere = True

    def __init__(self, run: Run) -> None:
        """Compute for a run."""
        self._run = run

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], work: Work
    ) -> Iterator[Result]:
        """See `Engine`."""
        import ray

        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_make_task(self._run))
        shared = ray.put(pickle.dumps(function))
        most = _AHEAD * max(1, _count_cpus())
        ahead: deque[ray.ObjectRef[bytes]] = deque()
        for item in items:
            ahead.append(task.remote(shared, pickle.dumps(item)))
            if len(ahead) >= most:
                yield pickle.loads(_fetch(ahead.popleft(), work))  # noqa: S301  (of this run)
        while ahead:
            yield pickle.loads(_fetch(ahead.popleft(), work))  # noqa: S301


def _make_task(run: Run) -> Callable[[bytes, bytes], bytes]:
    """What a worker runs; it travels as it is, since a node may not find plumbline before it."""
    package = Path(plumbline.__file__).parents[1]
    # A checkout brings its own code; an installed plumbline is that of the node.
    asking = pickle.dumps(run)
    places = [run.root, *([str(package)] if package.is_relative_to(run.root) else [])]

    def task(function: bytes, item: bytes) -> bytes:
        sys.path[:0] = [place for place in places if place not in sys.path]
        from plumbline.engines.node import compute

        return compute(asking, function, item)

    return task


def _fetch(ref: "ray.ObjectRef[bytes]", work: Work) -> bytes:
    import ray

    try:
        found: bytes = ray.get(ref, timeout=base.ITEM_S)
        return found
    except ray.exceptions.GetTimeoutError:
        raise DataError(
            f"no {work.what} were {work.done} for {base.ITEM_S:,.0f} s: look at the cluster with "
            "ray status; run again, what is kept is not done again"
        ) from None
    except ray.exceptions.RayTaskError as error:
        _refuse(error.cause)
    except ray.exceptions.RayError as error:  # a worker, a node or what it held is gone for good
        raise DataError(
            f"a node or worker that {work.done} {work.what} was lost, and so were those that did "
            f"it after it ({one_line(str(error))[:200]}); look at memory and ray status, and run "
            "again: what is kept is not done again"
        ) from None


def _refuse(cause: Exception) -> NoReturn:
    """Raise what a task raised as if it had been raised here."""
    if isinstance(cause, ModuleNotFoundError):
        raise ConfigError(
            f"a node of the cluster: {cause}; install the same plumbline and requirements.lock on "
            "every node"
        ) from None
    if isinstance(cause, PlumblineError):
        raise cause from None
    raise cause


@contextmanager
def open_ray() -> Iterator[RayEngine]:
    """Connect to the cluster that `RAY_ADDRESS` names, for the length of the block.

    Raises:
        ConfigError: Ray is not installed, no cluster is named, or it cannot be reached or used.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "engine ray: the package ray is not installed; pip install 'plumbline[cluster]', or "
            "set the dataset's engine to local"
        ) from None
    address = _address()
    root = Path.cwd()
    mark = root / STATE_DIR / f"cluster-{uuid.uuid4().hex}"
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{ADDRESS} = {address!r}: {_why(error)}") from None
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        nodes = sum(node["Alive"] for node in ray.nodes())
        logger.info("engine ray: %d nodes with %d CPUs", nodes, _count_cpus())
        yield RayEngine(describe_run(root, mark))
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()


def _count_cpus() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def _address() -> str:
    """Where the cluster is.

    Raises:
        ConfigError: nothing is named, or nothing listens there.
    """
    address = os.environ.get(ADDRESS, "")
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()) or "/" in host:
        raise ConfigError(
            f"engine ray: {ADDRESS} = {address!r} names no cluster; start one with ray start "
            f"--head --port 6379, then {ADDRESS}=HOST:6379, or set the dataset's engine to local"
        )
    try:
        # Ray itself would try for minutes.
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"{ADDRESS} = {address!r}: no cluster answers there ({error.strerror or error}); start "
            "one with ray start --head --port 6379, or set the dataset's engine to local"
        ) from None
    return address


def _why(error: Exception) -> str:
    """Why Ray does not connect, with the remedy, in one line."""
    told = one_line(str(error))
    if "ersion mismatch" in told:
        return f"{told[:300]}; install the same requirements.lock on every node"
    return f"{told[:300]}; run this on a node of that cluster (ray start --address)"
