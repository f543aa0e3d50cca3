"""One smoke run of the whole DAG, shared by the tests of this folder."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.pipeline.checkout import Checkout, make_checkout


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after its first `dvc repro`, committed; made once and copied for each worker."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    first = shared / "reproduced" / "smoke"
    with (shared / "reproduced.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (first.parent / "done").exists():
            _reproduce(first)
            (first.parent / "done").touch()
    own = Path(tmp_path_factory.mktemp("pipeline")) / "smoke"
    shutil.copytree(first, own, symlinks=True)
    return Checkout(own)


def _reproduce(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    checkout = make_checkout(folder)
    done = checkout.run("dvc", "repro")
    (folder / ".plumbline").mkdir(exist_ok=True)
    (folder / ".plumbline" / "repro.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    checkout.commit("Reproduce")


@pytest.fixture
def own(reproduced: Checkout, tmp_path: Path) -> Checkout:
    """A reproduced checkout for one test, which may change what its run cache can restore."""
    shutil.copytree(reproduced.folder, tmp_path / "own", symlinks=True)
    return Checkout(tmp_path / "own")
