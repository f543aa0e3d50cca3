"""The processes that answer for the bundle's server: late, dead, hungry, and what others notice."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plumbline.files import write_digests
from tests.export.test_server import ask, start

BundleOf = Callable[..., Path]

TRICKS = '''
import os, sys, time

_inputs = HeadedTask.inputs


def _tricked(self, request):
    """Do what the text says, as a decoder might that meets hostile bytes."""
    word, _, rest = request["text"].partition(" ")
    if word == "spin":
        while True:
            pass
    if word == "sleep":
        time.sleep(float(rest))
    if word == "die":
        os.kill(os.getpid(), 9)
    if word == "eat":
        return bytearray(int(rest))
    if word == "shout":
        os.write(2, b"from a library\\\\n")
    if word == "torch":
        raise InputError(repr("torch" in sys.modules))
    if word == "pid":
        raise InputError(str(os.getpid()))
    return _inputs(self, request)


HeadedTask.inputs = _tricked
'''


@pytest.fixture(scope="module")
def tricky(bundle_of: BundleOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose task spins, sleeps, eats memory or dies where the text says so."""
    out = tmp_path_factory.mktemp("tricky") / "bundle"
    shutil.copytree(bundle_of("text"), out)
    with (out / "runtime/headed.py").open("a", encoding="utf-8") as file:
        file.write(TRICKS)
    write_digests(out)
    return out


@contextmanager
def served(bundle: Path, folder: Path, **settings: Any) -> Iterator[tuple[Any, int]]:
    """A server of the bundle, which has to end well."""
    values = {"port": 0, "max_concurrent": 2, "answer_timeout_s": 1.0, **settings}
    process, port = start(bundle, folder / "copy", **values)
    try:
        yield process, port
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "from a library" not in log


def say(port: int, text: str) -> tuple[int, dict[str, Any]]:
    return ask(port, "POST", "/predict", json.dumps({"text": text}).encode(), timeout=60)


def health(port: int) -> dict[str, Any]:
    return ask(port, "GET", "/health")[1]


def until(port: int, **wanted: Any) -> dict[str, Any]:
    """Wait for a state; what /health says then."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        state = health(port)
        if all(state[name] == value for name, value in wanted.items()):
            return state
        time.sleep(0.05)
    raise AssertionError(f"never came: {wanted}; the last state is {state}")


def pids(port: int, count: int) -> set[int]:
    """The processes that answer."""
    found: set[int] = set()
    end = time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        with ThreadPoolExecutor(count) as pool:
            found |= {
                int(answer["error"])
                for _, answer in pool.map(lambda at: say(port, f"pid {at}"), range(count))
            }
    return found


def test_an_answer_that_is_late_is_ended_and_its_worker_replaced(
    tricky: Path, tmp_path: Path
) -> None:
    with served(tricky, tmp_path) as (_, port):
        assert until(port, status="ok", workers=2, busy=0, restarts=0)["waiting"] == 0
        assert say(port, "spin") == (504, {"error": "no answer within 1 s"})
        assert say(port, "sleep 30") == (504, {"error": "no answer within 1 s"})
        assert say(port, "to be")[0] == 200
        until(port, status="ok", workers=2, busy=0, restarts=2)


def test_health_tells_who_is_at_work(tricky: Path, tmp_path: Path) -> None:
    with (
        served(tricky, tmp_path, answer_timeout_s=4.0) as (_, port),
        ThreadPoolExecutor(3) as pool,
    ):
        first = pool.submit(say, port, "sleep 2")
        assert until(port, busy=1)["status"] == "ok"
        others = [pool.submit(say, port, f"sleep 2.{at}") for at in range(2)]
        assert until(port, busy=2, waiting=1)["status"] == "busy"
        assert [f.result()[0] for f in (first, *others)] == [200, 200, 200]
        until(port, status="ok", busy=0, waiting=0, restarts=0)


def test_more_late_requests_than_workers_keep_no_good_one_from_its_answer(
    tricky: Path, tmp_path: Path
) -> None:
    with (
        served(tricky, tmp_path, answer_timeout_s=0.5) as (_, port),
        ThreadPoolExecutor(16) as pool,
    ):
        late = [pool.submit(say, port, f"spin {at}") for at in range(8)]
        good = [pool.submit(say, port, f"to be {at}") for at in range(8)]
        assert [future.result()[0] for future in good] == [200] * 8
        assert [future.result()[0] for future in late] == [504] * 8


def test_a_request_that_was_late_twice_is_not_tried_a_third_time(
    tricky: Path, tmp_path: Path
) -> None:
    with served(tricky, tmp_path, answer_timeout_s=0.5) as (_, port):
        assert [say(port, "spin")[1]["error"] for _ in range(2)] == ["no answer within 0.5 s"] * 2
        status, answer = say(port, "spin")
        assert (status, answer["error"]) == (504, "ended its worker twice; not tried for 60 s")
        assert say(port, "spin ")[1]["error"] == "no answer within 0.5 s"
        until(port, restarts=3, status="ok")


def test_a_worker_that_is_killed_loses_one_request_and_no_other(
    tricky: Path, tmp_path: Path
) -> None:
    with served(tricky, tmp_path, max_concurrent=1) as (_, port):
        assert say(port, "die")[0] == 503
        assert say(port, "to be")[0] == 200
        assert until(port, status="ok")["restarts"] == 1
        (worker,) = pids(port, 1)
        os.kill(worker, signal.SIGKILL)  # while it has nothing to do
        until(port, status="ok", restarts=2)
        assert say(port, "to be")[0] == 200
        assert pids(port, 1) != {worker}


def test_memory_beyond_the_limit_is_refused_and_the_worker_lives(
    tricky: Path, tmp_path: Path
) -> None:
    with served(tricky, tmp_path, max_concurrent=1, answer_memory_bytes=1 << 28) as (_, port):
        before = pids(port, 1)
        status, answer = say(port, f"eat {1 << 29}")
        assert status == 413
        assert "answer_memory_bytes" in answer["error"]
        assert say(port, "to be")[0] == 200
        assert pids(port, 1) == before


def test_without_a_worker_health_says_so_until_there_is_one(tricky: Path, tmp_path: Path) -> None:
    settings = {"max_concurrent": 1, "queue_timeout_s": 0.2}
    with served(tricky, tmp_path, **settings) as (_, port):
        dockerfile = (tricky / "Dockerfile").read_text(encoding="utf-8")
        found = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])\n", dockerfile, re.DOTALL)
        assert found
        check = [word.replace("8080", str(port)) for word in json.loads(found[1])]
        check[0] = sys.executable
        assert subprocess.run(check, check=False).returncode == 0
        contract = tmp_path / "copy/contract.json"
        contract.rename(tmp_path / "aside")
        assert say(port, "die")[0] == 503
        until(port, status="down", workers=0)
        assert ask(port, "GET", "/health")[0] == 503
        assert subprocess.run(check, check=False, capture_output=True).returncode != 0
        assert say(port, "to be") == (503, {"error": "busy; try again later"})
        (tmp_path / "aside").rename(contract)
        until(port, status="ok", workers=1)
        assert say(port, "to be")[0] == 200


def test_what_libraries_write_stays_out_of_the_log_and_torch_out_of_the_worker(
    tricky: Path, tmp_path: Path
) -> None:
    with served(tricky, tmp_path) as (_, port):
        assert say(port, "shout")[0] == 200
        assert say(port, "torch") == (400, {"error": "False"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_server(tricky: Path, tmp_path: Path, number: int) -> None:
    process, port = start(tricky, tmp_path / "copy", port=0, max_concurrent=2)
    workers = pids(port, 2)
    assert len(workers) == 2
    process.send_signal(number)
    _, log = process.communicate(timeout=60)  # ends when the last holder of stderr has ended
    assert process.returncode == {signal.SIGTERM: 0, signal.SIGINT: 130}.get(number, -number)
    assert "Traceback" not in log
    for worker in workers:
        assert not Path(f"/proc/{worker}/cmdline").exists() or not (
            Path(f"/proc/{worker}/cmdline").read_bytes()
        )


def test_a_spinning_worker_ends_although_its_server_was_killed(
    tricky: Path, tmp_path: Path
) -> None:
    process, port = start(tricky, tmp_path / "copy", port=0, max_concurrent=1, answer_timeout_s=1.0)
    (worker,) = pids(port, 1)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(say, port, "spin")
        until(port, busy=1)
        process.kill()
        with pytest.raises(ConnectionError):
            lost.result()
    process.communicate(timeout=60)
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}/stat").exists() and time.monotonic() < end:
        if Path(f"/proc/{worker}/stat").read_text(encoding="utf-8").split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{worker}/stat").exists()


def test_what_is_being_answered_is_answered_after_a_call_to_stop(
    tricky: Path, tmp_path: Path
) -> None:
    process, port = start(tricky, tmp_path / "copy", port=0, answer_timeout_s=20.0)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(say, port, "sleep 1")
        until(port, busy=1)
        process.terminate()
        assert answer.result()[0] == 200
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_damaged_bundle_is_one_line_at_the_start(tricky: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tricky, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes(b"nothing")
    done = subprocess.run(
        [sys.executable, "server.py", "--port", "0"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: model.onnx: its bytes changed after export (SHA-256 differs)\n"
