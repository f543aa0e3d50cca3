"""A small checkout with a dataset cached in it, and disks to fill up or to make read-only."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.kills import Nursery, Target, nursery
from tests.pipeline.checkout import Checkout, make_checkout


@pytest.fixture(scope="session")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The smoke preset up to the training cache; tests that change it work on a copy."""
    checkout = make_checkout(tmp_path_factory.mktemp("faults") / "smoke")
    checkout.run("dvc", "repro", "tokenize_text@scenes")
    return checkout


@pytest.fixture
def checkout(cached: Checkout, tmp_path: Path) -> Checkout:
    """A copy of `cached` of one's own."""
    shutil.copytree(cached.folder, tmp_path / "own", symlinks=True)
    return Checkout(tmp_path / "own")


@pytest.fixture(scope="session")
def align(cached: Checkout) -> Iterator[Nursery]:
    """Runs the alignment of `cached`, imported once: `align.run()`."""
    target = Target("pretrain_alignment", "image", ("models/align/image",))
    with nursery(cached, target) as opened:
        yield opened


@pytest.fixture(scope="session")
def aligned(cached: Checkout, align: Nursery) -> str:
    """Digests of an alignment that met no fault."""
    done = align.run()
    assert done.code == 0, done.log
    return (cached.folder / "models/align/image/digests.json").read_text(encoding="utf-8")


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """`mount(place, "size=1m")`: a disk of one's own at a folder, until the test ends."""
    mounted: list[Path] = []

    def call(place: Path, options: str) -> None:
        if "remount" not in options:
            place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk of one's own needs the right to mount: {done.stderr.strip()}")
        mounted.append(place)

    yield call
    for place in dict.fromkeys(mounted):
        subprocess.run(["umount", "-l", str(place)], check=True)
