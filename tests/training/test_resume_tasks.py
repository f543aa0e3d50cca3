"""Every kind of task: killed anywhere and resumed, and for any number of workers, the same bits.

With shuffling, augmentation, dropped words and captions, drawn widths.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake

from plumbline.batch import Batch
from plumbline.files import read_digests
from plumbline.training.processes import Processes
from plumbline.training.sections import TrainingConfig
from plumbline.training.task import Task, TrainingJob
from tests.tiny import CASES
from tests.training.together import settings as common_settings
from tests.training.together import train as train_with

MakeJob = Callable[..., TrainingJob]

PACKED = ["causal_lm_rows", "masked_lm_rows", "seq2seq", "vlm", "vlm_turns"]
"""Cases whose rows may be packed."""
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in CASES},
    "align_image": ("align_image", {"sample_width": True}),
    **{f"{name}, packed": (name, {"rows": "packed"}) for name in PACKED},
}
"""Name -> a case, and what is random or otherwise in it beside what it has anyway."""

MICRO_BATCHES = 5
"""Of an epoch: windows of two, two and one."""


def run(workers: int = 0, **trainer: Any) -> TrainingConfig:
    return common_settings(batch_size=1, workers=workers, checkpoint={"every_steps": 1}, **trainer)


def fitting(job: TrainingJob, settings: TrainingConfig) -> TrainingConfig:
    """The settings with the batch size that gives the epoch its micro-batches."""
    size = -(-len(job.train) // MICRO_BATCHES)
    loader = settings.train.loader.model_copy(update={"batch_size": size})
    train = settings.train.model_copy(update={"loader": loader})
    return settings.model_copy(update={"train": train})


def train(job: TrainingJob, settings: TrainingConfig, out: str) -> dict[str, str]:
    torch.manual_seed(os.getpid())  # what a new process begins with must not matter
    train_with(job, fitting(job, settings), Path(out), Processes())
    found = read_digests(Path(out))
    del found["config.json"]  # the settings, in which numbers of workers differ
    return found


class Killed(Exception):
    """Stands for the death of the process."""


def killed_at(task: Task, micro_batch: int) -> Task:
    """The task whose forward pass number `micro_batch` of a training, from 0, ends the process."""
    calls = iter(range(10**6))

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: nn.Module, batch: Batch) -> Any:
            real = not is_fake(next(model.parameters()))  # the estimate of memory has no weights
            if real and model.training and next(calls) == micro_batch:
                raise Killed
            return function(model, batch)

        return call

    window = task.window and replace(task.window, embed=dying(task.window.embed))
    return replace(task, loss=dying(task.loss), window=window)


KILLS = [1, 2, 0, 3, 1]
"""Micro-batches that each attempt in turn still makes: within the first accumulation, after a
step, at once after a resume, over the end of an epoch, within an accumulation again."""


@pytest.mark.parametrize("form", list(FORMS))
def test_a_training_killed_in_five_places_ends_in_the_same_bits(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    name, task = FORMS[form]
    whole = train(make_job(name, task=task), run(), "whole")
    forward_passes = 1 if CASES[name].additive else 2  # of a micro-batch
    for passes in KILLS:
        job = make_job(name, task=task)
        validated = replace(
            job,
            task=killed_at(job.task, passes * forward_passes),
            validation_task=job.validation_task or job.task,
        )
        with pytest.raises(Killed):
            train(validated, run(), "parted")
        assert not Path("parted").exists()
    assert list(Path(".ckpt").rglob("step-*"))
    # The last attempt has loader workers, which the ones before had not.
    assert train(make_job(name, task=task), run(workers=2), "parted") == whole


@pytest.mark.parametrize(
    "form",
    ["image", "text_words", "align_image", "masked_lm_rows"]
    + [f"{name}, packed" for name in PACKED],
)
def test_any_number_of_workers_ends_in_the_same_bits(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    name, task = FORMS[form]
    found = [
        train(make_job(name, task=task), run(workers), f"workers-{workers}")
        for workers in (0, 1, 4)
    ]
    assert found[1] == found[0]
    assert found[2] == found[0]
