"""Training in bf16 stays by training in fp32, for every kind of task."""

from collections.abc import Callable

import pytest
import torch

from plumbline.batch import Batch
from plumbline.models.device import autocast
from plumbline.training.task import TrainingJob
from tests.tiny import CASES

CPU = torch.device("cpu")
MakeJob = Callable[..., TrainingJob]
STEPS, TOLERANCE = 12, 0.015
"""Optimiser steps, and the share by which the loss after them may differ; bf16 has 8 bits."""


def losses_of(job: TrainingJob, batch: Batch, precision: str) -> list[float]:
    """The loss per target before each step over one batch, and after the last."""
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=3e-3)
    found = []
    for step in range(STEPS + 1):
        torch.manual_seed(step)
        with autocast(CPU, precision):
            loss = job.task.loss(job.model, batch)
        mean = loss.total / loss.count
        found.append(mean.item())
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
    return found


@pytest.mark.parametrize("name", CASES)
def test_bf16_trains_as_fp32_does_within_the_stated_tolerance(make_job: MakeJob, name: str) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        job = make_job(name)
        batch = job.task.collate([job.train.sample(i, 0) for i in range(min(12, len(job.train)))])
        found[precision] = losses_of(job, batch, precision)
    exact, half = found["fp32"], found["bf16"]
    assert half != exact, "it was not computed in bf16 at all"
    assert half == pytest.approx(exact, rel=TOLERANCE)
    assert exact[-1] < 0.97 * exact[0], "nothing was learned that could have gone astray"
