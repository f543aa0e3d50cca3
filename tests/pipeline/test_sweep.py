"""A sweep of the real pipeline, at the size of the smoke preset."""

import re
import sys
from pathlib import Path

import pytest

from tests.pipeline.checkout import Checkout, make_checkout

SWEEP = """\
space:
  tasks.vqa.train.trainer.optim.lr: {choice: [1.0e-5, 1.0e-2]}
metric: models/tasks/vqa/metrics.json:best.value
direction: minimize
sampler: grid
targets: [finetune@vqa]
"""
RATE = ("-m", "plumbline", "sweep", "rate")


@pytest.mark.slow
def test_another_machines_record_costs_no_second_alignment(own: Checkout) -> None:
    """HEAD names bits that this machine does not make, as on another type of processor."""
    lock = own.folder / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    model = re.search(r"path: models/align/image\n +hash: md5\n +md5: (\w+)\.dir", text)
    assert model is not None
    lock.write_text(text.replace(model[1], "0" * 32), encoding="utf-8")
    figures = own.folder / "metrics/align/image.json"
    other = figures.read_text(encoding="utf-8").replace("0.0", "0.00001")
    figures.write_text(other, encoding="utf-8")
    (own.folder / "sweeps/rate.yaml").write_text(SWEEP, encoding="utf-8")
    own.commit("Record another machine")
    sweep = own.run("env", f"PYTHONPATH={own.folder / 'src'}", sys.executable, *RATE)
    assert "2 runs were queued" in sweep.stdout
    ran = "".join(
        own.run("dvc", "queue", "logs", name).stdout
        for name in re.findall(r"\brate-\S+", own.run("dvc", "queue", "status").stdout)
    )
    assert ran.count("Running stage 'finetune@vqa'") == 2
    assert "Running stage 'pretrain_alignment@image'" not in ran
    grid = ("-S", "tasks.vqa.train.trainer.optim.lr=1e-4,3e-4", "finetune@vqa")
    own.run("dvc", "exp", "run", "--queue", *grid)
    ran_too = own.stages_run("dvc", "exp", "run", "--run-all")
    assert ran_too == ["check_params", "finetune@vqa"] * 2


@pytest.mark.slow
def test_the_winner_of_a_sweep_is_found_in_the_run_cache(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (tmp_path / "sweeps/rate.yaml").write_text(SWEEP, encoding="utf-8")
    checkout.commit("Add a sweep")
    sweep = ("env", f"PYTHONPATH={tmp_path / 'src'}", sys.executable, *RATE)
    first = checkout.run(*sweep).stdout
    assert "2 runs were queued" in first
    assert "best: tasks.vqa.train.trainer.optim.lr=0.01;" in first
    assert "0 runs were queued" in checkout.run(*sweep).stdout

    ran = checkout.stages_run("dvc", "exp", "run", "-S", "experiment=rate_best", "finetune@vqa")
    assert ran == ["check_params"]  # conf/ has one file more
