"""Has a change made something slower? Ratios to peers now against those before it.

    python -m bench.compare record    before a change: five runs of each subject are kept
    python -m bench.compare           after it: five more, and a verdict; exit code 1: slower
    python -m bench.compare tries     ten tries with 20 % of time added and ten without

A run is a process of its own, in which ours and the peer do the same work in turn on one thread;
its ratio is of their CPU seconds, so a machine that is busy slows both. Where the spread is too
wide for a verdict up to three times as many runs are made. Ratios of another machine or other
versions are no measure, and are refused. They are kept in .plumbline/bench.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from bench.machine import machine
from bench.verdict import Verdict, judge

KEPT = ROOT / ".plumbline/bench.json"
RUNS, MOST_RUNS = 5, 15
SUBJECTS = ("language_step", "loader", "text_metrics")
PLANTED = 0.2
Step = Callable[[], object]
Pair = tuple[Step, Step, int]
"""Ours, the peer, and how often they run in turn."""


def language_pair() -> Pair:
    """A training step of a causal language model."""
    import torch

    from bench import language_step
    from plumbline.kinds.causal_lm.train import collate
    from plumbline.kinds.language.loss import language_loss
    from plumbline.training.config import OptimConfig
    from plumbline.training.machine import Machine
    from plumbline.training.optim import build_optimizer
    from plumbline.training.processes import Processes
    from plumbline.training.task import Task
    from plumbline.training.window import Gradients

    torch.set_num_threads(1)
    rows = [language_step.Stream().sample(index, 0) for index in range(2)]
    task = Task("causal_lm", lambda samples: collate(samples, pad=0), language_loss)
    model = language_step.build().train()
    optimizer = build_optimizer(model, OptimConfig())
    scaler = torch.GradScaler("cpu", enabled=False)
    on = Machine(torch.device("cpu"), "fp32", Processes())
    gradients = Gradients(model, task, on, scaler)
    batch, ids = task.collate(rows), torch.stack([torch.from_numpy(row["ids"]) for row in rows])

    def ours() -> None:
        optimizer.zero_grad(set_to_none=True)
        gradients.accumulate([batch], [0])
        optimizer.step()

    bare = language_step.Bare()
    return ours, lambda: bare.step(ids), 5


def loader_pair() -> Pair:
    """An epoch of small images."""
    import tempfile

    import numpy as np
    import torch

    from bench import loader
    from plumbline.loading.input_config import ImageInputConfig

    torch.set_num_threads(1)
    random, config = np.random.default_rng(0), ImageInputConfig(modality="image")
    files = [loader.encode(random, 32) for _ in range(512)]
    with tempfile.TemporaryDirectory() as folder:
        cache = loader.make_cache(Path(folder), files)
        made = loader.our_loader(cache, config, 32, raw=False)
        items = loader.Items(files, config, 32)

        def ours() -> None:
            for _ in range(40):  # as long as the peer takes for one
                for _ in loader.our_batches(made):
                    pass

        def peer() -> None:
            for _ in loader.their_batches(items):
                pass

        ours()  # what is mapped stays so when the folder goes
    return ours, peer, 4


def text_pair() -> Pair:
    """BLEU and ROUGE of pairs that come once."""
    from bench import text_metrics

    said, meant = text_metrics.draw(text_metrics.PAIRS, 1)
    corpus = said[:300], meant[:300]
    return (
        lambda: (text_metrics.our_bleu(*corpus), text_metrics.our_rouge(*corpus)),
        lambda: (text_metrics.their_bleu(*corpus), text_metrics.their_rouge(*corpus)),
        4,
    )


PAIRS: Mapping[str, Callable[[], Pair]] = {
    "language_step": language_pair,
    "loader": loader_pair,
    "text_metrics": text_pair,
}


def ratio_of(subject: str, planted: float) -> float:
    """Be one run: CPU seconds of ours over the peer's, summed over turns after a first one.

    Args:
        subject: of `SUBJECTS`.
        planted: share of its own time that ours idles away behind each turn, in the processor.
    """
    import time

    from plumbline.config import fix_threads

    fix_threads(1)
    ours, peer, turns = PAIRS[subject]()
    spent = [0.0, 0.0]
    for turn in range(turns + 1):
        for which, step in enumerate((ours, peer)):
            began = time.process_time()
            step()
            took = time.process_time() - began
            while which == 0 and time.process_time() - began < took * (1 + planted):
                pass
            if turn:
                spent[which] += time.process_time() - began
    return spent[0] / spent[1]


def run(subject: str, planted: float = 0.0) -> float:
    """The ratio of one run, in a process of its own."""
    command = [sys.executable, "-m", "bench.compare", "one", subject, "--planted", str(planted)]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def verdict(subject: str, before: Sequence[float], planted: float = 0.0) -> Verdict:
    """Runs until it is clear, five at a time."""
    after: list[float] = []
    while len(after) < MOST_RUNS:
        after += [run(subject, planted) for _ in range(RUNS)]
        if (found := judge(before, after)).word != "unclear":
            break
    return found


def record(subjects: Sequence[str]) -> None:
    """Keep the ratios of now, in turn over the subjects."""
    ratios: dict[str, list[float]] = {subject: [] for subject in subjects}
    for _ in range(RUNS):
        for subject in subjects:
            ratios[subject].append(run(subject))
    KEPT.parent.mkdir(exist_ok=True)
    kept = {"machine": machine(), "ratios": ratios}
    KEPT.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    for subject, found in ratios.items():
        print(f"{subject}: {', '.join(f'{ratio:.3f}' for ratio in found)}")


def kept_ratios() -> dict[str, list[float]]:
    """What `record` kept.

    Raises:
        SystemExit: nothing, or on another machine.
    """
    if not KEPT.is_file():
        raise SystemExit("error: nothing to compare with; python -m bench.compare record")
    kept: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    if kept["machine"] != machine():
        raise SystemExit(f"error: {KEPT} was recorded on another machine or with other versions")
    ratios: dict[str, list[float]] = kept["ratios"]
    return ratios


def tries(subjects: Sequence[str], count: int) -> int:
    """Whether a planted slowdown is found each time, and none where there is none."""
    wrong = 0
    for subject in subjects:
        before = [run(subject) for _ in range(RUNS)]
        found: dict[float, list[Verdict]] = {0.0: [], PLANTED: []}
        for _ in range(count):
            for planted, verdicts in found.items():
                verdicts.append(verdict(subject, before, planted))
        words = {planted: [v.word for v in each] for planted, each in found.items()}
        alarms, hits = words[0.0].count("slower"), words[PLANTED].count("slower")
        wrong += alarms + count - hits
        changes = {
            "planted" if planted else "unchanged": [round(v.change, 3) for v in each]
            for planted, each in found.items()
        }
        facts = {"subject": subject, "tries": count, "found": hits, "alarms": alarms}
        print(json.dumps({**facts, "changes": changes, "words": words[0.0]}), flush=True)
    return int(wrong > 0)


def compare(subjects: Sequence[str]) -> int:
    """Verdicts on what is there now."""
    before, slower = kept_ratios(), 0
    for subject in subjects:
        if subject not in before:
            raise SystemExit(f"error: {subject}: not recorded; python -m bench.compare record")
        found = verdict(subject, before[subject])
        slower += found.word == "slower"
        print(f"{subject}: {found.word}, {found.change:.3f} of before (± {2 * found.error:.3f})")
    return int(slower > 0)


def main(arguments: Sequence[str]) -> int:
    """Record, compare or try."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("record", "compare", "tries", "one"),
                        default="compare")  # fmt: skip
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; none: all")
    parser.add_argument("--planted", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args(arguments)
    subjects = options.subjects or list(SUBJECTS)
    if unknown := set(subjects) - set(SUBJECTS):
        parser.error(f"{', '.join(unknown)}: no such subject")
    if options.what == "one":
        print(ratio_of(subjects[0], options.planted))
        return 0
    if options.what == "record":
        record(subjects)
        return 0
    return tries(subjects, options.count) if options.what == "tries" else compare(subjects)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
