"""What `plumbline import` alone makes of a folder of data, beside the recipe for the same data.

Each set is trained twice in a fresh project: as `import` proposed it, and as `conf/experiment` has
it. Both keep their own length, and a side that would take more than the budget is cut by the
trainer's own `max_steps`, so that its schedule still ends: two probes say what a step costs, and
all trainings of a side (alignment, then fine-tuning) are cut by the same factor. One compute
thread. Prints one JSON line a set and side: CPU seconds of all trainings, validations and start-up
included, steps, the share of its own length that a side made, and the figure on the split that its
settings measure. `python -m bench.imported DATA [SET ...] [--minutes 10] [--side imported]`.

DATA is the folder that recipes read by `PLUMBLINE_DATA`. Of a language model the figure is nats per
character of the split, whatever its tokens are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from bench.machine import machine
from plumbline.data.parquet import iter_table
from plumbline.inspection.target import open_target, read_call
from plumbline.loading.loader import Loader
from plumbline.training.length import epoch_ends

PROBES = (8, 40)
"""Steps of the two trainings whose difference says what a step costs."""
CHARACTERS = "nats per character"


@dataclass(frozen=True)
class Set:
    """Data with a recipe, and the figure that both sides are compared by."""

    folder: str
    task: str
    """Of the recipe."""
    figure: str
    """Of an evaluation; `CHARACTERS` is made of several."""
    align: str | None = None
    recipe_figure: str | None = None
    """Where the recipe calls it otherwise."""


SETS = {
    "easy_vqa": Set("easy_vqa", "vqa", "exact_match", align="image"),
    "cifar10": Set("cifar10", "cifar10", "accuracy"),
    "fsdd": Set("fsdd", "spoken", "accuracy", recipe_figure="digit/accuracy"),
    "multi30k": Set("multi30k", "translate", "bleu"),
    "sst2": Set("sst2", "sentiment", "accuracy"),
    "shakespeare": Set("tinyshakespeare", "shakespeare", CHARACTERS),
}


@dataclass(frozen=True)
class Side:
    """One of the two, in a project of its own."""

    project: Path
    data: Path
    experiment: str
    dataset: str
    task: str
    align: str | None
    figure: str

    @property
    def trainings(self) -> list[tuple[str, str, str]]:
        """Stage, key and group of what is trained, in order."""
        aligned = [("pretrain_alignment", self.align, "align")] if self.align else []
        return [*aligned, ("finetune", self.task, "tasks")]

    def call(self, *words: str) -> tuple[str, float]:
        """Run a command of the project: what it prints, and its CPU seconds with its children's."""
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.project,
            env=environment(self.data),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        after = os.times()
        user = after.children_user - before.children_user
        return done.stdout, user + after.children_system - before.children_system

    def settle(self, steps: dict[str, int]) -> None:
        """Compose the settings with these lengths, and make the caches."""
        limits = [
            f"{group}.{key}.train.trainer.max_steps={steps[stage]}"
            for stage, key, group in self.trainings
            if stage in steps
        ]
        words = [word for limit in ("threads=1", *limits) for word in ("-S", limit)]
        self.call(
            "plumbline", "run", self.experiment, *words, "-t", f"tokenize_text@{self.dataset}"
        )

    def train(self) -> dict[str, float]:
        """CPU seconds of each training."""
        return {stage: self.call(f"stages.{stage}", key)[1] for stage, key, _ in self.trainings}


def environment(data: Path) -> dict[str, str]:
    """Of all commands: this checkout's code, and where recipes find the data."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return {**os.environ, "PYTHONPATH": path, "PLUMBLINE_DATA": str(data)}


def lengths(side: Side) -> dict[str, int]:
    """Steps of each training as its settings have them."""
    return {
        stage: int(side.call("bench.imported", "--length", f"{group}.{key}")[0])
        for stage, key, group in side.trainings
    }


def length(name: str) -> int:
    """Steps of a training of the working folder's project."""
    target = open_target(read_call(name, []))
    job, config = target.job, target.config
    open_loader = partial(Loader, job.train, job.task.collate, config.train.loader)
    return epoch_ends(open_loader(seed=config.seed, shuffle=True), config.train.trainer)[-1]


def characters(project: Path, dataset: str, split: str) -> int:
    """Characters of a split's texts."""
    rows = iter_table(project / "work" / "clean" / dataset / f"{split}.parquet", ("text",))
    return sum(len(str(text)) for batch in rows for text in batch.column(0).to_pylist())


def measure(side: Side, budget: float) -> dict[str, object]:
    """Train within the budget and evaluate."""
    # What starts from an alignment is opened, and probed, on that of the first probe.
    few, many = ({stage: count for stage, _, _ in side.trainings} for count in PROBES)
    side.settle(few)
    start = side.train()
    side.settle(many)
    probed = side.train()
    cost = {stage: (probed[stage] - start[stage]) / (PROBES[1] - PROBES[0]) for stage in start}
    if min(cost.values()) <= 0:
        raise SystemExit(f"{side.experiment}: other processes hide what a step costs; run it alone")
    side.settle({})
    whole = lengths(side)
    opening = sum(start[stage] - PROBES[0] * cost[stage] for stage in start)
    share = min(1.0, (budget - opening) / sum(whole[stage] * cost[stage] for stage in whole))
    steps = {stage: max(1, int(count * share)) for stage, count in whole.items()}
    side.settle(steps)
    seconds = sum(side.train().values())
    side.call("stages.evaluate_model", side.task)
    # Metrics that are committed are the headlines alone.
    file = side.project / "work" / "evaluation" / "tasks" / side.task / "details.json"
    found = json.loads(file.read_text(encoding="utf-8"))["figures"]
    if side.figure == CHARACTERS:
        split = read_split(side)
        count = characters(side.project, side.dataset, split)
        found[CHARACTERS] = found["loss"] * found["tokens"] / count
    return {
        "cpu_s": round(seconds, 1),
        "steps": steps,
        "share": round(share, 3),
        "measure": side.figure,
        "figure": round(found[side.figure], 4),
    }


def read_split(side: Side) -> str:
    """The split that a task measures."""
    params = side.call("stages.evaluate_model", side.task, "--cfg", "job")[0]
    (line,) = [line for line in params.splitlines() if line.strip().startswith("split:")]
    return line.partition(":")[2].strip()


def open_side(root: Path, data: Path, name: str, which: str) -> Side:
    """A fresh project with the settings of one side."""
    one, project = SETS[name], root / f"{name}_{which}"
    command = [sys.executable, "-m", "plumbline", "init", str(project)]
    subprocess.run(command, env=environment(data), stdout=sys.stderr, check=True)
    if which == "recipe":
        figure = one.recipe_figure or one.figure
        return Side(project, data, name, one.folder, one.task, one.align, figure)
    mine = f"my_{name}"  # the names of recipes are taken
    side = Side(project, data, mine, mine, mine, None, one.figure)
    said, _ = side.call("plumbline", "import", str(data / one.folder), "--name", mine)
    print(said, file=sys.stderr)
    aligned = (project / "conf" / "align" / f"{mine}.yaml").is_file()
    return replace(side, align=mine if aligned else None)


def main(arguments: Sequence[str]) -> None:
    """Measure the named sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU, for each side")
    parser.add_argument("--side", choices=("imported", "recipe"))
    parser.add_argument("--length", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.length:
        print(length(options.length))
        return
    for name in options.sets or SETS:
        for which in [options.side] if options.side else ["imported", "recipe"]:
            with tempfile.TemporaryDirectory() as folder:
                side = open_side(Path(folder), options.data.resolve(), name, which)
                found = measure(side, 60 * options.minutes)
            line = {"set": name, "side": which, **found, **machine(), "threads": 1}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
