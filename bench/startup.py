"""Claim: a process imports what it needs: a training in seconds, an answer in two `import torch`.

In turn, in CPU seconds of fresh processes, medians of five: `import torch`, what the training stage
of each kind imports, and `plumbline predict` of a language model and of classifiers of images and
recordings. One JSON line. `python -m bench.startup [--repeats 5]`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

KINDS = ("vlm", "causal_lm", "masked_lm", "seq2seq", "classification", "regression")
TRAINING = """
from plumbline.config import fix_threads
from plumbline.imports import importing, leave
from plumbline.kind import known_kinds
fix_threads(1)
with importing():
    import plumbline.stages.training_stage, plumbline.training.run
known_kinds()[{kind!r}].role("train")
leave()
"""
PREDICTS = {
    "language": ("causal_lm_rows", ("--prompt", "a")),
    "image": ("image", ("--image", "x.png")),
    "features": ("features", ("--features", "x.npy")),
}
"""What is asked: a tiny model of the tests, and how."""


def store(folder: Path, case_name: str) -> None:
    """A model with random weights, as a training leaves it."""
    from plumbline.files import dump_json, write_digests
    from plumbline.kind import known_kinds
    from plumbline.models.stored import save_model
    from plumbline.training.task import JobContext
    from tests.tiny import CASES, TOKENIZE, make_cache, write_clean

    case, work = CASES[case_name], folder.with_suffix(".data")
    (work / "clean").mkdir(parents=True)
    write_clean(work / "clean", case.data)
    cache = make_cache(work, TOKENIZE.get(case.data, {"tokenizer": {"kind": "char"}}))
    # Where a model of features finds their statistics.
    shutil.copytree(work / "cache", folder.parent / "work/cache" / case.data)
    kind = known_kinds()[case.kind]
    job = kind.role("train").build(
        JobContext(cache=cache, seed=0),
        kind.settings.model.model_validate(case.model),
        kind.settings.task.model_validate(case.task),
    )
    folder.mkdir()
    save_model(folder, job.model, job.spec, job.tokenizer)
    (folder / "config.json").write_text(dump_json({"data": case.data}), encoding="utf-8")
    write_digests(folder)


def prepare(folder: Path) -> None:
    """Models and inputs, in a process that ends before anything is measured."""
    import numpy as np
    from PIL import Image

    for name, (case, _) in PREDICTS.items():
        store(folder / name, case)
    Image.new("RGB", (16, 16), "red").save(folder / "x.png")
    np.save(folder / "x.npy", np.zeros((12, 3), np.float32))


def cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """Of a process and its children.

    Raises:
        SystemExit: it failed.
    """
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    before = os.times()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return sum(after[2:4]) - sum(before[2:4])


def commands() -> Mapping[str, Sequence[str]]:
    """What is run, by name."""
    python = (sys.executable, "-c")
    predict = (sys.executable, "-m", "plumbline", "predict", "task", "--model")
    return {
        "torch": (*python, "import torch"),
        **{f"finetune_{kind}": (*python, TRAINING.format(kind=kind)) for kind in KINDS},
        **{name: (*predict, name, *options) for name, (_, options) in PREDICTS.items()},
    }


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prepare", type=Path, help="make the models in this folder, and end")
    options = parser.parse_args(arguments)
    if options.prepare:
        prepare(options.prepare)
        return
    repeats = options.repeats
    seconds: dict[str, list[float]] = {name: [] for name in commands()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cpu_seconds((sys.executable, "-m", "bench.startup", "--prepare", place), ROOT)
        for _ in range(repeats):
            for name, command in commands().items():
                seconds[name].append(cpu_seconds(command, folder))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(found, seconds["torch"], strict=True))
        for name, found in seconds.items()
    }
    print(
        json.dumps(
            {
                "torch_s": round(medians["torch"], 2),
                "imports_s": {n: round(m, 2) for n, m in medians.items() if "finetune" in n},
                "predict_s": {n: round(medians[n], 2) for n in PREDICTS},
                "predict_ratio": {n: round(ratios[n], 2) for n in PREDICTS},
                "repeats": repeats,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
