"""Compiled passes give the losses and gradients of plain ones, and the same bits in any run."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plumbline.batch import Batch
from plumbline.training.compilation import Compilation
from plumbline.training.compile_config import CompileConfig
from plumbline.training.processes import Processes
from plumbline.training.task import TrainingJob
from plumbline.training.window import Gradients
from tests.tiny import CASES
from tests.training.together import ALONE, MakeJob

FEW = ("vlm", "causal_lm_rows")
"""What `make test` compiles; a program takes seconds to be made."""


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def all_kinds() -> list[Any]:
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def gradients(job: TrainingJob, compilation: Compilation) -> tuple[list[Any], dict[str, Tensor]]:
    """Losses of windows of unequal batches, and the gradients of their sum."""
    job.model.train().zero_grad()
    windows: list[list[Batch]] = [
        [job.task.collate([job.train.sample(i, 0) for i in rows])]
        for rows in ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    ]
    batches = [batch for window in windows for batch in window]
    compilation.see(batches, [])
    scaler = torch.GradScaler("cpu", enabled=False)
    compiled = replace(job, task=compilation.apply(job.model, job.task))
    with compilation.running():
        once = Gradients(compiled.model, compiled.task, ALONE, scaler)
        sums = [once.accumulate(window, [7]) for window in windows]
    found = {n: p.grad.clone() for n, p in job.model.named_parameters() if p.grad is not None}
    return sums, found


def compilation(mode: str = "default", **config: Any) -> Compilation:
    return Compilation(mode, CompileConfig(**config), Processes())


@pytest.mark.parametrize("name", all_kinds())
def test_a_compiled_task_gives_the_losses_and_gradients_of_a_plain_one(
    make_job: MakeJob, name: str
) -> None:
    job = make_job(name)
    sums, expected = gradients(job, compilation("none"))
    program = compilation()
    found_sums, found = gradients(job, program)
    print(name, program.facts())
    for one, other in zip(found_sums, sums, strict=True):
        assert one.count == other.count
        torch.testing.assert_close(one.total, other.total, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for parameter in expected:
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-4, atol=1e-5)
    assert not program.failure
