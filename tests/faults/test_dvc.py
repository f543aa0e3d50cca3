"""Faults around dvc: its death, its files, its cache (FP05, FP06, FP16, FP17, FP29, FP30)."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.kills import Nursery
from tests.pipeline.checkout import Checkout

STAGE = "pretrain_alignment@image"
REPRO = ("dvc", "repro", "-s", STAGE)


def wait_for(found: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_an_orphan_of_dvc_keeps_a_second_writer_away_and_ends_well(
    checkout: Checkout, aligned: str
) -> None:
    model = checkout.folder / "models/align/image/digests.json"
    shutil.rmtree(checkout.folder / "models/align/image", ignore_errors=True)
    dvc = checkout.start(*REPRO)
    state = checkout.folder / ".ckpt" / STAGE
    wait_for(lambda: bool(list(state.glob("*/best"))))
    (lock,) = checkout.folder.glob(".plumbline/locks/*-image.lock")
    pid = int(lock.read_text(encoding="utf-8"))
    os.kill(pid, signal.SIGSTOP)  # it stays in the midst of its training
    dvc.send_signal(signal.SIGKILL)
    dvc.wait()
    try:
        refused = checkout.run(*REPRO, check=False)
        assert refused.returncode != 0
        assert f"models/align/image: held by the running process {pid}; wait" in refused.stderr
        assert "Traceback" not in refused.stderr
        by_hand = checkout.run(
            sys.executable, "-m", "stages.pretrain_alignment", "image", check=False
        )
        assert by_hand.returncode == 1
        assert f"held by the running process {pid}" in by_hand.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not is_alive(pid))
    assert model.read_text(encoding="utf-8") == aligned
    # The lock of the dead process is free, and dvc repeats what it had not recorded.
    assert checkout.stages_run(*REPRO) == [STAGE]
    assert model.read_text(encoding="utf-8") == aligned


def test_an_orphan_keeps_a_second_writer_away_and_ends_well(
    cached: Checkout, align: Nursery, aligned: str
) -> None:
    # What the test above shows through dvc: its death is that of the stage's parent.
    model = cached.folder / "models/align/image/digests.json"
    shutil.rmtree(model.parent, ignore_errors=True)
    parent = cached.start("sh", "-c", f"{sys.executable} -m stages.pretrain_alignment image; :")
    wait_for(lambda: bool(list((cached.folder / ".ckpt" / STAGE).glob("*/best"))))
    (lock,) = cached.folder.glob(".plumbline/locks/*-image.lock")
    pid = int(lock.read_text(encoding="utf-8"))
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    try:
        text = align.run().refusal
    finally:
        os.kill(pid, signal.SIGCONT)
    assert text == (
        f"error: models/align/image: held by the running process {pid}; wait for it or end it"
    )
    wait_for(lambda: not is_alive(pid))
    assert model.read_text(encoding="utf-8") == aligned


def test_a_stage_killed_before_the_lock_is_written_is_repeated(checkout: Checkout) -> None:
    target, out = "prepare@scenes", checkout.folder / "work/raw/scenes"
    expected = (out / "digests.json").read_text(encoding="utf-8")
    lock = (checkout.folder / "dvc.lock").read_text(encoding="utf-8")
    shutil.rmtree(checkout.folder / ".dvc/cache/runs")
    inode = out.stat().st_ino
    dvc = checkout.start("dvc", "repro", "-s", "-f", target)
    wait_for(lambda: out.exists() and out.stat().st_ino != inode)
    dvc.send_signal(signal.SIGKILL)
    dvc.wait()
    assert (out / "digests.json").read_text(encoding="utf-8") == expected
    assert (checkout.folder / "dvc.lock").read_text(encoding="utf-8") == lock
    assert checkout.run("dvc", "repro", "-s", target).returncode == 0
    assert (out / "digests.json").read_text(encoding="utf-8") == expected
    assert (checkout.folder / "dvc.lock").read_text(encoding="utf-8") == lock


def test_a_missing_cache_file_comes_back_with_the_same_bytes(checkout: Checkout) -> None:
    cache = checkout.folder / "work/cache/scenes"
    before = (cache / "images.bin").read_bytes()
    (cache / "images.bin").unlink()
    checkout.run("dvc", "repro", "-s", "tokenize_text@scenes")
    assert (cache / "images.bin").read_bytes() == before
    # Gone from DVC's cache too, it is computed anew.
    (cache / "images.bin").unlink()
    shutil.rmtree(checkout.folder / ".dvc/cache")
    assert checkout.stages_run("dvc", "repro", "-s", "tokenize_text@scenes") == [
        "tokenize_text@scenes"
    ]
    assert (cache / "images.bin").read_bytes() == before


@pytest.fixture
def changed(cached: Checkout) -> Iterator[Path]:
    """A file of the training cache, one bit of which DVC's own copy has otherwise."""
    file = cached.folder / "work/cache/scenes/images.bin"
    content = file.read_bytes()
    objects = (p for p in cached.folder.glob(".dvc/cache/files/md5/*/*") if p.is_file())
    (stored,) = (path for path in objects if path.read_bytes() == content)
    before = stored.stat()

    def store(data: bytes) -> None:
        stored.chmod(0o644)
        stored.write_bytes(data)
        stored.chmod(before.st_mode)
        os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))

    store(content[:-1] + bytes([content[-1] ^ 1]))
    yield file
    store(content)
    file.unlink()
    file.write_bytes(content)


def test_a_changed_object_that_dvc_restores_as_good_is_found_by_the_stage(
    cached: Checkout, align: Nursery, changed: Path
) -> None:
    content = changed.read_bytes()
    shutil.rmtree(changed.parent)
    shutil.rmtree(cached.folder / "models/align/image", ignore_errors=True)
    cached.run("dvc", "checkout", "tokenize_text@scenes")
    assert changed.read_bytes() != content  # dvc says nothing
    assert "error: work/cache/scenes/images.bin: its bytes changed" in align.run().refusal
    assert not (cached.folder / "models/align/image").exists()


@pytest.fixture
def whole(cached: Checkout) -> Iterator[Checkout]:
    """The shared checkout, its files put back after the test."""
    names = ("dvc.lock", "params.yaml")
    before = {name: (cached.folder / name).read_bytes() for name in names}
    yield cached
    for name, content in before.items():
        (cached.folder / name).write_bytes(content)
    (cached.folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dvc.lock", b"{{{"),
        ("dvc.lock", b"\xff\xfe\x00"),
        (".dvc/tmp/rwlock", b"{bad"),
        ("params.yaml", b"seed: [1"),
        ("params.yaml", b"seed: 0\nseed: 1\n"),
    ],
)
def test_a_corrupt_file_of_dvc_is_named_and_nothing_runs(
    whole: Checkout, name: str, content: bytes
) -> None:
    out = whole.folder / "work/raw/scenes/digests.json"
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    (whole.folder / name).write_bytes(content)
    done = whole.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert Path(name).name in done.stderr
    assert "Traceback" not in done.stderr
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


def test_a_lock_file_of_dvc_cut_short_is_written_again(whole: Checkout) -> None:
    lock = whole.folder / "dvc.lock"
    before = lock.read_text(encoding="utf-8")
    shortened = before[: before.index("\n  tokenize_text@scenes")] + "\n"
    lock.write_text(shortened, encoding="utf-8")
    whole.run("dvc", "repro", "tokenize_text@scenes")
    assert sorted(lock.read_text(encoding="utf-8").splitlines()) == sorted(before.splitlines())
