"""Serve this bundle over HTTP, with the standard library alone; settings stand in server.json.

    GET  /          a page to try it
    GET  /health    {"status": "ok", "fields": {...}, ...}
    GET  /samples   stored requests with their answers; /samples/<file>: their files
    POST /predict   an object of these fields; what is a file on the command line is base64 here

There is no authentication and no TLS: listen on the loopback interface, or behind a proxy.
"""

# Nothing may be imported from the bundle's folder before it is checked, by any way to start Python:
# `sys` and `os` are part of the interpreter, and `guard.py` is run by its path.
import sys

sys.dont_write_bytecode = True  # the bundle stays as it was exported
import os

FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.getcwd()) != FOLDER]
guard: dict = {"__name__": "guard"}  # type: ignore[type-arg]
with open(os.path.join(FOLDER, "runtime", "guard.py"), "rb") as code:
    exec(compile(code.read(), code.name, "exec"), guard)
guard["enter"](guard["Path"](FOLDER), as_script=__name__ == "__main__")

import argparse
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from types import FrameType

from runtime.guard import BundleError, printable  # type: ignore[import-not-found]
from runtime.page import Page  # type: ignore[import-not-found]
from runtime.workers import Settings, Workers  # type: ignore[import-not-found]

RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "max_body_bytes": (1024, 1 << 30),
    "max_connections": (1, 10_000),
    "max_concurrent": (1, 1024),
    "read_timeout_s": (0.1, 600),
    "queue_timeout_s": (0.1, 600),
    "answer_timeout_s": (0.1, 3600),
    "answer_memory_bytes": (1 << 26, 1 << 40),
}
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
ROUTES = {"/": "GET", "/health": "GET", "/predict": "POST", "/samples": "GET"}

DISCARD_S = 1.0
"""How long a refused body is read and thrown away, so that the client gets to see the answer."""

DRAIN_S = 5.0
"""How long requests that are being answered may go on after the server was told to stop."""


Request = socket.socket | tuple[bytes, socket.socket]
"""What `socketserver` calls one: a connection; of UDP, a packet and the socket for the answer."""


class RequestError(Exception):
    """A request that is refused with a status and one line."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Server(ThreadingMixIn, TCPServer):
    """A thread per connection; connections and sending time are limited, as are the answers."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, settings: Settings, page: Page) -> None:
        """Bind to the address of the settings."""
        self.settings, self.page = settings, page
        self.workers: Workers | None = None  # once they are ready: until then no request is taken
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        # Connections whose request has not arrived yet, in order of arrival, with their deadlines.
        self._sending: dict[socket.socket, float] = {}
        super().__init__((settings["host"], settings["port"]), Handler)

    def verify_request(self, request: Request, client_address: object) -> bool:
        """Admit a connection; where too many are open, the one that sends longest is ended."""
        assert isinstance(request, socket.socket), "only UDP has pairs"
        with self._lock:
            if len(self._open) >= self.settings["max_connections"]:
                if not self._sending:
                    with contextlib.suppress(OSError):
                        request.settimeout(0.1)
                        request.sendall(REFUSAL)
                    return False
                self._end(next(iter(self._sending)))
            self._open.add(request)
            self._sending[request] = time.monotonic() + self.settings["read_timeout_s"]
        return True

    def service_actions(self) -> None:
        """End connections whose request has not arrived in time; called twice a second."""
        now = time.monotonic()
        with self._lock:
            for late in [c for c, deadline in self._sending.items() if deadline < now]:
                self._end(late)

    def _end(self, connection: socket.socket) -> None:
        # Its thread, waiting for bytes, sees the end of the stream and closes the connection.
        del self._sending[connection]
        self._open.discard(connection)
        with contextlib.suppress(OSError):  # the client may have been faster
            connection.shutdown(socket.SHUT_RDWR)

    def request_arrived(self, connection: socket.socket) -> None:
        """Take a connection off the clock: the rest of the work is ours."""
        with self._lock:
            self._sending.pop(connection, None)

    def close_request(self, request: Request) -> None:
        """Forget a connection and close it."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._sending.pop(request, None)
            self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Request, client_address: tuple[str, int]) -> None:
        """Log one line instead of a traceback: mostly clients that went away."""
        print(f"{client_address[0]}: {type(sys.exception()).__name__}", file=sys.stderr)

    def drain(self) -> None:
        """Wait for the answers under way, for `DRAIN_S` at most."""
        end = time.monotonic() + DRAIN_S
        while len(self._open) > len(self._sending) and time.monotonic() < end:
            time.sleep(0.05)


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "bundle", ""

    def setup(self) -> None:
        """Set the longest silence of the client."""
        super().setup()
        self.connection.settimeout(self.server.settings["read_timeout_s"])

    def handle(self) -> None:
        """Answer one request; the connection is closed after it."""
        self.handle_one_request()

    def do_GET(self) -> None:
        """Answer a GET request."""
        self._respond()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self._respond()

    def handle_expect_100(self) -> bool:
        """Leave `100 Continue` until the headers are found to be good."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the parser refuses, in one line of JSON."""
        self._send(HTTPStatus(code), {"error": HTTPStatus(code).phrase.lower()})

    def _respond(self) -> None:
        try:
            found = self.server.page.find(self.path) if self.command == "GET" else None
            if found:
                self._send_bytes(HTTPStatus.OK, *found)
            else:
                self._send(*self._route())
        except RequestError as error:
            self._send(error.status, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            raise  # no one is listening any more
        except Exception as error:  # the edge of the process: the server outlives any request
            self.log_error("%s: %s", type(error).__name__, " ".join(str(error).split())[:200])
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error"})

    def _route(self) -> tuple[HTTPStatus, dict[str, object]]:
        method = ROUTES.get(self.path)
        if method is None:
            raise RequestError(HTTPStatus.NOT_FOUND, f"no such route; there is {', '.join(ROUTES)}")
        if self.command != method:
            raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, f"use {method}")
        workers = self.server.workers
        assert workers is not None, "no request is taken before they are ready"
        if self.path == "/health":
            state = workers.state()
            down = state["status"] == "down"
            status = HTTPStatus.SERVICE_UNAVAILABLE if down else HTTPStatus.OK
            return status, {**state, **workers.facts}
        status, answer = workers.answer(self._read_body())
        return HTTPStatus(status), answer

    def _read_body(self) -> bytes:
        # Before a byte of it is read, and before the client is told to send it.
        length = self._check_headers()
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        body = self.rfile.read(length)
        if len(body) < length:
            raise RequestError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive")
        self.server.request_arrived(self.connection)
        return body

    def _check_headers(self) -> int:
        """The length of the body, before a byte of it is read."""
        lengths = self.headers.get_all("Content-Length", [])
        if self.headers.get_content_type() != "application/json":
            text = "Content-Type must be application/json"
            raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        if not lengths or "Transfer-Encoding" in self.headers:
            raise RequestError(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is required")
        if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise RequestError(HTTPStatus.BAD_REQUEST, "Content-Length is no number")
        limit = self.server.settings["max_body_bytes"]
        if len(lengths[0]) > len(str(limit)) or int(lengths[0]) > limit:
            text = f"body of {lengths[0][:20]} bytes, allowed are {limit}"
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        return int(lengths[0])

    def _send(self, status: HTTPStatus, value: dict[str, object]) -> None:
        self._send_bytes(
            status, "application/json", json.dumps(value, allow_nan=False).encode() + b"\n"
        )

    def _send_bytes(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", self.server.page.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if status >= HTTPStatus.BAD_REQUEST:
            self._discard()

    def _discard(self) -> None:
        # Closing while bytes are on their way would reset the connection, answer and all.
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(DISCARD_S / 2)
        end = time.monotonic() + DISCARD_S
        try:
            while self.rfile.read1(1 << 16) and time.monotonic() < end:
                pass
        except OSError:
            pass  # silence, or gone: nothing more to do for this client


def load_settings(path: Path, format: str | None = None) -> Settings:
    """Read and check server.json, and add the format that was chosen.

    Raises:
        BundleError: unreadable, or a setting is missing, unknown, or out of range.
    """
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path.name}: not readable as JSON ({error})") from None
    if not isinstance(settings, dict) or set(settings) != {"host", *RANGES}:
        raise BundleError(f"{path.name}: its keys must be host, {', '.join(RANGES)}")
    if not isinstance(settings["host"], str):
        raise BundleError(f"{path.name}: host = {settings['host']!r}: expected an address")
    for name, (low, high) in RANGES.items():
        value, kind = settings[name], (int, float) if name.endswith("_s") else int
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise BundleError(f"{path.name}: {name} = {value!r}: expected {low:g} to {high:g}")
    return Settings(**settings, format=format)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _listen(settings: Settings, page: Page) -> Server:
    """A server at the address of its settings.

    Raises:
        BundleError: nobody can listen there, as when another process does.
    """
    try:
        return Server(settings, page)
    except (OSError, OverflowError) as error:
        where = f"{settings['host']}:{settings['port']}"
        raise BundleError(
            f"{where}: cannot listen there ({error}); --port chooses another"
        ) from None


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serve this bundle over HTTP.")
    parser.add_argument("--host", help="address to listen on, instead of that in server.json")
    parser.add_argument("--port", type=int, help="port to listen on; 0: any free one")
    parser.add_argument("--format", help="one of those in contract.json")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # how it starts its own
    parsed = parser.parse_args(arguments)
    folder = Path(FOLDER)
    if parsed.worker is not None:
        from runtime.worker import work  # type: ignore[import-not-found]

        work(parsed.worker, folder)
        return 0
    signal.signal(signal.SIGTERM, _stop)
    try:
        settings = load_settings(folder / "server.json", parsed.format)
        if parsed.host is not None:
            settings["host"] = parsed.host
        if parsed.port is not None:
            settings["port"] = parsed.port
        # Bound first: an address that is taken costs no loading of models.
        with (
            _listen(settings, Page(folder)) as server,
            contextlib.closing(_start_workers(settings)) as workers,
        ):
            server.workers = workers
            return _serve(server)
    except (BundleError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _start_workers(settings: Settings) -> Workers:
    isolated = ["-I"] if sys.flags.isolated else []
    return Workers([sys.executable, "-P", *isolated, __file__, "--worker"], settings)


def _serve(server: Server) -> int:
    address = f"{server.settings['host']}:{server.server_address[1]}"
    print(f"listening on http://{address}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    finally:
        server.drain()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
