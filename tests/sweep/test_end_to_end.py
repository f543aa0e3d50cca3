"""Sweeps through the real DVC queue, on a stand-in project with one cheap stage."""

import csv
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.toy import Toy, make_toy

ADAPTIVE = """\
space:
  x: {low: 0.0, high: 1.0}
  optim.lr: {low: 1.0e-3, high: 1.0, log: true}
metric: metrics.json:score.value
direction: maximize
sampler: tpe
startup_points: 2
points: POINTS
targets: [score]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    Toy(tmp_path).stop_workers()


def points_of(toy: Toy) -> list[dict[str, str]]:
    with (toy.folder / ".plumbline/sweeps/s/points.csv").open() as file:
        return list(csv.DictReader(file))


def kill_after(toy: Toy, ended: int, *, workers: bool) -> list[str]:
    """Start the sweep, kill it when `ended` points have ended; what has run by then, at rest."""
    sweep = toy.start_sweep("s")
    assert sweep.stdout is not None
    for line in sweep.stdout:
        if line.startswith(f"[{ended}/"):
            break
    else:
        raise AssertionError(f"the sweep ended with {sweep.wait()}")
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    if workers:
        toy.stop_workers()
    # What the queue holds runs on without the command.
    deadline = time.monotonic() + 60
    while toy.workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    return toy.ran()


@pytest.mark.parametrize(
    ("points", "ended", "workers"),
    [
        pytest.param(4, 2, True, id="4-points-killed-with-workers"),
        pytest.param(12, 5, False, id="12-points", marks=pytest.mark.slow),
        pytest.param(12, 5, True, id="12-points-killed-with-workers", marks=pytest.mark.slow),
    ],
)
def test_a_killed_sweep_goes_on_with_what_is_left(
    folder: Path, points: int, ended: int, workers: bool
) -> None:
    toy = make_toy(folder, ADAPTIVE.replace("POINTS", str(points)))
    before = kill_after(toy, ended, workers=workers)
    assert ended <= len(set(before)) <= ended + 1  # one more may have been under way
    output = toy.sweep("s").stdout

    assert f"[{points}/{points}]" in output
    ended_now = re.findall(r"^\[\d+/\d+\] point (\d+)", output, flags=re.MULTILINE)
    assert [int(n) for n in ended_now] == list(range(ended + 1, points + 1))
    assert len(set(toy.ran())) == points
    # No finished point ran twice; only one that was killed under way may have begun twice.
    assert len(toy.ran()) <= points + (1 if workers else 0)
    assert [row["state"] for row in points_of(toy)] == ["complete"] * points

    again = toy.sweep("s").stdout
    assert "0 runs were queued" in again
    assert len(set(toy.ran())) == points
