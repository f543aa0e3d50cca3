"""The live view: the project's runs at an address that is said, and what is not in it yet."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from plumbline.tracking import live_view
from plumbline.tracking.forwarder import NICENESS
from plumbline.tracking.forwarder_state import waiting
from plumbline.tracking.forwarders import ensure_forwarder
from plumbline.tracking.live_view import say_what_waits
from plumbline.tracking.mlflow_store import address_of
from plumbline.tracking.record import record_run
from plumbline.tracking.trackers import TRACKERS

MLFLOW = TRACKERS["mlflow"]
BOUND_S = 120.0
"""In which a record is in MLflow on a machine whose every core has two other things to do."""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout as the working folder, with tracking off."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")
    return tmp_path


def write_run() -> None:
    with record_run(stage="finetune", key="vqa", config={"seed": 0}) as run:
        run.metrics(1, {"loss": 0.5})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_records_that_wait_are_counted_and_whoever_copies_them_is_named(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = address_of(checkout)
    assert say_what_waits(checkout, address) == 0
    assert capsys.readouterr().out == "all run records are in it\n"
    write_run()
    assert say_what_waits(checkout, address) == 1
    said = capsys.readouterr().out
    assert said == f"1 run record is not in it yet; nobody copies them ({MLFLOW.log})\n"
    write_run()
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(checkout,))
    holder.start()
    try:
        until = time.monotonic() + 30
        while not (checkout / "held").exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert say_what_waits(checkout, address) == 2
    finally:
        holder.kill()
        holder.join()
    assert capsys.readouterr().out.startswith(
        f"2 run records are not in it yet; process {holder.pid} copies them"
    )


def _hold(checkout: Path) -> None:
    """Be a forwarder that is at work."""
    import fcntl

    with (checkout / MLFLOW.lock).open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        (checkout / "held").touch()
        time.sleep(60)


def test_a_port_that_is_taken_is_said_with_another_one(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = f"port {port} of 127.0.0.1 is taken: make mlflow PORT={port + 1}"
        serving = live_view.serving(checkout, "sqlite:///none.db", port)
        with pytest.raises(live_view.ConfigError, match=re.escape(said)), serving:
            raise AssertionError


def started(code: str) -> "subprocess.Popen[bytes]":
    """A process that stands for a server, in a session of its own as one is."""
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def test_a_server_that_ends_before_it_answers_is_said_with_its_log(checkout: Path) -> None:
    server = started("raise SystemExit(3)")
    with pytest.raises(live_view.ConfigError, match=r"^mlflow server ended; .*x\.log says why$"):
        live_view._await(server, free_port(), checkout / "x.log")


def test_one_that_never_answers_is_waited_for_no_longer_than_said(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "STARTUP_S", 1.0)
    server = started("import time; time.sleep(600)")
    try:
        with pytest.raises(live_view.ConfigError, match="has not answered within 1 s"):
            live_view._await(server, free_port(), checkout / "x.log")
    finally:
        live_view._end(server)
    assert server.returncode == -signal.SIGTERM


def test_a_server_that_does_not_hear_is_killed_with_what_it_started(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "_END_S", 0.5)
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); pid = os.fork(); "
        "pid and open('child', 'w').write(str(pid)); time.sleep(600)"
    )
    server = started(code)
    until = time.monotonic() + 30
    while not (checkout / "child").exists() or not (checkout / "child").read_text(encoding="utf-8"):
        assert time.monotonic() < until
        time.sleep(0.02)
    child = int((checkout / "child").read_text(encoding="utf-8"))
    live_view._end(server)
    assert server.returncode == -signal.SIGKILL
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until + 30
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore")  # those of mlflow's own database code
def test_a_page_says_its_address_and_what_waits_until_it_is_ended(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is a stand-in here, which Ctrl-C ends; the real one has a test of its own."""
    write_run()
    opened: list[str] = []

    class Ended:
        def wait(self) -> None:
            raise KeyboardInterrupt

    @contextmanager
    def serving(root: Path, address: str, port: int) -> Iterator[Ended]:
        assert (root, address) == (checkout, f"sqlite:///{checkout}/mlflow.db")
        yield Ended()

    monkeypatch.setattr(live_view, "serving", serving)
    monkeypatch.setattr(live_view.webbrowser, "open", opened.append)
    live_view.main(["--port", "5123"])
    lines = capsys.readouterr().out.splitlines()
    page = r"http://127\.0\.0\.1:5123/#/experiments/\d+/runs"
    assert re.fullmatch(rf"runs of {checkout.name} \(experiment plumbline\): {page}", lines[0])
    assert [bool(re.fullmatch(page, address)) for address in opened] == [True]
    assert lines[-3:] == ["all run records are in it", "Ctrl-C ends it", ""]
    assert waiting(checkout, MLFLOW, address_of(checkout)) == []


def test_the_forwarder_leaves_stages_the_most_and_itself_a_quarter_of_a_core() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from plumbline.tracking import forwarder as f; import os\n"
            "before = os.nice(0); f._step_back(); print(os.nice(0) - before)",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(live_view.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == NICENESS
    # Weights of the kernel's scheduler, of the forwarder and of a thread that does not step back.
    # Source: Linux, kernel/sched/core.c, sched_prio_to_weight.
    weights = {0: 1024, 5: 335, 19: 15}
    assert weights[NICENESS] / (weights[NICENESS] + weights[0]) > 0.2


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


@pytest.mark.slow
def test_on_a_busy_machine_records_arrive_within_a_bound(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_FORWARDER_IDLE_S", "1")
    write_run()
    began = time.monotonic()
    with busy(2 * len(os.sched_getaffinity(0))):
        pid = ensure_forwarder(checkout, "mlflow", MLFLOW)
        assert pid is not None
        try:
            while waiting(checkout, MLFLOW, address_of(checkout)):
                assert time.monotonic() - began < BOUND_S
                time.sleep(0.2)
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
    print(f"{time.monotonic() - began:.1f} s")


def runs_of(address: str, experiment: str) -> set[str]:
    """The names of an experiment's runs, as the page asks for them."""
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": [experiment]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return {run["info"]["run_name"] for run in found.get("runs", [])}


@pytest.mark.slow
def test_the_page_shows_the_runs_of_the_project_with_one_worker(checkout: Path) -> None:
    write_run()
    port = free_port()
    command = [sys.executable, "-u", "-m", "plumbline.tracking.live_view", "--no-browser"]
    view = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(live_view.__file__).parents[2])},
    )
    assert view.stdout is not None
    lines: list[str] = []
    try:
        while not lines or lines[-1] != "Ctrl-C ends it":
            line = view.stdout.readline()
            assert line, lines
            lines.append(line.rstrip())
        found = re.fullmatch(
            rf"runs of {checkout.name} \(experiment plumbline\): "
            rf"(http://127\.0\.0\.1:{port})/#/experiments/(\d+)/runs",
            lines[0],
        )
        assert found, lines
        assert "all run records are in it" in lines
        assert "finetune@vqa" in runs_of(found[1], found[2])
        with urllib.request.urlopen(found[1], timeout=60) as page:
            assert b"MLflow" in page.read()
        (server,) = psutil.Process(view.pid).children()
        assert [process for process in server.children(recursive=True) if _serves(process)] == []
    finally:
        view.send_signal(signal.SIGINT)
        assert view.wait(60) == 0
    assert not psutil.pid_exists(server.pid)


def _serves(process: psutil.Process) -> bool:
    """Whether a process below the server is a worker beside the one that it has."""
    return "multiprocessing.spawn" in " ".join(process.cmdline())
