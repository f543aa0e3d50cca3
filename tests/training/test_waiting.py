"""No wait for data or for another process is without end, and a signal ends each.

What hangs here does so for ever, so a test that would wait with it never ends: no bound by a clock.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.batch import Batch, Sample
from plumbline.errors import TrainingError
from plumbline.loading.loader import Loader, SampleSource
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.workers import LoaderError
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.processes import Processes
from plumbline.training.trainer import Trainer
from tests.training.conftest import Toy, collate
from tests.training.together import run_together

ROOT = Path(__file__).resolve().parents[2]
FOREVER_S = 10**6
RUN = {"epochs": 3, "grad_accum_steps": 2, "checkpoint": {"every_steps": 100}}


class Acting:
    """Samples of another source; something is done before one of them is read in some epoch."""

    def __init__(self, source: SampleSource, at: int, act: Callable[[], None]) -> None:
        self._source, self._at, self._act = source, at, act

    def __len__(self) -> int:
        return len(self._source)

    def sample(self, index: int, epoch: int) -> Sample:
        if index == self._at:
            self._act()
        return self._source.sample(index, epoch)


def trainer_of(toy: Toy, **settings: Any) -> Trainer:
    return toy.trainer(toy.regressor(dropout=0.4), **{**RUN, **settings})


def act_at(loader: Loader | None, at: int, act: Callable[[], None], **settings: Any) -> None:
    """Have the reading of sample `at` act, with other settings of the loader."""
    assert loader is not None
    loader.source = Acting(loader.source, at, act)
    loader._config = LoaderConfig(**{"batch_size": 4, **settings})


def ending(trainer: Trainer) -> dict[str, Any]:
    result = trainer.fit()
    weights = {n: t.tolist() for n, t in trainer.model.state_dict().items()}
    return {"weights": weights, "history": vars(result.history), "best": vars(result.best)}


def ask_to_stop(number: int) -> Callable[[], None]:
    """Send a signal to the training from wherever a sample is read, and give no sample."""
    training, sent = os.getpid(), Path(f"/proc/{os.getpid()}")

    def act() -> None:
        assert sent.exists()
        os.kill(training, number)
        time.sleep(FOREVER_S)

    return act


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("part", ["train", "validation", "validation within an epoch"])
def test_a_signal_ends_the_wait_for_data_and_saves_the_state_of_the_last_step(
    make_toy: Callable[[], Toy], workers: int, number: signal.Signals, part: str
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("it is ignored here, as under nohup: nothing would end the wait")
    settings = {"validate_every_steps": 2} if part == "validation within an epoch" else {}
    toy = make_toy()
    trainer = trainer_of(toy, **settings)
    loader = trainer._train if part == "train" else trainer._validation.loader
    act_at(loader, 5, ask_to_stop(number), workers=workers)
    with pytest.raises(SystemExit) as ended:
        trainer.fit()
    assert ended.value.code == 128 + number
    latest = CheckpointStore(toy.folder, "").latest()
    assert trainer.progress.clock.micro_step > 0 or part == "train"
    assert latest is not None
    assert latest.name == f"step-{trainer.progress.clock.micro_step}"
    assert ending(trainer_of(toy, **settings)) == ending(trainer_of(make_toy(), **settings))


def test_loader_processes_leave_a_signal_to_the_training(toy: Toy) -> None:
    # That of a terminal that closes, or of a job's end, comes to all processes at once.
    def end_oneself() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)

    trainer = trainer_of(toy)
    act_at(trainer._train, 5, end_oneself, workers=2)
    assert trainer.fit().clock.epoch == 3


def test_a_signal_right_behind_a_fork_leaves_no_loader_process(
    make_toy: Callable[[], Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new process is on no list yet when it comes."""
    forked: list[int] = []
    fork = os.fork

    def fork_and_ask() -> int:
        pid = fork()
        if pid:
            forked.append(pid)
            os.kill(os.getpid(), signal.SIGTERM)
        return pid

    trainer = trainer_of(make_toy())
    trainer._train._config = LoaderConfig(batch_size=4, workers=2)
    monkeypatch.setattr(os, "fork", fork_and_ask)
    with pytest.raises(SystemExit) as ended:
        trainer.fit()
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(forked) == 2
    assert [pid for pid in forked if Path(f"/proc/{pid}").exists()] == []


def test_loader_processes_that_stand_still_end_the_training_in_one_line(toy: Toy) -> None:
    trainer = trainer_of(toy)
    act_at(trainer._train, 5, lambda: time.sleep(FOREVER_S), workers=2, timeout_s=0.5)
    threads = threading.active_count()
    with pytest.raises(LoaderError) as caught:
        trainer.fit()
    assert str(caught.value) == (
        "loader: none of the 2 loader processes has read a sample for 0.5 s (loader.timeout_s); "
        "look at the disk or the network that the data comes from, or raise it, then run again: "
        "the training goes on from its last state"
    )
    latest = CheckpointStore(toy.folder, "").latest()
    assert latest is not None
    assert latest.name == f"step-{trainer.progress.clock.micro_step}"
    assert threading.active_count() == threads


def test_slow_samples_are_no_fault_however_long_a_batch_takes(toy: Toy) -> None:
    class Slow(Acting):
        def sample(self, index: int, epoch: int) -> Sample:
            time.sleep(0.1)
            return self._source.sample(index, epoch)

    source = Slow(toy.points(20), -1, lambda: None)
    config = LoaderConfig(batch_size=20, workers=1, timeout_s=1.0)  # the batch takes two seconds
    (batch,) = Loader(source, collate, config, seed=0, shuffle=True).batches(0)
    assert len(batch["sample_index"]) == 20


class Unsendable:
    """What cannot be handed over, for the reason that a small /dev/shm or a limit would give."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "give /dev/shm more room (docker run --shm-size), or lower loader.workers"),
        (errno.EMFILE, "too many open files; raise the limit (ulimit -n 4096) or lower loader."),
        (errno.EIO, "(OSError: [Errno 5] Input/output error); lower loader.workers (0 workers"),
    ],
)
def test_a_batch_that_cannot_be_handed_over_is_said_at_once(
    toy: Toy, code: int, remedy: str
) -> None:
    def broken(samples: Sequence[Sample]) -> Batch:
        return {**collate(samples), "extra": Unsendable(code)}

    loader = Loader(
        toy.points(20), broken, LoaderConfig(batch_size=4, workers=2), seed=0, shuffle=True
    )
    with pytest.raises(LoaderError) as caught:
        list(loader.batches(0))
    text = str(caught.value)
    assert text.startswith("loader.workers = 2: ")
    assert remedy in text
    assert "\n" not in text


TRAIN = """
import sys
from pathlib import Path
import torch
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.workers import LoaderError

class Source:
    def __len__(self):
        return 64
    def sample(self, index, epoch):
        return {"index": index}

def collate(samples):
    # More tensors than the limit on open files allows: one batch alone is too much.
    index = torch.tensor([s["index"] for s in samples])
    return {"sample_index": index, **{f"x{i}": torch.zeros(7_000) for i in range(48)}}

if len(sys.argv) > 1:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
loader = Loader(Source(), collate, LoaderConfig(batch_size=4, workers=2), seed=0, shuffle=True)
try:
    list(loader.batches(0))
except LoaderError as error:
    print(f"error: {error}")
"""


def python(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'{before}exec "$@"', "bash", sys.executable, "-c", TRAIN, *arguments]
    if before:
        command = ["unshare", "-m", *command]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize("size", ["4k", "64k"])  # too small for the locks, and for a batch
def test_shared_memory_smaller_than_a_batch_is_said_in_one_line(size: str) -> None:
    mount = f"mount --make-rprivate / && mount -t tmpfs -o size={size} tmpfs /dev/shm"
    done = python(before=f"{mount} || exit 77; ")
    if done.returncode in (1, 77):
        pytest.skip(f"a disk of one's own needs the right to mount: {done.stderr.strip()}")
    (line,) = done.stdout.splitlines()
    assert line.startswith("error: loader.workers = 2: a loader process cannot hand over its batch")
    assert "give /dev/shm more room (docker run --shm-size)" in line
    assert done.stderr == ""


@pytest.mark.parametrize("limit", [20, 40])
def test_a_low_limit_on_open_files_is_said_in_one_line(limit: int) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > limit
    (line,) = python(str(limit)).stdout.splitlines()
    assert line == (
        "error: loader.workers = 2: too many open files; raise the limit (ulimit -n 4096) or lower "
        "loader.workers, then run again: the training goes on from its last state"
    )


def test_a_process_that_hangs_ends_the_others_with_the_setting(tmp_path: Path) -> None:
    def meet(processes: Processes) -> list[float]:
        if processes.rank:
            time.sleep(5)  # beyond the others' patience
        return processes.sum([1.0])

    waited, _ = run_together(tmp_path, meet, timeout_s=2.0)
    assert isinstance(waited, TrainingError)
    assert "has not answered within trainer.timeout_s" in str(waited)


def test_several_processes_stop_at_a_step_only(toy: Toy) -> None:
    from plumbline.training.signals import StopRequest

    with StopRequest(alone=False) as stop:
        items = stop.while_waiting(iter([1, 2]))
        assert next(items) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert next(items) == 2  # the others would wait for it
        assert stop.requested()


def test_what_outlives_its_terminal_by_nohup_is_left_alone() -> None:
    from plumbline.training.signals import StopRequest

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_sockets_of_loader_processes_lie_in_a_folder_that_goes(
    monkeypatch: pytest.MonkeyPatch, toy: Toy
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="short-") as short:  # of any test's own
        monkeypatch.setattr(tempfile, "tempdir", short)
        batches = two_workers(toy).batches(0)
        assert torch.is_tensor(next(batches)["x"])
        assert [p.name[:10] for p in Path(short).iterdir()] == ["plumbline-"]
        batches.close()  # type: ignore[attr-defined]
        assert not list(Path(short).iterdir())


def test_a_long_path_of_temporary_files_keeps_no_batch_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Toy
) -> None:
    """The address of a socket has room for 107 bytes."""
    long = tmp_path / ("t" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(list(two_workers(toy).batches(0))) == 5


def two_workers(toy: Toy) -> Loader:
    """Five batches, made by two processes."""
    return Loader(
        toy.points(20), collate, LoaderConfig(batch_size=4, workers=2), seed=0, shuffle=True
    )


OPEN = """
import sys
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig

class Numbers:
    def __len__(self): return 40
    def length(self, index): return 1
    def sample(self, index, epoch): return {"sample_index": index}

config = LoaderConfig(batch_size=2, workers=2)
batches = Loader(Numbers(), list, config, seed=0, shuffle=True).batches(0)
next(batches)
sys.exit(3)
"""


def test_a_process_that_ends_with_batches_open_waits_for_no_loader_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (3, b"")
