"""The stage `finetune` in float64; which samples each step had goes into a file of each process.

A script, so that torchrun can start it as it starts the stage: only mistakes are left to differ.
"""

import os
from pathlib import Path
from typing import Any

import plumbline.training.run
from plumbline.stage import run_stage
from plumbline.stages.finetune import main
from plumbline.training.window import Gradients
from tests.training.together import exact

open_job, add = plumbline.training.run.open_job, Gradients.add
samples = Path(os.environ["SAMPLES"]) / f"{os.environ.get('RANK', 'alone')}.txt"


def open_exactly(*arguments: Any, **options: Any) -> Any:
    return exact(open_job(*arguments, **options))


def add_noted(self: Gradients, window: Any, *rest: Any) -> Any:
    with samples.open("a", encoding="utf-8") as file:
        for batch in window:
            file.write(" ".join(str(int(i)) for i in batch["sample_index"]) + "\n")
    return add(self, window, *rest)


if __name__ == "__main__":
    plumbline.training.run.open_job = open_exactly
    Gradients.add = add_noted  # type: ignore[method-assign]
    run_stage(main)
