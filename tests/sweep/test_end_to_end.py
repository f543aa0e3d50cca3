"""Sweeps through the real DVC queue, on a stand-in project with one cheap stage."""

import csv
import json
import re
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from plumbline.errors import ConfigError
from plumbline.sweep.queue import baseline_of
from tests.sweep.toy import FILES, Toy, make_toy

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

LOCK = f"""\
schema: '2.0'
stages:
  score:
    cmd: python score.py
    outs:
    - path: metrics.json
      md5: {"1" * 32}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    Toy(tmp_path).stop_workers()


def points_of(toy: Toy) -> list[dict[str, str]]:
    with (toy.folder / ".plumbline/sweeps/s/points.csv").open() as file:
        return list(csv.DictReader(file))


def kill_after(toy: Toy, ended: int, also: str) -> None:
    """Start the sweep and kill it when `ended` points have ended."""
    sweep = toy.start_sweep("s")
    assert sweep.stdout is not None
    for line in sweep.stdout:
        if line.startswith(f"[{ended}/"):
            break
    else:
        raise AssertionError(f"the sweep ended with {sweep.wait()}")
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    if also == "nothing":
        return
    # One more point may be on its way into the queue: a run shall be hit while it works.
    deadline = time.monotonic() + 30
    while len(toy.ran()) == ended and time.monotonic() < deadline:
        time.sleep(0.1)
    toy.stop_workers(with_runs=also == "workers and runs")


SEEN = """\
import json, os, time
from pathlib import Path
from omegaconf import OmegaConf
params = OmegaConf.load("params.yaml")
root = Path(os.environ["DVC_ROOT"])
begun = time.time()
time.sleep(1.0)
Path("model.json").write_text(json.dumps({"value": params.x}))
row = [os.environ.get("CUDA_VISIBLE_DEVICES"), begun, time.time()]
with (root / "ran.log").open("a") as log:
    print(json.dumps(row), file=log)
"""
SLOTTED = """\
space:
  x: {choice: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
metric: model.json:value
direction: maximize
sampler: grid
jobs: 2
slots: [3, "5,6"]
targets: [fit]
"""


@pytest.mark.slow
def test_runs_at_the_same_time_share_no_gpu(folder: Path) -> None:
    dag = FILES["dvc.yaml"].replace("model", "model.json")
    make_toy(folder, SLOTTED, {"fit.py": SEEN, "dvc.yaml": dag}).sweep("s")
    log = (folder / "ran.log").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    assert len(rows) == 6
    assert {gpus for gpus, _, _ in rows} == {"3", "5,6"}
    for slot in ("3", "5,6"):
        times = sorted((begun, ended) for gpus, begun, ended in rows if gpus == slot)
        assert all(first[1] <= then[0] for first, then in pairwise(times))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("points", "ended", "also"),
    [(12, 5, "nothing"), (12, 5, "workers"), (12, 5, "workers and runs")],
)
def test_a_killed_sweep_goes_on_with_what_is_left(
    folder: Path, points: int, ended: int, also: str
) -> None:
    toy = make_toy(folder, ADAPTIVE.replace("POINTS", str(points)))
    kill_after(toy, ended, also)
    finished = toy.ran()[:ended]
    output = toy.sweep("s").stdout

    told = re.findall(r"^\[\d+/\d+\] point (\d+)", output, flags=re.MULTILINE)
    assert [int(number) for number in told] == list(range(ended + 1, points + 1))
    ran = toy.ran()
    assert len(set(ran)) == points
    assert not set(finished) & set(ran[ended:])
    # The run that was killed at work begins twice; one that lost its worker is found in the cache.
    assert len(ran) <= points + (also == "workers and runs")
    assert [row["state"] for row in points_of(toy)] == ["complete"] * points

    assert "0 runs were queued" in toy.sweep("s").stdout
    assert toy.ran() == ran


GRID = """\
space: {x: {choice: [0.3, 0.35, 0.9, 5.0]}}
metric: model/best.json:loss
direction: minimize
sampler: grid
overrides: [fail_above=1.0, optim=sgd, sleep_s=0.1]
targets: [fit]
prune: {stage: fit, after_points: 2, after_values: 1}
"""


@pytest.mark.slow
def test_runs_that_fail_or_have_no_hope_do_not_stop_the_others(folder: Path) -> None:
    # The run at 0.9 would take a minute and a half: it ends because it is stopped.
    slow = FILES["fit.py"].replace("params.sleep_s", "(30 if params.x == 0.9 else 0)")
    toy = make_toy(folder, GRID, {"fit.py": slow})
    done = toy.sweep("s", check=False)
    assert done.returncode == 1
    assert "error: 1 of 4 points failed, the first with: x is too large (dvc queue logs s-" in (
        done.stderr
    )
    table = points_of(toy)
    assert [row["state"] for row in table] == ["complete", "complete", "pruned", "failed"]
    # A file of a cached out; a failed row shows the baseline's figure in DVC, but has none here.
    assert [row["mean"] for row in table[2:]] == ["", ""]
    assert float(table[0]["mean"]) == pytest.approx(0.95, abs=1e-12)
    assert not [p for p in toy.running() if "fit.py" in " ".join(p.cmdline())]

    ran = toy.ran()
    again = toy.sweep("s", check=False)
    assert again.returncode == 1
    assert "0 runs were queued" in again.stdout
    retried = toy.sweep("s", "--retry-failed", check=False)
    assert "1 runs were queued" in retried.stdout
    assert toy.ran() == [*ran, ran[-1]]

    kept = (folder / "conf/experiment/s_best.yaml").read_text(encoding="utf-8")
    assert "override /optim: sgd" in kept
    # The winner's experiment is the winner's run: nothing is computed again.
    toy.run("dvc", "exp", "run", "-S", "experiment=s_best", "fit")
    assert toy.ran() == [*ran, ran[-1]]


def test_what_stages_wrote_is_no_modification(folder: Path) -> None:
    """As after `dvc repro` on a machine of another type than the record's."""
    toy = make_toy(folder, ADAPTIVE.replace("POINTS", "4"))
    (folder / "dvc.lock").write_text(LOCK, encoding="utf-8")
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    toy.run("git", "add", "-A")
    toy.run("git", "commit", "-qm", "Record")
    (folder / "dvc.lock").write_text(LOCK.replace("1" * 32, "2" * 32), encoding="utf-8")
    (folder / "metrics.json").write_text('{"score": {"value": 0.5}}', encoding="utf-8")
    assert baseline_of(folder) == toy.run("git", "rev-parse", "HEAD").stdout.strip()
    (folder / "params.yaml").write_text("x: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^params\.yaml: modified; a sweep compares"):
        baseline_of(folder)


def test_a_modified_checkout_is_refused(folder: Path) -> None:
    toy = make_toy(folder, ADAPTIVE.replace("POINTS", "4"))
    (folder / "fit.py").write_text(FILES["fit.py"] + "\n", encoding="utf-8")
    done = toy.sweep("s", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: fit.py: modified; a sweep compares runs of one commit")
    assert len(done.stderr.splitlines()) == 1
    assert toy.ran() == []
