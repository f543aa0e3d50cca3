"""The bundle's HTTP server: what it answers, and what it survives."""

import base64
import hashlib
import http.client
import io
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.export.runtime.model import agree
from plumbline.files import dump_json, read_json
from tests.export.opening import model_of

WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "torchvision", "transformers", "onnx", "safetensors", "plumbline"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SETTINGS = {"port": 0, "read_timeout_s": 1.5, "max_connections": 20, "max_body_bytes": 1 << 20}

JSON = {"Content-Type": "application/json"}


def start(bundle: Path, folder: Path, **settings: Any) -> tuple[subprocess.Popen[str], int]:
    """Run server.py in a copy of the bundle; the process and its port."""
    copy = Path(shutil.copytree(bundle, folder))
    values = {**read_json(copy / "server.json"), **settings}
    (copy / "server.json").write_text(dump_json(values), encoding="utf-8")
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH, "server.py"]
    process = subprocess.Popen(command, cwd=copy, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
    assert found, line
    return process, int(found[1])


@pytest.fixture(scope="module")
def port(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    process, port = start(bundle, tmp_path_factory.mktemp("server") / "bundle", **SETTINGS)
    yield port
    process.terminate()
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in log


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] = JSON,
    timeout: float = 10,
) -> tuple[int, dict[str, Any]]:
    """Send a request; the status and the one line of JSON that comes back."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert text.count("\n") == 1
    assert response.getheader("Server", "").strip() == "bundle"
    return response.status, json.loads(text)


def predict(port: int, image: bytes, **other: Any) -> tuple[int, dict[str, Any]]:
    body = {"image": base64.b64encode(image).decode(), **other}
    return ask(port, "POST", "/predict", json.dumps(body).encode())


def assert_alive(port: int) -> None:
    started = time.monotonic()
    assert ask(port, "GET", "/health")[0] == 200
    assert time.monotonic() - started < 1.0  # what is promised beside slow and idle clients


def test_it_answers_as_the_selftest_expects(port: int, bundle: Path) -> None:
    for sample in read_json(bundle / "selftest/selftest.json")["answers"]:
        request, expected = sample["request"], sample["answer"]
        image = (bundle / request["image"]).read_bytes()
        status, answer = predict(port, image, question=request["question"])
        assert (status, answer["answer"]) == (200, expected["answer"])
        assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-3)


def test_a_port_that_is_taken_is_named_with_the_remedy(port: int, bundle: Path) -> None:
    command = [sys.executable, "-I", "server.py", "--port", str(port)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: 127.0.0.1:{port}: cannot listen there")
    assert done.stderr.endswith("; --port chooses another\n")


def test_without_a_question_it_describes(port: int, bundle: Path) -> None:
    image = (bundle / "selftest/0.png").read_bytes()
    caption = predict(port, image, question="describe the image")
    assert predict(port, image) == caption
    assert predict(port, image, question=None) == caption


def test_answers_at_the_same_time_do_not_mix(port: int, bundle: Path) -> None:
    samples = read_json(bundle / "selftest/selftest.json")["answers"] * 4
    asked = [sample["request"] for sample in samples]
    images = {request["image"]: (bundle / request["image"]).read_bytes() for request in asked}
    with ThreadPoolExecutor(6) as pool:
        got = pool.map(
            lambda request: predict(port, images[request["image"]], question=request["question"]),
            asked,
        )
        assert [answer["answer"] for _, answer in got] == [s["answer"]["answer"] for s in samples]


def get(port: int, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200
    return response, body


def test_the_page_is_one_file_that_may_ask_this_server_alone(port: int) -> None:
    response, body = get(port, "/")
    html = body.decode()
    assert response.getheader("Content-Type") == "text/html; charset=utf-8"
    assert "<h1>A model that answers questions about images</h1>" in html
    assert "{{" not in html
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)\w|https?://|@import|url\(""", html)
    policy = str(response.getheader("Content-Security-Policy"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_samples_are_those_of_the_self_test_with_their_files(port: int, bundle: Path) -> None:
    samples = json.loads(get(port, "/samples")[1])
    stored = read_json(bundle / "selftest/selftest.json")["answers"]
    assert [sample["answer"] for sample in samples] == [known["answer"] for known in stored]
    for sample, known in zip(samples, stored, strict=True):
        assert sample["request"]["question"] == known["request"]["question"]
        response, body = get(port, f"/samples/{sample['request']['image']}")
        assert response.getheader("Content-Type") == "image/png"
        assert body == (bundle / known["request"]["image"]).read_bytes()


def test_health_names_the_model(port: int) -> None:
    status, health = ask(port, "GET", "/health")
    assert (status, health["status"], health["format"]) == (200, "ok", "onnx")
    assert health["fields"] == {"image": "file", "question": "text", "describe": "flag"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/samples/selftest.json", 404),
        ("GET", "/samples/../../server.json", 404),
        ("GET", "/runtime/page.html", 404),
        ("POST", "/", 405),
        ("POST", "/samples", 405),
        ("GET", "/../server.json", 404),
        ("GET", "/contract.json", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("GET", "//etc/passwd", 404),
        ("GET", "/predict", 405),
        ("POST", "/health", 405),
        ("PUT", "/predict", 501),
        ("DELETE", "/health", 501),
    ],
)
def test_there_are_four_routes_and_nothing_else(
    port: int, method: str, path: str, status: int
) -> None:
    assert ask(port, method, path)[0] == status


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"[]", JSON, 400),
        (b"{}", JSON, 400),
        (b'{"image": NaN}', JSON, 400),
        (b'{"image": "%%%"}', JSON, 400),
        (b'{"image": ""}', JSON, 400),
        (b'{"image": "aGVsbG8="}', JSON, 400),
        (b'{"image": "aGVsbG8=", "question": 3}', JSON, 400),
        (b'{"image": "aGVsbG8=", "path": "/etc/passwd"}', JSON, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b"{}", {}, 415),
        (b"{}", {**JSON, "Content-Length": "-1"}, 400),
        (b"{}", {**JSON, "Content-Length": "two"}, 400),
        (b"{}", {**JSON, "Content-Length": "9" * 5000}, 413),
        (b"0\r\n\r\n", {**JSON, "Transfer-Encoding": "chunked"}, 411),
        (b"{}", {**JSON, "X-Long": "x" * 70_000}, 431),
    ],
)
def test_a_bad_request_is_refused_in_one_line(
    port: int, body: bytes, headers: dict[str, str], status: int
) -> None:
    got, answer = ask(port, "POST", "/predict", body, headers)
    assert got == status
    assert set(answer) == {"error"}
    assert_alive(port)


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(port: int) -> None:
    announced = {**JSON, "Content-Length": str(1 << 40)}
    status, answer = ask(port, "POST", "/predict", b"x", announced)
    assert (status, answer["error"]) == (413, f"body of {1 << 40} bytes, allowed are {1 << 20}")
    assert ask(port, "POST", "/predict", bytes(3 << 20))[0] == 413


def test_a_client_that_waits_for_leave_gets_it_or_the_refusal(port: int) -> None:
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "
    for length, start_line in (("2", b"HTTP/1.1 100"), ("99999999", b"HTTP/1.1 413")):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"{head}{length}\r\n\r\n".encode())
            assert connection.recv(1000).startswith(start_line)


def png_bomb(side: int) -> bytes:
    """A small file that says that it holds side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    parts = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


@pytest.mark.parametrize("side", [6000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_quickly(port: int, side: int) -> None:
    started = time.monotonic()
    status, answer = predict(port, png_bomb(side))
    assert status == 413
    assert "pixels" in answer["error"]
    # What is promised; the largest would take 10.8 GB of pixels.
    assert time.monotonic() - started < 1.0


def test_an_extreme_image_gives_finite_numbers(port: int) -> None:
    for image in (Image.new("L", (3, 900), 255), Image.new("I;16", (1, 1), 65535)):
        status, answer = predict(port, tiff(image))
        assert status == 200
        assert 0.0 <= answer["confidence"] <= 1.0


def test_values_of_unknown_range_are_refused_and_never_shown_as_black(port: int) -> None:
    status, answer = predict(port, tiff(Image.new("F", (3, 900), 1e38)))
    assert status == 400
    assert "cannot be decoded" in answer["error"]


def tiff(image: Image.Image) -> bytes:
    """Encode as TIFF."""
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    return buffer.getvalue()


def test_idle_and_slow_clients_do_not_keep_others_waiting(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    slow = socket.create_connection(("127.0.0.1", port))
    slow.sendall(b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\n")
    for _ in range(4):
        assert_alive(port)
    started = time.monotonic()
    ended = False
    while not ended and time.monotonic() - started < 5.0:
        time.sleep(0.2)
        try:
            slow.sendall(b"X-Drip: 1\r\n")
            ended = slow.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            continue
        except ConnectionError:
            ended = True
    assert ended  # a drop at a time, and yet the whole request had its time
    for connection in (*idle, slow):
        connection.close()
    assert_alive(port)


def test_a_client_that_goes_away_harms_no_one(port: int) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            option = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\n")
    assert_alive(port)


@pytest.mark.parametrize("name", ["audio", "causal_lm_stream"])
def test_every_kind_is_served_by_its_own_fields(
    bundle_of: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    bundle = bundle_of(name)
    process, port = start(bundle, tmp_path / "bundle", port=0)
    try:
        sample = read_json(bundle / "selftest/selftest.json")["answers"][0]
        body = dict(sample["request"])
        if name == "audio":
            body["audio"] = base64.b64encode((bundle / body["audio"]).read_bytes()).decode()
        status, answer = ask(port, "POST", "/predict", json.dumps(body).encode())
        assert status == 200
        assert agree(sample["answer"], answer, 1e-3)
        for wrong in ({}, {"image": "aGVsbG8="}, dict.fromkeys(body, 3)):
            assert ask(port, "POST", "/predict", json.dumps(wrong).encode())[0] == 400
        assert ask(port, "GET", "/health")[1]["fields"] == model_of(bundle).task.fields
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 70_000}, "port = 70000: expected 0 to 65535"),
        ({"max_concurrent": 0}, "max_concurrent = 0: expected 1 to 1024"),
        ({"max_body_bytes": True}, "max_body_bytes = True: expected 1024 to 1.07374e+09"),
        ({"debug": True}, "its keys must be host, port,"),
        ({"host": None}, "host = None: expected an address"),
    ],
)
def test_wrong_settings_are_one_line_at_the_start(
    bundle: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    settings = {**read_json(copy / "server.json"), **change}
    (copy / "server.json").write_text(dump_json(settings), encoding="utf-8")
    command = [sys.executable, "server.py"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: server.json: {message}")
    assert done.stderr.count("\n") == 1


def test_the_default_is_the_loopback_interface(bundle: Path) -> None:
    assert read_json(bundle / "server.json")["host"] == "127.0.0.1"


def test_the_dockerfile_names_files_that_are_there_and_a_user_who_is_not_root(
    bundle: Path,
) -> None:
    text = (bundle / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    steps = [step for step in steps if step[0].isupper()]
    assert [value for name, value in steps if name == "USER"] == ["bundle"]
    assert steps[0] == ["FROM", "python:3.11-slim"]
    command = json.loads(next(value for name, value in steps if name == "CMD"))
    assert (bundle / command[1]).is_file()
    for source in (value.split()[0] for name, value in steps if name == "COPY"):
        assert (bundle / source).exists()
