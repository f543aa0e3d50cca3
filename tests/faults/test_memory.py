"""A batch that does not fit costs one line and no state (FP10); memory does not grow with steps."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import TrainingError
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.history import FitResult
from plumbline.training.task import Task
from plumbline.training.trainer import Trainer
from tests.order import epoch_order
from tests.training.together import ALONE

SAMPLES, BATCH, TOO_LONG = 24, 4, 13
IMPOSSIBLE = 10**15
"""Numbers that no machine has memory for: more than a process can address."""


class Source:
    """Numbers, one of which asks the loss for more memory than there is."""

    def __len__(self) -> int:
        return SAMPLES

    def sample(self, index: int, epoch: int) -> Sample:
        return {"index": index, "x": torch.tensor([index / SAMPLES])}


def collate(samples: Sequence[Sample]) -> Batch:
    rows = torch.stack([sample["x"] for sample in samples])
    return {"x": rows, "sample_index": torch.tensor([s["index"] for s in samples])}


def train(folder: Path, allocate: Callable[[], Any], **settings: Any) -> FitResult:
    """Train with a loss that allocates when it meets the one sample."""

    def loss(model: nn.Module, batch: Batch) -> LossSum:
        if TOO_LONG in batch["sample_index"]:
            allocate()
        return LossSum(model(batch["x"]).square().sum(), torch.tensor(len(batch["x"])))

    base = {
        "device": "cpu",
        "precision": "fp32",
        "validate_every_epochs": 0,
        "checkpoint": {"every_steps": 1},
    }
    loader = Loader(Source(), collate, LoaderConfig(batch_size=BATCH), seed=0, shuffle=True)
    torch.manual_seed(0)
    trainer = Trainer(
        nn.Linear(1, 1),
        Task(name="toy", collate=collate, loss=loss),
        loader,
        None,
        TrainerConfig.model_validate({**base, **settings}),
        ALONE,
        store=CheckpointStore(folder, "f"),
        seed=0,
    )
    return trainer.fit()


ALLOCATORS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(IMPOSSIBLE),
    "numpy": lambda: np.empty(IMPOSSIBLE),
    "python": lambda: bytearray(IMPOSSIBLE),
}


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_sample_without_memory_is_named_with_its_step_and_keeps_the_state(
    tmp_path: Path, allocator: str
) -> None:
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, ALLOCATORS[allocator])
    text = str(caught.value)
    loader = Loader(Source(), collate, LoaderConfig(batch_size=BATCH), seed=0, shuffle=True)
    order = epoch_order(loader, 0)
    step = order.index(TOO_LONG) // BATCH
    assert step > 0
    assert text == (
        f"optimiser step {step}: out of memory; samples {order[step * BATCH : (step + 1) * BATCH]};"
        " one sample alone does not fit: set trainer.gradient_checkpointing: true, cut samples "
        "shorter or take a smaller model"
    )
    assert CheckpointStore(tmp_path, "f").latest() == tmp_path / f"step-{step}"
    # What was saved is good: where there is memory again, the training goes on to the same end.
    resumed = train(tmp_path, lambda: None)
    whole = train(tmp_path.with_name("whole"), lambda: None)
    assert resumed.history == whole.history


def test_a_batch_without_memory_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    result = train(tmp_path, ALLOCATORS["torch"], failing_batch="skip")
    (row,) = result.history.skipped
    assert row["reason"] == "out of memory"
    assert result.clock.global_step == SAMPLES // BATCH - 1
    assert (result.history.splits, result.facts["micro_batch_size"]) == ([], None)


ROOT = Path(__file__).resolve().parents[2]
GROWTH = """
import json, sys
from pathlib import Path
from tests.training.conftest import Toy

def resident_kb():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

found = []
def on_log(step, values):
    if "train/loss" in values:
        found.append(resident_kb() if len(found) + 1 in (100, 2000) else 0)

toy = Toy(Path(sys.argv[1]))
toy.trainer(samples=400, epochs=20, validate_every_epochs=1, on_log=on_log).fit()
assert len(found) == 2000
print(json.dumps([found[99], found[1999]]))
"""


@pytest.mark.slow
def test_two_thousand_steps_take_no_more_memory_than_a_hundred(tmp_path: Path) -> None:
    # In a process of its own: what else a test run holds would hide the growth.
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path / "state")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = json.loads(done.stdout)
    assert late < 1.02 * early
    # The history alone grows, by about 2 kB a step: the rows of its tables.
    assert late - early < 1900 * 4
