"""A sweep of the real pipeline, at the size of the smoke preset."""

import sys
from pathlib import Path

import pytest

from tests.pipeline.checkout import make_checkout

SWEEP = """\
space:
  tasks.vqa.train.trainer.optim.lr: {choice: [1.0e-5, 1.0e-2]}
metric: models/tasks/vqa/metrics.json:best.value
direction: minimize
sampler: grid
targets: [finetune@vqa]
"""


@pytest.mark.slow
def test_the_winner_of_a_sweep_is_found_in_the_run_cache(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (tmp_path / "sweeps/rate.yaml").write_text(SWEEP, encoding="utf-8")
    checkout.commit("Add a sweep")
    sweep = (
        "env",
        f"PYTHONPATH={tmp_path / 'src'}",
        sys.executable,
        "-m",
        "plumbline.sweep",
        "rate",
    )
    first = checkout.run(*sweep).stdout
    assert "2 runs were queued" in first
    assert "best: tasks.vqa.train.trainer.optim.lr=0.01;" in first
    assert "0 runs were queued" in checkout.run(*sweep).stdout

    ran = checkout.stages_run("dvc", "exp", "run", "-S", "experiment=rate_best", "finetune@vqa")
    assert ran == ["check_params"]  # conf/ has one file more
