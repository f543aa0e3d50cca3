"""Damaged, foreign and misdated files are found by the stage that reads them (FP09, FP12-FP17)."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.kills import Attempt, Nursery
from tests.pipeline.checkout import Checkout

KEEP = "align.image.train.trainer.checkpoint.keep_after_success=true"
STATE = "step-12"


@dataclass(frozen=True)
class Keeping:
    """An alignment that keeps its training state, so that the next one goes on from it."""

    nursery: Nursery

    def run(self, kind: str = "never", value: float = 0.0, more: Sequence[str] = ()) -> Attempt:
        return self.nursery.run(kind, value, more=(KEEP, *more))


@pytest.fixture(scope="module")
def keeping(cached: Checkout, align: Nursery) -> Iterator[Keeping]:
    """Its state is that of a finished training."""
    keeping = Keeping(align)
    first = keeping.run()
    assert first.code == 0, first.log
    yield keeping
    shutil.rmtree(cached.folder / ".ckpt")


@pytest.fixture
def state(cached: Checkout, keeping: Keeping) -> Iterator[Path]:
    """Its folder, put back after the test."""
    (found,) = cached.folder.glob(f".ckpt/pretrain_alignment@image/*/{STATE}")
    copy = cached.folder / "kept"
    shutil.copytree(found.parent, copy)
    yield found
    shutil.rmtree(found.parent)
    copy.rename(found.parent)


def flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit": flip,
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


def damage(file: Path, how: str) -> None:
    """Change a file's bytes; its mode and times stay."""
    before = file.stat()
    changed = DAMAGE[how](file.read_bytes())
    file.chmod(0o644)
    file.write_bytes(changed)
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model.safetensors", "one bit"),
        ("optimizer.safetensors", "one bit"),
        ("optimizer.safetensors", "truncated"),
        ("state.json", "one bit"),
        ("state.json", "empty"),
        ("digests.json", "one bit"),
        ("digests.json", "truncated"),
        ("digests.json", "empty"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_never_begun_anew(
    keeping: Keeping, state: Path, name: str, how: str
) -> None:
    damage(state / name, how)
    before = {path: path.read_bytes() for path in state.iterdir()}
    text = keeping.run().refusal
    assert str(state.relative_to(state.parents[3]).parent) in text
    if name != "digests.json":
        assert f"{STATE}/{name}: its bytes changed" in text
    folder = state.parent.relative_to(state.parents[3])
    assert text.endswith(f"remove {folder}, and the training begins anew when run again")
    assert {path: path.read_bytes() for path in state.iterdir()} == before


def test_a_checkpoint_without_one_of_its_files_is_refused(keeping: Keeping, state: Path) -> None:
    (state / "optimizer.safetensors").unlink()
    assert f"{STATE}/optimizer.safetensors: missing" in keeping.run().refusal


def test_damaged_best_weights_are_refused(keeping: Keeping, state: Path) -> None:
    damage(state.parent / "best/model.safetensors", "one bit")
    assert "best/model.safetensors: its bytes changed" in keeping.run().refusal


def test_the_state_of_another_run_is_refused(keeping: Keeping, state: Path) -> None:
    text = (state / "state.json").read_text(encoding="utf-8")
    own = state.parent.name
    (state / "state.json").write_text(text.replace(own, "0" * len(own)), encoding="utf-8")
    from plumbline.files import write_digests

    write_digests(state)
    assert f"{STATE}: belongs to another run (fingerprint 000000000000" in keeping.run().refusal


def test_a_state_of_other_settings_is_left_alone_and_refused_with_the_keys_that_differ(
    keeping: Keeping, state: Path
) -> None:
    other = ("align.image.train.trainer.optim.lr=0.0123",)
    root = state.parents[1]
    locks = set(root.glob("*.lock"))
    killed = keeping.run("operation", 8, more=other)
    assert killed.code == -9, killed.log
    own = f"{state.relative_to(state.parents[3])} differs in settings.train.trainer.optim.lr: "
    assert f"starting anew: .ckpt/{root.name}/{own.split('/', 2)[2]}" in killed.log
    (lock,) = set(root.glob("*.lock")) - locks
    shutil.rmtree(root / lock.stem, ignore_errors=True)
    shutil.copytree(state, root / lock.stem / STATE)
    try:
        text = keeping.run(more=other).refusal
    finally:
        shutil.rmtree(root / lock.stem)
        lock.unlink()
    assert f"{lock.stem}/{STATE}: belongs to another run" in text
    assert text.endswith(
        ": settings.train.trainer.optim.lr: 0.001 there, 0.0123 here; remove it"
    ), text


def test_times_of_files_decide_nothing(cached: Checkout, keeping: Keeping, state: Path) -> None:
    digests = (cached.folder / "models/align/image/digests.json").read_text(encoding="utf-8")
    older = state.with_name("step-9")
    shutil.copytree(state, older)  # of no use, were it ever taken: its own number is 12
    for path in state.rglob("*"):
        os.utime(path, (1, 1))
    os.utime(state, (1, 1))
    os.utime(older, (2**31, 2**31))
    done = keeping.run()
    assert "resuming after optimiser step 12" in done.log
    assert (cached.folder / "models/align/image/digests.json").read_text(
        encoding="utf-8"
    ) == digests


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati"])
def test_another_time_zone_gives_the_same_bytes(cached: Checkout, zone: str) -> None:
    digests = cached.folder / "work/cache/scenes/digests.json"
    before = digests.read_text(encoding="utf-8")
    digests.unlink()
    python = ("env", f"TZ={zone}", "LC_ALL=C", sys.executable)
    cached.run(*python, "-m", "stages.tokenize_text", "scenes")
    assert digests.read_text(encoding="utf-8") == before


@pytest.fixture
def cache(cached: Checkout) -> Iterator[Path]:
    """The training cache, put back after the test."""
    folder = cached.folder / "work/cache/scenes"
    shutil.copytree(folder, cached.folder / "kept_cache")
    yield folder
    shutil.rmtree(folder)
    (cached.folder / "kept_cache").rename(folder)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("images.bin", "one bit"),
        ("images.bin", "truncated"),
        ("texts.arrow", "one bit"),
        ("train.arrow", "one bit"),
        ("train.arrow", "empty"),
        ("tokenizer.json", "one bit"),
    ],
)
def test_a_damaged_cache_file_is_refused_by_name(
    keeping: Keeping, cache: Path, name: str, how: str
) -> None:
    damage(cache / name, how)
    assert f"error: work/cache/scenes/{name}: its bytes changed" in keeping.run().refusal


def test_a_missing_cache_file_is_refused_with_the_remedy(keeping: Keeping, cache: Path) -> None:
    (cache / "images.bin").unlink()
    text = keeping.run().refusal
    assert "work/cache/scenes/images.bin: missing; run dvc checkout or dvc repro -f" in text
    shutil.rmtree(cache)
    assert "work/cache/scenes: no digests.json; build it with dvc repro" in keeping.run().refusal
    cache.mkdir()
