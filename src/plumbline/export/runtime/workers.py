"""The processes that answer for the server: each has a deadline, and a successor."""

import hashlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from http import HTTPStatus
from multiprocessing import Pipe
from typing import TypedDict

from .guard import BundleError, printable

START_S = 120.0
"""Longest loading of a model; a worker that takes longer is started anew."""

RETRY_S = 2.0
"""From a start that failed to the next."""

POLL_S = 0.2
"""How often a worker without work is looked after: one that died is replaced."""

TRIES, FORGET_S = 2, 60.0
"""A request that ended so many workers is refused unread until none was ended for so long."""

Reply = tuple[int, dict[str, object]]
"""Status and the JSON of the answer."""


class Settings(TypedDict):
    """What server.json holds, and the format that was chosen."""

    host: str
    port: int
    max_body_bytes: int
    max_connections: int
    max_concurrent: int
    read_timeout_s: float
    queue_timeout_s: float
    answer_timeout_s: float
    answer_memory_bytes: int
    format: str | None


class LostError(Exception):
    """A worker ended before it had answered; the text says how."""


class Worker:
    """One process, and the channel to it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; `command` gets the number of its end of the channel."""
        self._channel, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [*command, str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def ask(self, message: bytes, seconds: float) -> object:
        """Send bytes and give the JSON that comes back; the process is ended where it is late.

        Raises:
            TimeoutError: nothing came in time.
            LostError: the process ended by itself, or was ended by someone else.
        """
        late = threading.Event()

        def expire() -> None:
            late.set()
            self._process.kill()

        # Killing it ends whatever we are waiting for: to be read, or to be answered.
        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            self._channel.send_bytes(message)
            return json.loads(self._channel.recv_bytes())
        except (EOFError, OSError, ValueError):
            code = self._ended()  # until then it would pass for alive
            if late.is_set():
                raise TimeoutError from None
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise LostError(f"a worker ended with {how}") from None
        finally:
            timer.cancel()
            timer.join()  # so that it cannot end the next request's work

    def _ended(self) -> int:
        try:
            return self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it closed the channel, and lives
            self._process.kill()
            return self._process.wait()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


class Job(Future[Reply]):
    """A request that waits for a worker, or for its answer."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


class Strikes:
    """The requests that ended workers lately: who sends one again and again holds up no one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[bytes, tuple[int, float]] = {}

    def count(self, body: bytes) -> int:
        """How many workers a request ended."""
        with self._lock:
            # By digest, since a body may hold megabytes.
            tries, last = self._seen.get(hashlib.sha256(body).digest(), (0, 0.0))
        return tries if time.monotonic() - last < FORGET_S else 0

    def add(self, body: bytes) -> None:
        """Remember that a request ended a worker."""
        now, key = time.monotonic(), hashlib.sha256(body).digest()
        with self._lock:
            # Forgotten here, so that no client fills the memory with what it once sent.
            self._seen = {k: v for k, v in self._seen.items() if now - v[1] < FORGET_S}
            self._seen[key] = (self._seen.get(key, (0, now))[0] + 1, now)


class Workers:
    """As many workers as answers may be computed at the same time, each kept by a thread."""

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        """Start them and wait until all have loaded the model.

        Args:
            command: starts a worker, given the number of its end of the channel.
            settings: those of server.json, and `format`.

        Raises:
            BundleError: the model cannot be loaded.
        """
        self._command, self._settings = command, settings
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._workers: dict[int, Worker] = {}
        self._busy = self._restarts = 0
        self._strikes = Strikes()
        self._count = settings["max_concurrent"]
        first: list[Future[dict[str, object]]] = [Future() for _ in range(self._count)]
        for slot, loaded in enumerate(first):
            threading.Thread(target=self._keep, args=(slot, loaded), daemon=True).start()
        try:
            self.facts, *_ = [loaded.result() for loaded in first]
        except (BundleError, LostError, OSError, TimeoutError) as error:
            self.close()
            raise BundleError(str(error) or f"no worker was ready within {START_S:g} s") from None

    def answer(self, body: bytes) -> Reply:
        """Status and answer of a request, in time whatever it holds."""
        if self._strikes.count(body) >= TRIES:
            text = f"ended its worker twice; not tried for {FORGET_S:g} s"
            return HTTPStatus.GATEWAY_TIMEOUT, {"error": text}
        job = Job(body)
        self._jobs.put(job)
        try:
            return job.result(self._settings["queue_timeout_s"])
        except TimeoutError:
            # No longer possible once a worker has it: then its own time limit holds.
            if job.cancel():
                return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "busy; try again later"}
        return job.result()

    def state(self) -> dict[str, object]:
        """How things stand, for /health."""
        with self._lock:
            up = sum(worker.alive() for worker in self._workers.values())
            busy, restarts = self._busy, self._restarts
        status = "ok" if up == self._count else "degraded"
        if busy >= up:
            status = "busy" if up else "down"
        waiting = self._jobs.qsize()
        return {
            "status": status,
            "workers": up,
            "busy": busy,
            "waiting": waiting,
            "restarts": restarts,
        }

    def close(self) -> None:
        """End all workers."""
        self._closing.set()
        with self._lock:
            for worker in self._workers.values():
                worker.end()
            self._workers.clear()

    def _keep(self, slot: int, loaded: Future[dict[str, object]]) -> None:
        """The thread of a worker: start it, give it work, start its successor."""
        worker = self._start(slot, loaded)
        while worker is not None and not self._closing.is_set():
            if not worker.alive():
                worker = self._replace(slot, worker)
                continue
            try:
                job = self._jobs.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if not worker.alive():  # it died of idleness: that is no fault of the request
                worker = self._replace(slot, worker)
            if worker is not None and job.set_running_or_notify_cancel():
                self._answer(worker, job)

    def _answer(self, worker: Worker, job: Job) -> None:
        seconds = self._settings["answer_timeout_s"]
        with self._lock:
            self._busy += 1
        try:
            status, answer = _reply(worker.ask(job.body, seconds))
        except TimeoutError:
            self._strikes.add(job.body)
            text = f"no answer within {seconds:g} s"
            status, answer = HTTPStatus.GATEWAY_TIMEOUT, {"error": text}
        except LostError as error:
            self._strikes.add(job.body)
            _log(error)
            text = "the worker of this request ended; try again"
            status, answer = HTTPStatus.SERVICE_UNAVAILABLE, {"error": text}
        finally:
            with self._lock:
                self._busy -= 1
        job.set_result((status, answer))

    def _replace(self, slot: int, worker: Worker) -> Worker | None:
        with self._lock:
            self._restarts += 1
        worker.end()
        return self._start(slot, None)

    def _start(self, slot: int, loaded: Future[dict[str, object]] | None) -> Worker | None:
        """Start a worker; None: the first start failed, or the server is closing."""
        settings = self._settings
        hello = json.dumps(
            {
                "format": settings["format"],
                "answer_timeout_s": settings["answer_timeout_s"],
                "answer_memory_bytes": settings["answer_memory_bytes"],
            }
        ).encode()
        while not self._closing.is_set():
            worker = None
            try:
                worker = Worker(self._command)
                facts = worker.ask(hello, START_S)
                assert isinstance(facts, dict), "what worker.py says first"
                if "error" in facts:
                    raise BundleError(facts["error"])
            except (BundleError, LostError, OSError, TimeoutError) as error:
                if worker is not None:
                    worker.end()
                if loaded is not None:
                    loaded.set_exception(error)
                    return None
                _log(f"no worker could be started: {error}")
                self._closing.wait(RETRY_S)
                continue
            with self._lock:
                self._workers[slot] = worker
            if self._closing.is_set():
                worker.end()
                return None
            if loaded is not None:
                loaded.set_result(facts)
            return worker
        return None


def _reply(said: object) -> Reply:
    """What a worker says of a request: worker.py lies beside this file, and says nothing else."""
    assert isinstance(said, list)
    status, answer = said
    assert isinstance(status, int)
    assert isinstance(answer, dict)
    return status, answer


def _log(text: object) -> None:
    print(printable(text), file=sys.stderr, flush=True)
