"""Outputs are whole or absent, held by one writer, and checked by digest when read."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline import files
from plumbline.disk_errors import describe_os_error
from plumbline.errors import CheckpointError, OutputError
from plumbline.files import (
    DIGESTS,
    atomic_write,
    digest_of,
    dump_json,
    output_lock,
    read_digests,
    read_json,
    staged_folder,
    staged_output,
    verify_digests,
    write_digests,
    write_json,
)
from plumbline.loading.workers import LoaderError

SRC = Path(__file__).resolve().parents[1] / "src"

HOLD_LOCK = """
import sys
from pathlib import Path
from plumbline.files import output_lock
with output_lock(Path("models/a")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def publish(out: Path, text: str) -> None:
    with staged_output(out) as partial:
        (partial / "deep").mkdir()
        (partial / "deep/a.txt").write_text(text, encoding="utf-8")


def fail_with(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def test_a_staged_output_appears_whole_with_the_digest_of_every_file() -> None:
    out = Path("models/a")
    with staged_output(out) as partial:
        (partial / "a.txt").write_text("new", encoding="utf-8")
        assert not out.exists()
    assert set(contents(out)) == {"a.txt", DIGESTS}
    assert verify_digests(out) == {"a.txt": files.sha256_file(out / "a.txt")}


def test_publishing_replaces_the_output_before_entirely() -> None:
    out = Path("models/a")
    with staged_output(out) as partial:
        (partial / "old.txt").write_text("old", encoding="utf-8")
    publish(out, "new")
    assert set(contents(out)) == {"deep/a.txt", DIGESTS}
    assert [p.name for p in out.parent.iterdir()] == ["a"]


def test_an_exception_in_the_block_keeps_the_output_before_and_leaves_nothing_else() -> None:
    out = Path("models/a")
    publish(out, "old")
    before = contents(out)

    def fail() -> None:
        with staged_output(out) as partial:
            (partial / "b.txt").write_text("half", encoding="utf-8")
            raise KeyError("planted")

    with pytest.raises(KeyError):
        fail()
    assert contents(out) == before
    assert [p.name for p in out.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "call",
    [
        "fsync",
        "replace",
    ],
)
def test_a_full_disk_keeps_the_output_before_and_says_what_to_do(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path("models/a")
    publish(out, "old")
    before = contents(out)

    def full(*arguments: object) -> None:
        raise fail_with(errno.ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OutputError, match="models/a: the disk is full"):
            publish(out, "new")
    assert contents(out) == before
    assert [p.name for p in out.parent.iterdir()] == ["a"]


def test_a_held_output_is_refused_with_the_pid_of_its_holder_and_free_after_its_death() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            OutputError, match=rf"models/a: held by the running process {holder.pid};"
        ):
            publish(Path("models/a"), "mine")
        assert not Path("models").exists()
        with output_lock(Path("models/b")):
            pass  # another output is not concerned
    finally:
        holder.kill()
        holder.communicate()
    publish(Path("models/a"), "mine")
    assert Path("models/a/deep/a.txt").read_text(encoding="utf-8") == "mine"


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "x").write_text("x", encoding="utf-8")


def test_what_killed_stages_left_beside_an_output_is_removed_whoever_has_their_numbers() -> None:
    models = Path("models")
    dead, old = models / f".a.partial-{ended_pid()}", models / f".a.before-{ended_pid()}"
    reused = models / f".a.partial-{os.getppid()}"  # who holds the output writes it alone
    foreign = [models / ".a.partial-1.bak", models / ".a.b.partial-1", models / ".a.before-x"]
    leave(dead, old, reused, *foreign)
    publish(models / "a", "new")
    assert {p.name for p in models.iterdir()} == {"a", *(p.name for p in foreign)}


def test_a_file_that_a_live_process_writes_is_spared() -> None:
    alive, dead = Path(f".a.json.partial-{os.getppid()}"), Path(f".a.json.partial-{ended_pid()}")
    alive.write_text("half", encoding="utf-8")
    dead.write_text("half", encoding="utf-8")
    atomic_write(Path("a.json"), "{}")
    assert {p.name for p in Path().iterdir()} == {"a.json", alive.name}


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)]
)
def test_an_output_has_the_modes_that_the_umask_allows_whatever_a_library_chose(
    umask: int, folder: int, file: int
) -> None:
    out = Path("models/a")
    before = os.umask(umask)
    try:
        with staged_output(out) as partial:
            (partial / "deep").mkdir(0o700)
            (partial / "deep/w.safetensors").touch(0o600)
            (partial / "run.sh").touch(0o700)
    finally:
        os.umask(before)
    modes = {p.relative_to(out).as_posix(): p.stat().st_mode & 0o777 for p in out.rglob("*")}
    assert modes == {"deep": folder, "deep/w.safetensors": file, "run.sh": folder, DIGESTS: file}
    assert out.stat().st_mode & 0o777 == folder


def test_a_leftover_under_the_own_pid_does_not_block_the_output() -> None:
    # In a container a killed stage and the one after it usually have the same pid.
    leftover = Path(f"models/.a.partial-{os.getpid()}")
    leftover.mkdir(parents=True)
    (leftover / "half.txt").write_text("half", encoding="utf-8")
    publish(Path("models/a"), "new")
    assert set(contents(Path("models/a"))) == {"deep/a.txt", DIGESTS}


def test_an_output_whose_parent_is_a_file_is_one_error() -> None:
    Path("models").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="models/a: "):
        publish(Path("models/a"), "new")


def test_one_flipped_bit_is_found_and_named() -> None:
    out = Path("models/a")
    publish(out, "content")
    file = out / "deep/a.txt"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"models/a/deep/a\.txt: its bytes changed"):
        verify_digests(out)


def test_a_missing_file_is_named() -> None:
    publish(Path("models/a"), "content")
    Path("models/a/deep/a.txt").unlink()
    with pytest.raises(CheckpointError, match=r"models/a/deep/a\.txt: missing"):
        verify_digests(Path("models/a"))


def test_a_folder_without_or_with_damaged_digests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no digests\.json"):
        read_digests(tmp_path)
    (tmp_path / DIGESTS).write_text('{"a": ', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"digests\.json: damaged"):
        read_digests(tmp_path)


def test_digests_do_not_cover_themselves(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    write_digests(tmp_path)
    write_digests(tmp_path)
    assert list(verify_digests(tmp_path)) == ["a"]


@pytest.mark.parametrize("content", ["text \u00e9", b"\x00\xff"])
def test_atomic_write_replaces_the_whole_content(content: str | bytes) -> None:
    path = Path("metrics/a.json")
    atomic_write(path, "something much longer than what comes next")
    atomic_write(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "check its permissions"), (errno.EIO, "Input")],
)
def test_a_failing_atomic_write_keeps_the_old_content(
    code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("metrics/a.json")
    atomic_write(path, "old")

    def fail(*arguments: object) -> None:
        raise fail_with(code)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match=said):
            atomic_write(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_an_os_error_names_the_output_and_the_file_at_fault() -> None:
    error = OSError(errno.EIO, "Input/output error", "models/x.bin")
    text = str(describe_os_error(error, Path("models/a")))
    assert text == "models/a: Input/output error (models/x.bin)"


def test_json_has_one_form_and_no_nan() -> None:
    assert dump_json({"b": 1, "a": "\u00e9"}) == '{\n  "a": "\u00e9",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


def test_json_comes_back_and_damage_is_named() -> None:
    path = Path("metrics/a.json")
    value = {"a": [1, 0.1, None], "b": {"c": "\u00e9"}}
    write_json(path, value)
    assert read_json(path) == value
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"metrics/a\.json: not readable as JSON"):
        read_json(path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"metrics/a\.json: missing"):
        read_json(path)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of(json.loads('{"b": 2, "a": 1}'))
    assert digest_of({"a": 1}) != digest_of({"a": 2})


FORK_AND_DIE = """
import os, signal, sys
from pathlib import Path
from plumbline.files import output_lock
with output_lock(Path("models/a")):
    parent = os.getpid()
    if not os.fork():
        os.kill(parent, signal.SIGKILL)  # not before this process is one of its own
        print(os.getpid(), flush=True)
        sys.stdin.read()  # as a loader worker that goes on for a while
        os._exit(0)
    signal.pause()
"""


def test_a_child_that_outlives_a_killed_holder_does_not_hold_its_lock() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", FORK_AND_DIE],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.wait()
    os.kill(child, 0)  # it lives
    publish(Path("models/a"), "mine")
    holder.communicate()


@pytest.mark.parametrize("text", ["[]", "{}", "3", "\xff"])
def test_a_digest_list_that_names_no_file_is_damaged(text: str) -> None:
    folder = Path("models/a")
    publish(folder, "text")
    (folder / DIGESTS).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"digests\.json: damaged"):
        verify_digests(folder)


def test_an_error_that_names_its_cause_is_not_told_as_a_full_disk(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(LoaderError, match=r"^give /dev/shm more room$"),
        staged_folder(tmp_path / "out"),
    ):
        raise LoaderError("give /dev/shm more room") from full
    with (
        pytest.raises(OutputError, match="out: the disk is full"),
        staged_folder(tmp_path / "out"),
    ):
        raise RuntimeError("cannot write") from full
    assert list(tmp_path.iterdir()) == []
