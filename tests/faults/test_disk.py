"""A disk that is full or read-only: one line, nothing half, the last good state untouched.

FP07, FP08. The disks are real: small file systems in memory, mounted for one test.
"""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plumbline.errors import ConfigError, OutputError
from plumbline.files import atomic_write, staged_folder, staged_output, verify_digests
from plumbline.tokenization.tokenizer import TokenizerConfig, train_tokenizer
from tests.faults.kills import Nursery
from tests.pipeline.checkout import Checkout

Mount = Callable[..., None]
ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fill_with_tokenizer(folder: Path) -> None:
    tokenizer = train_tokenizer(["a word and another"] * 3, TokenizerConfig(vocab_size=300))
    for number in range(100):
        tokenizer.save(str(folder / f"{number}.json"))


def fill_with_sqlite(folder: Path) -> None:
    database = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
    database.execute("CREATE TABLE rows (value BLOB)")
    for _ in range(100):
        database.execute("INSERT INTO rows VALUES (?)", [os.urandom(10_000)])


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda out: save_file({"w": torch.zeros(10**6)}, out / "w.safetensors"),
    "tokenizers": fill_with_tokenizer,
    "sqlite": fill_with_sqlite,
    "python": lambda out: (out / "x.bin").write_bytes(bytes(10**6)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_on_a_full_disk_gives_one_error_and_keeps_the_output_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: Mount, writer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    mount(tmp_path / "models", "size=256k")
    out = Path("models/a")
    with staged_output(out) as partial:
        (partial / "x.txt").write_text("old", encoding="utf-8")
    with (
        pytest.raises(OutputError, match=r"^models/a: the disk is full; free some space"),
        staged_output(out) as partial,
    ):
        WRITERS[writer](partial)
    assert names(Path("models")) == {"a"}
    verify_digests(out)


LIMITED = """
import resource, sys
from pathlib import Path
from plumbline.files import staged_output
from plumbline.stage import run_stage
from tests.faults.test_disk import WRITERS

# Behind the imports: Python 3.11 keeps byte code that a limit cut short, for every import after.
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))

def main(arguments):
    with staged_output(Path("models/a")) as partial:
        WRITERS[sys.argv[1]](partial)

run_stage(main)
"""


def script(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_at_the_limit_on_file_sizes_gives_one_line(
    tmp_path: Path, writer: str
) -> None:
    done = script(LIMITED, tmp_path, writer)
    assert done.returncode == 1
    assert done.stderr == (
        "error: models/a: larger than a file may be here; raise the limit (ulimit -f unlimited) "
        "and run again\n"
    )
    assert names(tmp_path / "models") == set()


def test_a_quota_that_is_used_up_has_its_own_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"a: the quota of this account is used up; free some"),
        staged_folder(tmp_path / "a"),
    ):
        raise RuntimeError(f"I/O error: {os.strerror(errno.EDQUOT)} (os error 122)")


OUTSIDE = """
import sqlite3
from plumbline.stage import run_stage

def main(arguments):
    raise sqlite3.OperationalError("database or disk is full")

run_stage(main)
"""


def test_a_full_disk_of_temporary_files_is_one_line_of_the_stage(tmp_path: Path) -> None:
    done = script(OUTSIDE, tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: /")
    assert "the disk is full; free some space" in line


HOLD = """
from pathlib import Path
from plumbline.files import output_lock
from plumbline.stage import run_stage

def main(arguments):
    with output_lock(Path("models/a")):
        pass

run_stage(main)
"""


def test_a_disk_too_full_for_a_lock_is_one_line(tmp_path: Path, mount: Mount) -> None:
    mount(tmp_path / ".plumbline", "size=8k")
    (tmp_path / ".plumbline/locks").mkdir()
    (tmp_path / ".plumbline/locks/0-a.lock").touch()
    with suppress(OSError), (tmp_path / ".plumbline/filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    done = script(HOLD, tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: .plumbline/locks/")
    assert line.endswith(
        "the disk is full; free some space (plumbline gc lists what can go) and run again"
    )


def test_a_single_file_on_a_full_disk_keeps_its_content(tmp_path: Path, mount: Mount) -> None:
    mount(tmp_path / "metrics", "size=64k")
    file = tmp_path / "metrics/a.json"
    atomic_write(file, "old")
    with pytest.raises(OutputError, match="the disk is full"):
        atomic_write(file, bytes(10**6))
    assert file.read_text(encoding="utf-8") == "old"
    assert names(file.parent) == {"a.json"}


def test_what_a_full_disk_led_to_is_called_by_its_cause(tmp_path: Path) -> None:
    def misjudge() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise ConfigError(f"the image cannot be decoded ({error})") from None

    with pytest.raises(OutputError, match="the disk is full"), staged_folder(tmp_path / "a"):
        misjudge()
    with pytest.raises(ConfigError, match="no reason"), staged_folder(tmp_path / "a"):
        raise ConfigError("no reason")


def test_a_disk_that_fills_up_with_checkpoints_keeps_the_last_good_one(
    aligned: str, cached: Checkout, align: Nursery, mount: Mount
) -> None:
    states = cached.folder / ".ckpt"
    mount(states, "size=800k")  # room for the first epoch's state, not for the second's beside it
    text = align.run().refusal
    assert ".ckpt/pretrain_alignment@image" in text
    assert "the disk is full" in text
    (folder,) = (path for path in states.glob("*/*") if path.is_dir())
    assert {name for name in names(folder) if name.startswith("step-")} == {"step-6"}
    assert not [name for name in names(folder) if name.startswith(".")]
    for state in folder.glob("[!h]*"):
        verify_digests(state)
    mount(states, "remount,size=4m")
    done = align.run()
    assert done.code == 0
    assert "resuming after optimiser step 6" in done.log
    assert (cached.folder / "models/align/image/digests.json").read_text(
        encoding="utf-8"
    ) == aligned


def test_a_model_on_a_full_disk_is_not_published_and_its_training_not_lost(
    aligned: str, cached: Checkout, align: Nursery, mount: Mount
) -> None:
    models = cached.folder / "models/align"
    mount(models, "size=100k")
    assert "error: models/align/image: the disk is full" in align.run().refusal
    assert names(models) == set()
    mount(models, "remount,size=4m")
    done = align.run()
    assert "resuming after optimiser step 12" in done.log
    assert (models / "image/digests.json").read_text(encoding="utf-8") == aligned


def test_a_cache_on_a_full_disk_is_not_published(cached: Checkout, mount: Mount) -> None:
    mount(cached.folder / "work/cache", "size=300k")
    done = cached.run(sys.executable, "-m", "stages.tokenize_text", "scenes", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: work/cache/scenes: the disk is full")
    assert names(cached.folder / "work/cache") == set()


@pytest.mark.parametrize("place", ["models/align", ".ckpt", ".plumbline"])
def test_a_read_only_folder_is_refused_before_the_first_step(
    cached: Checkout, align: Nursery, mount: Mount, place: str
) -> None:
    mount(cached.folder / place, "ro")
    done = align.run()
    assert "cannot be written (Read-only file system); check its permissions" in done.refusal
    assert f"error: {place}" in done.refusal
    assert not list((cached.folder / ".ckpt").rglob("step-*"))


def test_a_missing_output_folder_is_made(cached: Checkout) -> None:
    shapes = cached.folder / "work/shapes"
    before = (shapes / "scenes/shapes.json").read_bytes()
    shutil.rmtree(shapes)
    cached.run(sys.executable, "-m", "stages.detect_shapes", "scenes")
    assert (shapes / "scenes/shapes.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "400k", "600k"])
def test_an_export_on_a_full_disk_is_no_bundle_without_a_format(
    cached: Checkout, aligned: str, mount: Mount, size: str
) -> None:
    if not (cached.folder / "models/tasks/vqa").exists():
        cached.run(sys.executable, "-m", "stages.finetune", "vqa")
    mount(cached.folder / "exports", f"size={size}")
    done = cached.run(sys.executable, "-m", "stages.export_model", "vqa", check=False)
    assert "error: exports/vqa: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(cached.folder / "exports") == set()
