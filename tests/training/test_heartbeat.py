"""Nodes of a training that fall silent are missed; those that are done, or slow, are not."""

import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore

from plumbline.training import heartbeat
from plumbline.training.heartbeat import _Watch, watching_nodes


class Lost(BaseException):
    """What ends a process, in the place of its end."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store of torchrun, on the first of two nodes, of which this process is one."""
    found = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(found.port))
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    monkeypatch.setattr(heartbeat, "LOST_S", 0.5)
    return found


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Codes with which a watch would have ended its process."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Lost

    monkeypatch.setattr(os, "_exit", end)
    return codes


def run(watch: _Watch) -> list[threading.Thread]:
    def look() -> None:
        with suppress(Lost):
            watch.look()

    threads = [threading.Thread(target=part, daemon=True) for part in (watch.talk, look)]
    for thread in threads:
        thread.start()
    return threads


def test_a_node_that_falls_silent_ends_the_other_with_one_line(
    store: TCPStore, ends: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = _Watch(0, 2), _Watch(1, 2)
    threads = run(one), run(two)
    time.sleep(1.0)
    assert ends == []
    assert int(store.get("heartbeat/node 0")) > 5
    assert int(store.get("heartbeat/node 1")) > 5
    two.stop.set()  # as if its machine were gone: no word that it is done
    for thread in threads[1]:
        thread.join()
    threads[0][1].join(10)
    one.stop.set()
    assert ends == [1]
    (line,) = caplog.messages
    assert "node 1 of this training has not been heard of" in line
    assert "The last checkpoint stands" in line


def test_a_node_that_is_done_is_not_missed(store: TCPStore, ends: list[int]) -> None:
    with watching_nodes():
        other = _Watch(1, 2)
        other._tell("done")
        time.sleep(1.2)
        counted = store.get("heartbeat/node 0")
    assert ends == []
    assert int(counted) > 5
    assert store.get("heartbeat/node 0") == b"done"


def test_a_node_that_fails_does_not_say_that_it_is_done(store: TCPStore, ends: list[int]) -> None:
    def fail() -> None:
        with watching_nodes():
            time.sleep(0.2)
            raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        fail()
    assert store.get("heartbeat/node 0") != b"done"


@pytest.mark.parametrize("waits_s", [0.0, 10**6])
def test_the_node_that_holds_the_store_is_missed_like_any_other(
    monkeypatch: pytest.MonkeyPatch, store: TCPStore, ends: list[int], waits_s: float
) -> None:
    """Its connections are reset, or nothing ever answers."""
    began = time.monotonic()
    watch = _Watch(1, 2)

    def gone(*_: Any) -> None:
        time.sleep(waits_s)
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(watch, "_store", type("Gone", (), {"set": gone, "check": gone})())
    run(watch)[1].join(10)
    watch.stop.set()
    assert ends == [1]
    assert time.monotonic() - began == pytest.approx(2.5, abs=2)


@pytest.mark.parametrize(("nodes", "local"), [("1", "0"), ("2", "1")])
def test_one_machine_and_further_processes_of_a_machine_watch_nothing(
    monkeypatch: pytest.MonkeyPatch, store: TCPStore, nodes: str, local: str
) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", nodes)
    monkeypatch.setenv("LOCAL_RANK", local)
    store.set_timeout(timedelta(seconds=1))
    before = threading.active_count()
    with watching_nodes():
        assert threading.active_count() == before
    assert not store.check(["heartbeat/node 0"])
