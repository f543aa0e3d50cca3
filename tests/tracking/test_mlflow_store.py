"""The records arrive in a real MLflow database as they were written."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.tracking.forwarder import main
from plumbline.tracking.mlflow_store import EXPERIMENT
from plumbline.tracking.record import record_run
from plumbline.tracking.trackers import TRACKERS


def recorded_series(path: Path, name: str) -> list[tuple[int, float]]:
    events: list[dict[str, Any]] = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    points = [e for e in events if e["event"] == "metrics" and name in e["values"]]
    return [(e["step"], float(e["values"][name])) for e in points]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of mlflow's own database code
def test_mlflow_holds_the_parameters_and_series_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "plot.txt").write_text("small", encoding="utf-8")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(6_000_000)
    config = {"seed": 7, "optim": {"lr": 3e-4}, "prompt": "x" * 7000}
    config |= {f"group{index}": {"value": index} for index in range(150)}
    with record_run(stage="finetune", key="vqa", config=config) as run:
        for step in range(700):
            run.metrics(step, {"loss": 1.0 / (step + 3), "recall@10": step / 700})
        run.metrics(700, {"loss": math.nan})
        run.facts({"rows": 12, "data.sha256": "ab12"})
        run.artifact(tmp_path / "plot.txt")
        run.artifact(tmp_path / "weights.bin")
        run.artifact(tmp_path / "absent.txt")
    for _ in range(2):  # the second has lost its state and sends everything again
        assert main(["--root", str(tmp_path), "--once"]) == 0
        (tmp_path / TRACKERS["mlflow"].state).unlink()

    from mlflow import MlflowClient  # takes seconds: only when the test is selected

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert run.path is not None
    assert set(runs) == {"finetune@vqa", run.path.parent.name}
    child, parent = runs["finetune@vqa"], runs[run.path.parent.name]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["data.sha256"] == "ab12"
    assert {child.info.status, parent.info.status} == {"FINISHED"}
    assert child.data.params["optim.lr"] == "0.0003"
    assert child.data.params["prompt"] == "x" * 6000
    assert len(child.data.params) == 153
    assert child.data.metrics["facts/rows"] == 12.0
    for name, series in (("loss", "loss"), ("recall@10", "recall_at_10")):
        history = client.get_metric_history(child.info.run_id, series)
        points = sorted((metric.step, metric.value) for metric in history)
        np.testing.assert_array_equal(points, recorded_series(run.path, name))  # NaN equals NaN
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["plot.txt"]
    assert not list(tmp_path.glob("mlflow.db.*"))
