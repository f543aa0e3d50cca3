"""The records arrive in a real MLflow database as they were written."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.tracking.forwarder import main
from plumbline.tracking.mlflow_store import EXPERIMENT, clean_name, open_store
from plumbline.tracking.record import record_run
from plumbline.tracking.run_store import RECORD_TAG, Metric, RejectedError, UnavailableError
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


@pytest.mark.filterwarnings("ignore")  # those of mlflow's own database code
def test_a_run_is_opened_once_and_what_is_logged_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"sqlite:///{tmp_path}/mlflow.db")
    store = open_store(address, tmp_path)
    assert open_store(address, tmp_path).experiment_id == store.experiment_id
    parent = store.open_run("pipeline", {RECORD_TAG: "a"}, 1_000, None)
    tags = {RECORD_TAG: "a/b.jsonl"}
    run = store.open_run("finetune@vqa", tags, 1_000, parent)
    assert store.open_run("finetune@vqa", tags, 2_000, parent) == run, "it was there already"
    points = [Metric("recall@1", step / 4, 1_000 + step, step) for step in range(3)]
    store.log(run, metrics=points, params={"lr": "x" * 7_000}, tags={"rows": "12"})
    (tmp_path / "plot.txt").write_text("small", encoding="utf-8")
    store.log_artifact(run, tmp_path / "plot.txt")
    with pytest.raises(RejectedError, match=r"absent\.txt: no file below"):
        store.log_artifact(run, tmp_path / "absent.txt")
    with pytest.raises(RejectedError):  # another value of a setting that a run has
        store.log(run, params={"lr": "1"})
    store.set_status(run, "FINISHED", 5_000)
    store.set_status(parent, "RUNNING", None)

    from mlflow import MlflowClient

    client = MlflowClient(address)
    found = client.get_run(run)
    assert (found.info.run_name, found.info.status, found.info.end_time) == (
        *("finetune@vqa", "FINISHED"),
        5_000,
    )
    assert found.data.params == {"lr": "x" * 6_000}
    assert found.data.tags["rows"] == "12"
    assert found.data.tags["mlflow.parentRunId"] == parent
    series = client.get_metric_history(run, "recall_at_1")
    assert sorted((one.step, one.value) for one in series) == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(run)] == ["plot.txt"]
    assert client.get_run(parent).info.status == "RUNNING"

    client.delete_experiment(store.experiment_id)
    with pytest.raises(UnavailableError, match="experiment plumbline is deleted in MLflow"):
        open_store(address, tmp_path)


def test_names_that_would_be_one_stay_two() -> None:
    names = ["recall@1", "recall_at_1", "a/../b", "a/b", "\u00e9", "e\u0301", "x" * 300, ""]
    cleaned = [clean_name(name) for name in names]
    assert cleaned[0] == "recall_at_1" == cleaned[1], "of one form, and never beside each other"
    assert len(set(cleaned)) == len(names) - 1
    assert all(re.fullmatch(r"[\w./ :-]{1,250}", name, re.ASCII) for name in cleaned)
