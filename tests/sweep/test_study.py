"""What a sweep remembers survives a kill, and decides what is drawn next."""

from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import CheckpointError, ConfigError
from plumbline.sweep.config import SweepConfig
from plumbline.sweep.study import Point, Study, begin, bound_to

SETTINGS: dict[str, Any] = {
    "space": {
        "lr": {"low": 1e-4, "high": 1.0, "log": True},
        "width": {"choice": [32, 64, 128]},
    },
    "metric": "m.json:score",
    "direction": "maximize",
    "points": 9,
    "startup_points": 3,
}


def config(**changed: Any) -> SweepConfig:
    return SweepConfig.model_validate({**SETTINGS, **changed})


def score(point: Point) -> dict[str, float]:
    lr, width = (float(text.partition("=")[2]) for text in point.overrides)
    return {"": -((lr - 0.01) ** 2) + width}


def asked(study: Study) -> Point:
    point = study.ask()
    assert point is not None
    return point


def drawn(study: Study, count: int) -> list[tuple[str, ...]]:
    for _ in range(count):
        point = asked(study)
        study.tell_complete(point, score(point))
    return [point.overrides for point in study.points()]


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_a_reopened_study_draws_what_one_never_closed_draws(tmp_path: Path, sampler: str) -> None:
    changed: dict[str, Any] = {"sampler": sampler}
    if sampler == "grid":
        changed["space"] = {"lr": {"choice": [0.1, 0.2, 0.3]}, "width": {"choice": [1, 2, 3]}}
    settings = config(**changed)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = drawn(Study(tmp_path / "whole", settings), 8)
    for count in (3, 1, 4):
        cut = drawn(Study(tmp_path / "cut", settings), count)
    assert cut == whole
    assert len(set(whole)) == 8


def test_another_seed_of_the_sampler_draws_others(tmp_path: Path) -> None:
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        drawn(Study(folder, config(sampler_seed=seed)), 3)
    first, second = ({p.overrides for p in Study(f, config()).points()} for f in folders)
    assert not first & second


def test_tpe_learns_from_what_was_told(tmp_path: Path) -> None:
    study = Study(tmp_path, config(points=40))
    points = drawn(study, 40)
    widths = [point[1] for point in points]
    # By chance 7 of the last 20 would have the best width; drawn from a fixed seed.
    assert widths[20:].count("width=128") > 12


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_a_small_space_is_drawn_to_its_end_and_no_point_twice(tmp_path: Path, sampler: str) -> None:
    space = {"a": {"choice": [1, 2, 3]}, "b": {"low": 0, "high": 1, "int": True}}
    study = Study(tmp_path, config(space=space, sampler=sampler, points=50))
    found = set()
    while (point := study.ask()) is not None:
        assert point.overrides not in found
        found.add(point.overrides)
        study.tell_complete(point, {"": 1.0})
    assert len(found) == 6
    assert len(study.points()) == 6


def test_what_was_told_is_read_back(tmp_path: Path) -> None:
    study = Study(tmp_path, config())
    complete, failed, pruned, _ = (asked(study) for _ in range(4))
    study.mark_queued(complete, "s-1")
    study.mark_queued(complete, "s-2")
    study.tell_complete(complete, {"0": 1.0, "1": 2.0})
    study.tell_failed(failed, "no memory")
    study.mark_hopeless(pruned, "worse")
    study.tell_pruned(pruned)

    points = Study(tmp_path, config()).points()
    assert [point.state for point in points] == ["complete", "failed", "pruned", "running"]
    assert points[0].value == 1.5
    assert points[0].values == {"0": 1.0, "1": 2.0}
    assert points[0].queued == {"s-1", "s-2"}
    assert [point.reason for point in points[1:]] == ["no memory", "worse", None]
    assert points[1].value is None


def test_a_repeated_point_takes_the_place_of_the_failed_one(tmp_path: Path) -> None:
    study = Study(tmp_path, config())
    point = asked(study)
    study.mark_queued(point, "s-1")
    study.tell_failed(point, "no memory")
    again = study.repeat(point)
    assert again.overrides == point.overrides
    assert not again.queued
    assert [(p.number, p.state) for p in study.points()] == [(again.number, "running")]


def test_a_line_cut_by_a_power_failure_costs_that_line_alone(tmp_path: Path) -> None:
    points = drawn(Study(tmp_path, config()), 3)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "trial_')
    (tmp_path / "study.journal.lock").symlink_to(journal)  # held by a process that was killed
    study = Study(tmp_path, config())
    assert [point.overrides for point in study.points()] == points
    assert len(drawn(study, 1)) == 4
    assert len(Study(tmp_path, config()).points()) == 4


def test_a_trial_that_was_never_drawn_to_its_end_is_no_point(tmp_path: Path) -> None:
    study = Study(tmp_path, config())
    drawn(study, 1)
    journal = tmp_path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    study.ask()
    added = journal.read_bytes().splitlines(keepends=True)[len(lines) :]
    journal.write_bytes(b"".join([*lines, *added[:2]]))  # the trial and one of its two values
    study = Study(tmp_path, config())
    assert len(study.points()) == 1
    assert len(drawn(study, 1)) == 2


def test_reading_a_study_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no point of this sweep"):
        Study(tmp_path, config(), read_only=True)


def test_another_search_or_commit_is_refused_until_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    begin(folder, config(), "a" * 40, new=False)
    drawn(Study(folder, config()), 2)
    begin(folder, config(points=20), "a" * 40, new=False)
    with pytest.raises(ConfigError, match=r"s: the commit went from aaaaaaaa to bbbbbbbb.*--new"):
        begin(folder, config(), "b" * 40, new=False)
    with pytest.raises(ConfigError, match=r"s: sampler, seeds changed in its file.*--new"):
        begin(folder, config(sampler="random", seeds=[1]), "a" * 40, new=False)
    assert len(Study(folder, config()).points()) == 2

    begin(folder, config(), "b" * 40, new=True)
    assert bound_to(folder, config()) == "b" * 40
    assert Study(folder, config()).points() == []
    (kept,) = folder.glob("before-*")
    assert len(Study(kept, config()).points()) == 2


def prune(**changed: Any) -> SweepConfig:
    rule = {"stage": "finetune@vqa", "after_points": 2, "after_values": 1, **changed}
    return config(prune=rule)


def test_the_median_rule_stops_what_is_worse_at_the_same_place(tmp_path: Path) -> None:
    study = Study(tmp_path, prune())
    for values in ([1.0, 2.0], [1.0, 3.0], [1.0, 4.0]):
        point = asked(study)
        assert not study.report(point, values)
        study.tell_complete(point, {"": values[-1]})
    worse, better = asked(study), asked(study)
    assert not study.report(worse, [0.0])  # within after_values
    assert study.report(worse, [0.0, 2.9])
    assert not study.report(better, [0.0, 3.1])


def test_nothing_is_stopped_before_enough_points_have_ended(tmp_path: Path) -> None:
    study = Study(tmp_path, prune())
    first, second = asked(study), asked(study)
    study.report(first, [5.0, 5.0])
    study.tell_complete(first, {"": 5.0})
    assert not study.report(second, [0.0, 0.0])
