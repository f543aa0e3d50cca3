"""A folder for a while: gone after its block, and after a kill with the next one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from plumbline.scratch import scratch_folder

SRC = Path(__file__).resolve().parents[1] / "src"

HOLD = """
import sys
from plumbline.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "rows.sqlite").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_empty_private_and_gone_after_the_block(place: Path) -> None:
    with scratch_folder() as folder, scratch_folder() as other:
        assert folder.parent == other.parent == place
        assert folder != other
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "x").touch()
        assert not list(other.iterdir())
    assert not list(place.iterdir())


def test_what_a_killed_process_left_goes_and_what_a_live_one_has_stays(place: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert holder.stdout is not None
        theirs = Path(holder.stdout.readline().strip())
        foreign = place / "other-programs"
        foreign.mkdir()
        with scratch_folder():
            assert (theirs / "rows.sqlite").exists()
    finally:
        holder.kill()
        holder.communicate()
    assert theirs.exists()
    with scratch_folder():
        assert not theirs.exists()
    assert list(place.iterdir()) == [foreign]
