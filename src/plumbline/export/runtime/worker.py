"""A process that answers requests for the server, one after another, and may be ended at any time.

What a request holds is read, decoded and computed here and nowhere else: the server's own process
passes bytes on, so that nothing that a request brings can hold it up.
"""

import base64
import binascii
import contextlib
import json
import math
import os
import resource
import signal
import sys
import warnings
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path

from .files import BundleError, InputError, TooLargeError, printable
from .model import Model

ALLOCATION_FAILED = ("bad_alloc", "bad allocation", "Failed to allocate", "not enough memory")
"""What the libraries of the graphs say, in errors of their own, where there is no memory left."""


def work(descriptor: int, folder: Path) -> None:
    """Load the model, say so or what is wrong, and answer until the server closes the channel."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group: the server decides
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's, on images that are refused anyway
    with contextlib.suppress(EOFError, ConnectionError):  # the server has ended
        _serve(Connection(descriptor), folder)


def _serve(channel: Connection, folder: Path) -> None:
    settings = json.loads(channel.recv_bytes())
    try:
        # Every worker checks the digests itself: files may change while the server runs.
        model = Model(folder, format=settings["format"])
    except BundleError as error:
        _say(channel, {"error": str(error)})
        return
    contract = model.files.digests["contract.json"][:12]
    _limit_memory(settings["answer_memory_bytes"])
    log = _take_stderr()
    facts = {"format": model.format, "contract": contract, "fields": model.task.fields}
    # Of fields that exclude each other a page clears the others.
    _say(channel, {**facts, "either": model.task.either} if model.task.either else facts)
    while True:
        body = channel.recv_bytes()
        # The server ends a worker that is late; the alarm does where the server was killed.
        signal.alarm(math.ceil(settings["answer_timeout_s"]) + 1)
        reply = respond(model, body, log)
        signal.alarm(0)
        _say(channel, reply)


def _say(channel: Connection, value: object) -> None:
    channel.send_bytes(json.dumps(value, allow_nan=False).encode())


def _limit_memory(more: int) -> None:
    """Let the process grow by so many bytes of address space, where the system says how many."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _take_stderr() -> int:
    """Keep stderr for our own lines: the decoders' would let a request write into the log."""
    log = os.dup(sys.stderr.fileno())
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    return log


def respond(model: Model, body: bytes, log: int) -> tuple[int, dict[str, object]]:
    """Status and answer of one request; never raises."""
    try:
        return HTTPStatus.OK, model.predict(read_request(body, model.task.fields))
    except TooLargeError as error:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": str(error)}
    except InputError as error:
        return HTTPStatus.BAD_REQUEST, {"error": str(error)}
    except Exception as error:  # the edge of the process: it outlives any request
        text = " ".join(str(error).split())[:200]
        if isinstance(error, MemoryError) or any(said in text for said in ALLOCATION_FAILED):
            text = "takes more memory than answer_memory_bytes of server.json allows"
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": text}
        os.write(log, f"{type(error).__name__}: {printable(text)}\n".encode())
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error"}


def read_request(body: bytes, fields: dict[str, str]) -> dict[str, object]:
    """The request in a body of JSON, its files out of their base64.

    Raises:
        InputError: it is no object of the fields.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the body is no JSON") from None
    if not isinstance(request, dict) or not request.keys() <= fields.keys():
        raise InputError(f"expected an object of {', '.join(fields)}")
    for name, value in request.items():
        if fields[name] not in ("file", "files") or value is None:
            continue
        try:
            if fields[name] == "file":
                request[name] = base64.b64decode(value, validate=True)
            elif isinstance(value, list):  # what is none is refused by its type
                request[name] = [base64.b64decode(each, validate=True) for each in value]
        except (TypeError, binascii.Error, ValueError):
            raise InputError(f"{name}: no base64") from None
    return request
