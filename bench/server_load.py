"""Claim: whatever hostile clients send, a bundle's server answers the good ones, and in time.

Starts the server of a bundle on the loopback interface as it was exported, asks it what its
self-test holds, first alone, then beside clients that send images with thousands of scans, sounds
of 255 channels, bombs, malformed and oversized bodies, and bytes in drops. One JSON line: good
requests, those refused or answered wrongly, their times with and without hostile load, what
became of the hostile ones, and how often /health was right.

    python -m bench.server_load exports/vqa --seconds 600
"""

import argparse
import base64
import collections
import http.client
import io
import itertools
import json
import os
import platform
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from PIL import Image

from plumbline.export.runtime.model import agree

GOOD_CLIENTS, PAUSE_S = 4, 0.1
"""Each asks, waits for the answer, and then as long."""
HEALTH_S = 0.5
PATIENCE_S = 90.0


def scans(side: int, repeats: int) -> bytes:
    """A valid progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    at, parts = 2, []
    while data[at + 1] != 0xD9:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:
            while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
                end += 1
        parts.append((marker, data[at:end]))
        at = end
    last = max(i for i, (marker, _) in enumerate(parts) if marker == 0xDA)
    head = b"".join(part for _, part in parts[: last + 1])
    return b"\xff\xd8" + head + parts[last][1] * repeats + b"\xff\xd9"


def channels(count: int, seconds: int) -> bytes:
    """An OGG of silence in many channels: kilobytes that become gigabytes."""
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 192_000, count, format="OGG", subtype="VORBIS") as file:
        for _ in range(seconds):
            file.write(np.zeros((192_000, count), np.float32))
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that announces side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


def post(port: int, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of an answer; 0 where there is none."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/predict", body, sent)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError as error:
        return 0, type(error).__name__.encode()
    finally:
        connection.close()


def hostile_bodies(fields: dict[str, str]) -> dict[str, Callable[[int], bytes]]:
    """Name -> body number n; of what is slow, no two are alike."""

    def field(name: str, data: bytes) -> bytes:
        return json.dumps({name: base64.b64encode(data).decode()}).encode()

    bodies: dict[str, Callable[[int], bytes]] = {
        "malformed": lambda n: [b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"", b'{"x": 1}'][n % 6],
        "long_text": lambda n: json.dumps(dict.fromkeys(fields, "x" * 100_000 + str(n))).encode(),
        "oversized": lambda n: bytes(9 << 20),
    }
    if "image" in fields:
        slow, huge = scans(5000, 20_000), bomb(60_000)
        for name in ("scans", "more_scans"):
            bodies[name] = lambda n, name=name: field("image", slow + f"{name}{n}".encode())
        bodies["bomb"] = lambda n: field("image", huge)
    if "audio" in fields:
        loud = channels(255, 5)
        for name in ("channels", "more_channels"):
            bodies[name] = lambda n, name=name: field("audio", loud + f"{name}{n}".encode())
    return bodies


def drip(port: int, over: threading.Event) -> None:
    """A client that sends a byte now and then, until it is put out; again and again."""
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\n")
                while not over.wait(1.0):
                    connection.sendall(b"X-Drip: 1\r\n")
        except OSError:
            over.wait(0.1)


def children(pid: int) -> int:
    """Processes of the server that run."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found += int(parent) == pid and state != "Z"
    return found


def health_is_right(port: int, pid: int, most: int) -> bool:
    """Whether /health answers at once, and says what is so."""
    before = children(pid)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        state = json.loads(response.read())
    except OSError:
        return False
    finally:
        connection.close()
    up, busy = state["workers"], state["busy"]
    status = "ok" if up == most else "degraded"
    if busy >= up:
        status = "busy" if up else "down"
    known = up <= max(before, children(pid))  # one that still loads is there and answers not yet
    return known and state["status"] == status and response.status == (503 if up == 0 else 200)


class Load:
    """Clients that ask until they are told to stop, and what became of what they sent."""

    def __init__(self, port: int) -> None:
        self.port, self.over = port, threading.Event()
        self.times: list[float] = []
        self.refused: collections.Counter[str] = collections.Counter()
        self.hostile: dict[str, collections.Counter[int]] = {}
        self.health: collections.Counter[bool] = collections.Counter()
        self._threads: list[threading.Thread] = []

    def start(self, target: Callable[..., None], *arguments: Any) -> None:
        """Begin a client."""
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def good(self, samples: list[tuple[bytes, dict[str, Any]]]) -> None:
        """Ask what the self-test holds."""
        for body, expected in itertools.cycle(samples):
            if self.over.is_set():
                return
            began = time.monotonic()
            status, said = post(self.port, body)
            self.times.append(time.monotonic() - began)
            if status != 200 or not agree(expected, json.loads(said), 1e-3):
                self.refused[f"{status} {said[:80].decode(errors='replace').strip()}"] += 1
            self.over.wait(PAUSE_S)

    def bad(self, name: str, body: Callable[[int], bytes]) -> None:
        """Send what has to be refused, as fast as it is."""
        seen = self.hostile[name] = collections.Counter()
        for number in itertools.count():
            if self.over.is_set():
                return
            seen[post(self.port, body(number))[0]] += 1

    def watch(self, pid: int, most: int) -> None:
        """Compare /health with what is so."""
        while not self.over.wait(HEALTH_S):
            self.health[health_is_right(self.port, pid, most)] += 1

    def run(self, seconds: float) -> None:
        """Let the clients work for so long, and wait for their last answers."""
        self.over.wait(seconds)
        self.over.set()
        for thread in self._threads:
            thread.join()

    def figures(self) -> dict[str, Any]:
        """Of the good requests."""
        cuts = statistics.quantiles(self.times, n=100, method="inclusive")
        return {
            "requests": len(self.times),
            "refused": dict(self.refused),
            "refused_count": self.refused.total(),
            "p50_s": round(cuts[49], 4),
            "p99_s": round(cuts[98], 4),
            "max_s": round(max(self.times), 4),
        }


def good_samples(bundle: Path, fields: dict[str, str]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Bodies with the answers that are expected, from the self-test."""
    stored = json.loads((bundle / "selftest/selftest.json").read_bytes())
    for sample in stored["answers"]:
        request = {
            name: base64.b64encode((bundle / value).read_bytes()).decode()
            if fields[name] == "file"
            else value
            for name, value in sample["request"].items()
        }
        yield json.dumps(request).encode(), sample["answer"]


def measure(bundle: Path, seconds: float) -> dict[str, Any]:
    """Serve a copy of a bundle, alone and beside hostile clients."""
    command = [sys.executable, "-P", "server.py", "--port", "0"]
    server = subprocess.Popen(command, cwd=bundle, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found = re.search(r":(\d+)$", server.stderr.readline())
    if not found:
        raise SystemExit(f"{bundle}: its server does not start")
    port = int(found[1])
    threading.Thread(target=collections.deque, args=(server.stderr, 0), daemon=True).start()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        fields = json.loads(connection.makefile("rb").read().partition(b"\r\n\r\n")[2])["fields"]
    samples = list(good_samples(bundle, fields))
    bodies = hostile_bodies(fields)
    most = json.loads((bundle / "server.json").read_bytes())["max_concurrent"]
    loads = []
    for hostile in (False, True):
        load = Load(port)
        for _ in range(GOOD_CLIENTS):
            load.start(load.good, samples)
        load.start(load.watch, server.pid, most)
        if hostile:
            for name, body in bodies.items():
                load.start(load.bad, name, body)
            load.start(drip, port, load.over)
        load.run(seconds if hostile else seconds / 4)
        loads.append(load)
    server.terminate()
    alone, mixed = loads
    return {
        "bundle": bundle.name,
        "seconds": seconds,
        "fields": sorted(fields),
        "alone": alone.figures(),
        "mixed": mixed.figures(),
        "hostile_by_status": {name: dict(seen) for name, seen in mixed.hostile.items()},
        "health": {"right": mixed.health[True], "wrong": mixed.health[False]},
        "exit_code": server.wait(),
    }


def smoke_bundle(folder: Path) -> Path:
    """The bundle of the smoke preset, made in a checkout of its own."""
    from tests.pipeline.checkout import make_checkout

    checkout = make_checkout(folder / "checkout")
    checkout.run("dvc", "repro", "export_model@vqa")
    return checkout.folder / "exports/vqa"


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="without one a small one is made")
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or smoke_bundle(Path(folder))
        copy = Path(shutil.copytree(bundle, Path(folder) / bundle.name))
        result = measure(copy, options.seconds)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[2]}
    print(json.dumps({**result, **machine, "python": platform.python_version()}))


if __name__ == "__main__":
    main()
