"""What is taken from the queue, and what is done about it, with a queue that a test can drive."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import DataError, PlumblineError
from plumbline.sweep import runner as runner_module
from plumbline.sweep.config import SweepConfig
from plumbline.sweep.queue import QueuedRun
from plumbline.sweep.runner import Runner, figure_of
from plumbline.sweep.search import Search
from plumbline.sweep.study import Point, Study
from plumbline.sweep.table import best_of

BASELINE = "a" * 40


class DrivenQueue:
    """Runs end as `outcome` says, one look after they were queued."""

    def __init__(self) -> None:
        self.entries: dict[str, QueuedRun] = {}
        self.done: dict[str, str] = {}
        self.overrides: dict[str, list[str]] = {}
        self.submitted: list[str] = []
        self.stopped: list[str] = []
        self.failing: set[str] = set()
        self.slow: set[str] = set()
        self.unbegun = 0
        """Runs that fail before DVC begins them, from the first on."""
        self.most = 0

    def settle(self) -> None:
        return None

    def unfinished(self) -> dict[str, QueuedRun]:
        return dict(self.entries)

    def succeeded(self, baseline: str) -> dict[str, str]:
        assert baseline == BASELINE
        return dict(self.done)

    def submit(self, name: str, overrides: Sequence[str], targets: Sequence[str]) -> None:
        assert name not in self.entries, "the name is taken"
        self.submitted.append(name)
        self.overrides[name] = list(overrides)
        self.entries[name] = QueuedRun("queued", name)
        waiting = [e for e in self.entries.values() if e.state in ("queued", "running")]
        self.most = max(self.most, len(waiting))

    def start_workers(self, jobs: int) -> None:
        for name, entry in list(self.entries.items()):
            texts = " ".join(self.overrides[name])
            busy = sum(other.state == "running" for other in self.entries.values())
            if entry.state == "queued" and 0 < len(self.submitted) <= self.unbegun:
                self.entries[name] = QueuedRun("failed", name)
            elif entry.state == "queued" and busy < jobs:
                self.entries[name] = QueuedRun("running", name)
            elif entry.state == "running" and any(text in texts for text in self.failing):
                self.entries[name] = QueuedRun("failed", name)
            elif entry.state == "running" and not any(text in texts for text in self.slow):
                del self.entries[name]
                self.done[name] = name

    def stop(self, name: str) -> None:
        self.stopped.append(name)
        self.entries[name] = QueuedRun("failed", name)

    def discard(self, name: str, run: QueuedRun) -> None:
        del self.entries[name]

    def failure(self, rev: str) -> str | None:
        return None if self.unbegun else "out of memory"

    def read(self, commit: str, path: str) -> str:
        values = dict(text.split("=") for text in self.overrides[commit])
        score = float(values["x"]) + 0.1 * float(values.get("seed", 0))
        return json.dumps({"score": score})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("x: 0\ny: a\nseed: 0\n", encoding="utf-8")
    monkeypatch.setattr(runner_module, "POLL_S", 0.0)
    monkeypatch.setattr(runner_module, "baseline_of", lambda root: BASELINE)
    return tmp_path


def config(**changed: Any) -> SweepConfig:
    settings: dict[str, Any] = {
        "space": {"x": {"choice": [1, 2, 3, 4]}},
        "metric": "m.json:score",
        "direction": "maximize",
        "sampler": "grid",
    }
    return SweepConfig.model_validate({**settings, **changed})


def search(project: Path, settings: SweepConfig, queue: DrivenQueue, **options: Any) -> list[Point]:
    study = Study(project, settings)
    said: list[str] = []
    driver = Runner(Search(project, "s", settings, BASELINE), study, queue, said.append)  # type: ignore[arg-type]
    driver.run(retry_failed=options.get("retry_failed", False))
    return study.points()


def test_the_objective_is_the_mean_over_seeds(project: Path) -> None:
    queue = DrivenQueue()
    points = search(project, config(seeds=[1, 2, 6]), queue)
    assert [point.value for point in points] == pytest.approx([1.3, 2.3, 3.3, 4.3], abs=1e-12)
    assert points[0].values == pytest.approx({"1": 1.1, "2": 1.2, "6": 1.6}, abs=1e-12)
    assert len(queue.submitted) == 12
    best = best_of(points, "maximize")
    assert best is not None
    assert best.overrides == ("x=4",)


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_runs_are_under_way_than_jobs(project: Path, jobs: int) -> None:
    queue = DrivenQueue()
    search(project, config(jobs=jobs), queue)
    assert queue.most == jobs


def test_a_failed_run_has_no_figure_and_the_others_go_on(project: Path) -> None:
    queue = DrivenQueue()
    queue.failing = {"x=2"}
    points = search(project, config(), queue)
    assert [point.state for point in points] == ["complete", "failed", "complete", "complete"]
    assert points[1].value is None
    assert points[1].values == {}
    assert points[1].reason is not None
    assert points[1].reason.startswith("out of memory (dvc queue logs s-")


def test_only_failed_points_are_repeated_and_only_when_asked(project: Path) -> None:
    queue = DrivenQueue()
    queue.failing = {"x=2"}
    search(project, config(), queue)
    queue.failing, before = set(), list(queue.submitted)
    assert search(project, config(), queue)[1].state == "failed"
    assert queue.submitted == before
    points = search(project, config(), queue, retry_failed=True)
    assert [queue.overrides[run] for run in queue.submitted[len(before) :]] == [["x=2"]]
    assert sorted(point.value or 0 for point in points) == [1, 2, 3, 4]


def test_a_failed_seed_fails_the_point_and_a_repetition_runs_that_seed_alone(project: Path) -> None:
    queue = DrivenQueue()
    queue.failing = {"x=2 seed=5"}
    points = search(project, config(seeds=[4, 5]), queue)
    assert [point.state for point in points].count("failed") == 1
    queue.failing, before = set(), len(queue.submitted)
    points = search(project, config(seeds=[4, 5]), queue, retry_failed=True)
    assert [queue.overrides[run] for run in queue.submitted[before:]] == [["x=2", "seed=5"]]
    assert [point.state for point in points] == ["complete"] * 4


def test_a_figure_that_is_missing_fails_the_point(project: Path) -> None:
    points = search(project, config(metric="m.json:scor"), DrivenQueue())
    assert {point.state for point in points} == {"failed"}
    assert points[0].reason == "m.json: no scor; did you mean score?"


def test_a_run_lost_with_its_worker_is_queued_again(project: Path) -> None:
    queue = DrivenQueue()
    lost = []

    def start(jobs: int) -> None:
        for name, entry in queue.entries.items():
            if entry.state == "running" and not lost:
                lost.append(name)
                queue.entries[name] = QueuedRun("lost", name)
                return
        DrivenQueue.start_workers(queue, jobs)

    queue.start_workers = start  # type: ignore[method-assign]
    points = search(project, config(), queue)
    assert [point.state for point in points] == ["complete"] * 4
    assert queue.submitted.count(lost[0]) == 2
    assert len(queue.submitted) == 5


def test_a_run_that_keeps_vanishing_fails(project: Path) -> None:
    queue = DrivenQueue()

    def start(jobs: int) -> None:
        queue.entries.clear()

    queue.start_workers = start  # type: ignore[method-assign]
    points = search(project, config(points=1), queue)
    assert [point.state for point in points] == ["failed"]
    assert "vanishes" in str(points[0].reason)
    assert len(queue.submitted) == 3


@pytest.mark.parametrize(("unbegun", "state"), [(2, "complete"), (3, "failed")])
def test_a_run_that_dvc_does_not_begin_is_queued_again_but_not_for_ever(
    project: Path, unbegun: int, state: str
) -> None:
    queue = DrivenQueue()
    queue.unbegun = unbegun
    (point,) = search(project, config(points=1), queue)
    assert point.state == state
    assert len(queue.submitted) == 3
    if state == "failed":
        assert "never begins; .dvc/tmp/exps/celery/ has the logs" in str(point.reason)


def test_runs_of_a_killed_command_are_taken_up_not_queued_twice(project: Path) -> None:
    queue, settings = DrivenQueue(), config()
    study = Study(project, settings)
    points = [study.ask() for _ in range(3)]
    ours = Search(project, "s", settings, BASELINE)
    for point, state in zip(points, ("queued", "running", "done"), strict=True):
        assert point is not None
        (run,) = ours.runs(point.overrides).values()
        queue.overrides[run] = ours.overrides(point.overrides, "")
        if state == "done":
            queue.done[run] = run
        else:
            queue.entries[run] = QueuedRun(state, run)  # type: ignore[arg-type]
    ended = search(project, settings, queue)
    assert [point.value for point in ended] == [1, 2, 3, 4]
    assert [queue.overrides[run] for run in queue.submitted] == [["x=4"]]


def test_what_failed_before_the_study_began_is_run_anew(project: Path) -> None:
    queue, settings = DrivenQueue(), config(points=1)
    (run,) = Search(project, "s", settings, BASELINE).runs(("x=1",)).values()
    queue.entries[run] = QueuedRun("failed", run)
    assert [point.state for point in search(project, settings, queue)] == ["complete"]
    assert queue.submitted == [run]


def test_a_changed_checkout_ends_the_sweep_and_fails_no_point(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "baseline_of", lambda root: "b" * 40)
    with pytest.raises(PlumblineError, match="HEAD is bbbbbbbb now, this sweep runs on aaaaaaaa"):
        search(project, config(), DrivenQueue())
    assert [point.state for point in Study(project, config()).points()] == ["running"]


def record(project: Path, run: str, values: list[float]) -> None:
    folder = project / ".plumbline/runs" / f"20260101-000000-{run}-77"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"event": "metrics", "step": 7 * n, "values": {"val/loss": value}})
        for n, value in enumerate(values, start=1)
    ]
    (folder / "finetune@vqa-77.jsonl").write_text(
        "\n".join(lines) + '\n{"event": "met', encoding="utf-8"
    )


def test_a_hopeless_run_is_stopped_and_kept_as_pruned(project: Path) -> None:
    rule = {"stage": "finetune@vqa", "after_points": 2, "after_values": 1}
    settings = config(space={"x": {"choice": [4, 3, 1, 2]}}, seeds=[0, 1], prune=rule)
    queue = DrivenQueue()
    queue.slow = {"x=1 seed=0"}  # it would never end by itself
    ours = Search(project, "s", settings, BASELINE)
    losses = {"x=4": [1.0, 0.2], "x=3": [1.0, 0.3], "x=1": [0.9, 0.9], "x=2": [1.0, 0.1]}

    def start(jobs: int) -> None:
        DrivenQueue.start_workers(queue, jobs)
        for name, entry in queue.entries.items():
            if entry.state == "running":
                record(project, name, losses[queue.overrides[name][0]])

    queue.start_workers = start  # type: ignore[method-assign]
    points = search(project, settings, queue)
    assert [point.state for point in points] == ["complete", "complete", "pruned", "complete"]
    assert points[2].reason == "val/loss number 2 is worse than the median of other points"
    assert queue.stopped == [ours.runs(("x=1",))["0"]]
    # The other seed of the stopped point was not run to its end for nothing.
    assert ours.runs(("x=1",))["1"] not in queue.done


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('{"a": {"b": NaN}}', "a.b", r"a\.b = nan is no finite number"),
        ('{"a": {"b": true}}', "a.b", "is no finite number"),
        ('{"a": {"b": "1"}}', "a.b", "is no finite number"),
        ('{"a": {"loss": 1}}', "a.los", r"no a\.los; did you mean loss\?"),
        ('{"a": 1}', "a.b", r"no a\.b$"),
        ("{", "a", "not readable"),
    ],
)
def test_only_a_finite_number_is_an_objective(text: str, key: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        figure_of(text, "m.json", key)


def test_an_objective_is_read_from_json_and_yaml() -> None:
    assert figure_of('{"a": {"b": 2}}', "m.json", "a.b") == 2.0
    assert figure_of("a:\n  b: 1e-3\n", "m.yaml", "a.b") == 1e-3


def test_a_figure_that_git_does_not_record_is_said_to_be_in_the_details() -> None:
    with pytest.raises(
        DataError,
        match=r"no token_f1.*in work/evaluation/tasks/vqa/details\.json:figures\.token_f1$",
    ):
        figure_of('{"exact_match": 0.5}', "metrics/tasks/vqa.json", "token_f1")
