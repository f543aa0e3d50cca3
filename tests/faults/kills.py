"""The kill campaign: every stage is killed again and again, and must end as if it never was.

`make faults`, or `python -m tests.faults.kills [--kills 300] [--seed 0] [--no-dvc]`. After each
kill all outputs and training states are whole or absent and no training state is older than before;
in the end every output has the digests of a run that was never killed. Prints one JSON line.
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline.files import DIGESTS, verify_digests
from tests.pipeline.checkout import ENVIRONMENT, Checkout, make_checkout

NURSERY = Path(__file__).with_name("nursery.py")
SAVE_EVERY_STEP = "{group}.{key}.train.trainer.checkpoint.every_steps=1"


@dataclass(frozen=True)
class Target:
    """A stage, what it writes, and how it is run."""

    stage: str
    key: str
    folders: tuple[str, ...]
    """Outputs with digests."""
    files: tuple[str, ...] = ()
    """Outputs that are single files, JSON or CSV."""
    group: str = ""
    """Of a training: align or tasks."""
    overrides: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """Its command line; a training saves its state after every step."""
        key = [self.key] if self.key else []
        saving = SAVE_EVERY_STEP.format(group=self.group, key=self.key)
        return [*key, *([saving] if self.group else []), *self.overrides]

    @property
    def state(self) -> str:
        """The folder of its training states."""
        return f".ckpt/{self.stage}@{self.key}"


TARGETS = (
    Target("prepare", "scenes", ("work/raw/scenes",)),
    Target(
        "validate",
        "scenes",
        ("work/clean/scenes", "work/quarantine/scenes"),
        ("metrics/data/scenes.json",),
    ),
    Target("detect_shapes", "scenes", ("work/shapes/scenes", "work/distributions/clean/scenes")),
    Target("tokenize_text", "scenes", ("work/cache/scenes", "work/distributions/cache/scenes")),
    Target("pretrain_alignment", "image", ("models/align/image",), group="align"),
    Target(
        "evaluate_alignment",
        "image",
        ("work/evaluation/align/image",),
        ("metrics/align/image.json", "work/curves/align/image/training_loss.csv"),
    ),
    Target("export_alignment", "image", ("exports/align/image",), group="align"),
    Target("finetune", "vqa", ("models/tasks/vqa",), group="tasks"),
    Target(
        "evaluate_model",
        "vqa",
        ("work/evaluation/tasks/vqa",),
        ("metrics/tasks/vqa.json", "work/curves/tasks/vqa/training_loss.csv"),
    ),
    Target("export_model", "vqa", ("exports/vqa",)),
    Target("report", "", ("report",)),
)


@dataclass
class Tally:
    """What a campaign has seen."""

    kills: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    """Runs that were brought to their end."""
    removed: Counter[str] = field(default_factory=Counter)
    """Files of dvc itself that its death left half written, so that it refused them by name."""
    unreadable: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return not (self.unreadable or self.different or self.errors)

    def report(self) -> dict[str, Any]:
        """The counts, and the first findings."""
        return {
            "kills": sum(self.kills.values()),
            "kills_by_stage": dict(self.kills),
            "kills_by_moment": dict(self.moments),
            "runs_ended": dict(self.runs),
            "removed_files_of_dvc": dict(self.removed),
            "unreadable": len(self.unreadable),
            "different": len(self.different),
            "errors": len(self.errors),
            "findings": (self.unreadable + self.different + self.errors)[:10],
        }


@dataclass(frozen=True)
class Attempt:
    """One fork of a stage that has ended."""

    pid: int
    code: int
    seconds: float
    log: str
    """What it wrote to its output and error streams."""

    @property
    def refusal(self) -> str:
        """The one line that a refused stage ends with."""
        assert self.code == 1, f"{self.code}: {self.log}"
        assert "Traceback" not in self.log, self.log
        last = self.log.strip().splitlines()[-1]
        assert last.startswith("error: "), last
        return last


class Nursery:
    """A process that forks one stage in a checkout."""

    def __init__(self, checkout: Checkout, target: Target) -> None:
        """Start it and wait until the stage is imported."""
        self._log = checkout.folder / f".{target.stage}.log"
        places = [str(Path(place).parent) for place in (*target.folders, *target.files)]
        # A training has its output's temporary folder from the first moment on.
        self._places = [target.state] if target.group else places
        self._process = subprocess.Popen(
            [sys.executable, str(NURSERY), target.stage, *target.arguments],
            cwd=checkout.folder,
            env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return line.strip()

    def run(self, kind: str = "never", value: float = 0.0, *, more: Sequence[str] = ()) -> Attempt:
        """Fork the stage, kill it at that moment (`nursery.Moment`), and wait for its end.

        `more` are overrides behind those of the target.
        """
        assert self._process.stdin is not None
        moment = {"kind": kind, "value": value}
        request = {
            "moment": moment,
            "more": list(more),
            "log": str(self._log),
            "places": self._places,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Attempt(
            **json.loads(self._read()), log=self._log.read_text(errors="replace", encoding="utf-8")
        )

    def close(self) -> None:
        """End it; it is told to, since other forks of this process may hold its input open."""
        self._process.communicate("end\n")


@contextmanager
def nursery(checkout: Checkout, target: Target) -> Iterator[Nursery]:
    """A nursery that ends with the block."""
    opened = Nursery(checkout, target)
    try:
        yield opened
    finally:
        opened.close()


def outcome(checkout: Checkout, target: Target) -> dict[str, str]:
    """The bytes that stand for all of a target's outputs."""
    names = [f"{folder}/{DIGESTS}" for folder in target.folders] + list(target.files)
    return {name: (checkout.folder / name).read_text(encoding="utf-8") for name in names}


def remove_outputs(checkout: Checkout, target: Target) -> None:
    """Remove what a target has written, as dvc does before it runs a stage."""
    for place in (*target.folders, *target.files):
        path = checkout.folder / place
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def faulty_places(checkout: Checkout, target: Target) -> list[str]:
    """Outputs and training states that are there and not whole."""
    found = []
    published = [checkout.folder / place for place in target.folders]
    if target.group:
        published += [p for p in (checkout.folder / target.state).glob("*/[!.]*") if p.is_dir()]
    for folder in published:
        try:
            if folder.exists():
                verify_digests(folder)
        except Exception as error:
            found.append(f"{target.stage}: {error!r}")
    for name in target.files:
        try:
            read_whole(checkout.folder / name)
        except FileNotFoundError:
            pass
        except ValueError as error:
            found.append(f"{target.stage}: {name}: {error!r}")
    return found


def read_whole(file: Path) -> None:
    """Read a file that has no digest, to its end.

    Raises:
        ValueError: it is not whole.
    """
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        json.loads(text)
        return
    head, *rows = csv.reader(text.splitlines())
    if not text.endswith("\n") or any(len(row) != len(head) for row in rows):
        raise ValueError(f"ends in {text[-20:]!r}")


def newest_state(checkout: Checkout, target: Target) -> int:
    """Micro-step of the newest training state, one that was moved aside included; 0: none."""
    names = [path.name for path in (checkout.folder / target.state).glob("*/*step-*")]
    whole = [name for name in names if ".partial-" not in name and ".removed-" not in name]
    steps = [int(name.lstrip(".").removeprefix("step-").split(".")[0]) for name in whole]
    return max(steps, default=0)


def draw_moment(random_: random.Random, target: Target, seconds: float) -> tuple[str, float]:
    """A random moment to be killed at; a training lives long enough to save some states."""
    kind = random_.choice(["after", "writing", "operation"])
    if kind == "after":
        # Half of the runs die early, the others anywhere: a resumed training has little left.
        return kind, random_.uniform(0.05, 1.0) * seconds * random_.choice([0.5, 1.0])
    if kind == "writing":
        return kind, random_.choice([0.0, 0.003, 0.01, 0.1, 0.3]) * random_.random()
    return kind, random_.randint(1, 120 if target.group else 8)


def attack(
    checkout: Checkout, target: Target, *, kills: int, random_: random.Random, tally: Tally
) -> None:
    """Kill one stage this often, bring each of its runs to its end, and compare it."""
    with nursery(checkout, target) as stage:
        remove_outputs(checkout, target)
        whole = stage.run()
        assert whole.code == 0, whole.log
        expected = outcome(checkout, target)
        done = 0
        while done < kills:
            remove_outputs(checkout, target)
            # A training goes on where it was; any other stage begins anew and might never end.
            limit = min(kills - done, 40 if target.group else 4)
            done += _attack_run(checkout, target, stage, whole.seconds, limit, random_, tally)
            if tally.errors:
                return
            tally.runs[target.stage] += 1
            if outcome(checkout, target) != expected:
                tally.different.append(f"{target.stage}: run {tally.runs[target.stage]}")


def _attack_run(
    checkout: Checkout,
    target: Target,
    stage: Nursery,
    seconds: float,
    limit: int,
    random_: random.Random,
    tally: Tally,
) -> int:
    """One run, killed until it gets through, `limit` times at most; returns how often."""
    kills, newest = 0, 0
    while True:
        moment = draw_moment(random_, target, seconds) if kills < limit else ("never", 0.0)
        attempt = stage.run(*moment)
        tally.unreadable += faulty_places(checkout, target)
        if attempt.code == 0:
            return kills
        if attempt.code != -9:
            tally.errors.append(f"{target.stage} gave {attempt.code}: {attempt.log[-500:]}")
            return kills
        kills += 1
        tally.kills[target.stage] += 1
        tally.moments[moment[0]] += 1
        # Before `out` stands a state is never given up; afterwards it goes.
        finished = all((checkout.folder / place).exists() for place in target.folders)
        now = newest_state(checkout, target)
        if target.group and now < newest and not finished:
            tally.errors.append(f"{target.stage}: the state of step {newest} is lost ({now})")
        newest = now


REFUSED_BY_DVC = {
    "dvc.lock": r"'\./dvc\.lock' (is invalid|validation failed)",
    ".dvc/tmp/rwlock": r"RWLock-file '.*rwlock'",
}
"""Files that dvc writes in place, and how it says that it met half of one."""


def _repro(checkout: Checkout, log: Path, limit: float | None) -> int:
    """Run `dvc repro`, killed with all its processes after so many seconds; its exit code."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=checkout.folder,
            env=ENVIRONMENT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def attack_dvc(
    checkout: Checkout,
    expected: Mapping[Target, dict[str, str]],
    *,
    kills: int,
    random_: random.Random,
    tally: Tally,
) -> None:
    """Kill `dvc repro` with all its processes until it gets through from nothing."""
    for name in ("work", "report", ".ckpt", ".dvc/cache/runs"):
        shutil.rmtree(checkout.folder / name, ignore_errors=True)
    for target in TARGETS:
        remove_outputs(checkout, target)
    (checkout.folder / "dvc.lock").unlink()
    log = checkout.folder / ".dvc_repro.log"
    while True:
        limit = random_.uniform(2, 14) if tally.kills["dvc repro"] < kills else None
        code = _repro(checkout, log, limit)
        for target in TARGETS:
            tally.unreadable += faulty_places(checkout, target)
        text = log.read_text(encoding="utf-8")
        if code == 0:
            break
        if code == -9:
            tally.kills["dvc repro"] += 1
            tally.moments["after"] += 1
        elif file := next((f for f, said in REFUSED_BY_DVC.items() if re.search(said, text)), None):
            # The remedy that docs/faults.md names; where dvc.lock is committed, git has it.
            (checkout.folder / file).unlink()
            tally.removed[file] += 1
        else:
            tally.errors.append(f"dvc repro gave {code}: {text[-500:]}")
            return
    tally.runs["dvc repro"] += 1
    for target, wanted in expected.items():
        if outcome(checkout, target) != wanted:
            tally.different.append(f"dvc repro: {target.stage}")


def main(arguments: Sequence[str]) -> int:
    """Run the campaign in a checkout of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="over all stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-dvc", action="store_true", help="leave out whole runs of dvc")
    options = parser.parse_args(arguments)
    random_, tally, started = random.Random(options.seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        checkout = make_checkout(Path(folder) / "smoke")
        checkout.run("dvc", "repro")
        expected = {target: outcome(checkout, target) for target in TARGETS}
        for target in TARGETS:
            share = 2 if target.group else 1  # of trainings there is more to lose
            kills = max(1, round(options.kills * share / (len(TARGETS) + 2)))
            attack(checkout, target, kills=kills, random_=random_, tally=tally)
            print(f"{target.stage}: {tally.kills[target.stage]} kills", file=sys.stderr)
        if not options.no_dvc:
            attack_dvc(checkout, expected, kills=25, random_=random_, tally=tally)
    minutes = round((time.monotonic() - started) / 60, 1)
    print(json.dumps({**tally.report(), "seed": options.seed, "minutes": minutes}))
    return 0 if tally.clean else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
