"""Each stage is judged, and a difference is traced to where it began."""

from dataclasses import replace
from typing import Any

import pytest

from plumbline.reproduction.compare import (
    Outcome,
    Side,
    StageResult,
    Status,
    changed_inputs,
    compare,
    compare_figures,
)
from plumbline.reproduction.tolerance import Allowed, Rule, Tolerances
from tests.reproduction.sides import DONE, FIGURES, SHAPE, side, stages

LOOSE = Tolerances(
    default=Allowed(absolute=0.05),
    figures=[Rule(figure="*:questions")],
    exact=["draw", "clean"],
)


def run(record: Side, rerun: Side, outcome: Outcome = DONE) -> dict[str, StageResult]:
    return {result.name: result for result in compare(record, rerun, outcome, LOOSE)}


def statuses(results: dict[str, StageResult]) -> dict[str, str]:
    return {name: str(result.status) for name, result in results.items()}


def moved(exact_match: float, questions: float = 100.0) -> dict[str, dict[str, Any]]:
    return {
        "metrics/tasks/a.json": {"tasks/a:exact_match": exact_match, "tasks/a:questions": questions}
    }


RETRAINED = {
    "models__a": "1a.dir",
    "work__evaluation__a": "1b.dir",
    "metrics__tasks__a.json": "1c",
    "exports__a": "1d.dir",
    "report": "1e.dir",
}
"""What differs when the training gave other weights."""


def test_the_same_bytes_are_equal() -> None:
    results = run(side(), side())
    assert set(statuses(results).values()) == {"equal"}
    assert list(results) == list(SHAPE)
    assert all(r.output is None and r.consequence_of is None for r in results.values())


def test_seconds_are_those_of_the_rerun() -> None:
    assert run(side(), side(), Outcome({"train": 4.5}))["train"].seconds == 4.5


def test_other_weights_with_near_figures_are_within_tolerance() -> None:
    results = run(side(), side(stages(**RETRAINED), moved(0.93)))
    within = ["train", "measure", "export", "report"]
    expected = {name: "within tolerance" if name in within else "equal" for name in SHAPE}
    assert statuses(results) == expected
    difference = results["measure"].figures[0]
    assert (difference.recorded, difference.found, difference.within) == (0.9, 0.93, True)


def test_other_weights_with_far_figures_are_different_from_the_training_on() -> None:
    results = run(side(), side(stages(**RETRAINED), moved(0.7)))
    assert statuses(results)["train"] == "different"
    assert statuses(results)["measure"] == "different"
    assert statuses(results)["export"] == "different"
    assert results["train"].consequence_of is None
    assert {results[n].consequence_of for n in ("measure", "export", "report")} == {"train"}


def test_a_count_may_not_move_at_all() -> None:
    results = run(side(), side(stages(**RETRAINED), moved(0.9, questions=101.0)))
    assert results["measure"].status == Status.DIFFERENT


def test_a_data_stage_has_no_tolerance() -> None:
    changed = stages(work__raw="1.dir", **RETRAINED)
    results = run(side(), side(changed, moved(0.9)))
    assert results["draw"].status == Status.DIFFERENT
    assert results["train"].status == Status.WITHIN


def test_a_stage_that_nothing_measures_is_as_good_as_its_sources() -> None:
    alone = run(side(), side(stages(report="1.dir")))
    assert alone["report"].status == Status.DIFFERENT
    assert alone["report"].consequence_of is None
    after = run(side(), side(stages(**RETRAINED), moved(0.93)))
    assert after["report"].status == Status.WITHIN


def test_a_consequence_needs_an_input_that_differs() -> None:
    """Only the quarantine differs: the report reads it, the training does not."""
    changed = stages(work__quarantine="1.dir", models__a="2.dir", report="3.dir")
    results = run(side(), side(changed))
    assert results["clean"].consequence_of is None
    assert results["train"].consequence_of is None
    assert results["report"].consequence_of == "clean"


def test_a_difference_that_ends_on_the_way_has_no_consequences() -> None:
    results = run(side(), side(stages(work__raw="1.dir", models__a="2.dir")))
    assert results["clean"].status == Status.EQUAL
    assert results["train"].consequence_of is None


def test_the_first_differing_file_is_named_and_never_the_digests_alone() -> None:
    old = {"0models/a.dir": {"digests.json": "1", "model.bin": "2", "train.csv": "3"}}
    new = {"1a.dir": {"digests.json": "9", "model.bin": "2", "train.csv": "8"}}
    results = run(side(files=old), side(stages(models__a="1a.dir"), files=new))
    assert (results["train"].output, results["train"].file) == ("models/a", "train.csv")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"b": "1"}, {"a": "1", "b": "1"}, ("a", "only in the rerun")),
        ({"a": "1", "b": "1"}, {"b": "1"}, ("a", "only in the record")),
        ({"digests.json": "1"}, {"digests.json": "2"}, ("digests.json", None)),
    ],
)
def test_a_file_of_one_side_is_named_with_its_side(
    old: dict[str, str], new: dict[str, str], expected: tuple[str, str | None]
) -> None:
    record = side(files={"0models/a.dir": old})
    result = run(record, side(stages(models__a="1a.dir"), files={"1a.dir": new}))["train"]
    assert (result.file, result.detail) == expected


def test_without_the_list_of_files_the_folder_is_named() -> None:
    result = run(side(), side(stages(models__a="1a.dir")))["train"]
    assert (result.output, result.file) == ("models/a", None)
    assert result.detail == "the record's list of its files is not in the DVC cache"


def test_a_stage_of_the_record_alone_is_missing() -> None:
    lock = stages()
    del lock["export"]
    results = run(side(), side(lock))
    assert results["export"].status == Status.MISSING
    assert results["report"].status == Status.EQUAL


def test_a_stage_of_the_rerun_alone_is_extra() -> None:
    lock = stages()
    del lock["export"]
    results = run(side(lock), side())
    assert results["export"].status == Status.EXTRA
    assert results["measure"].status == Status.EQUAL


def test_after_a_failure_the_rest_has_not_run() -> None:
    lock = {name: entry for name, entry in stages().items() if name in ("draw", "clean")}
    outcome = Outcome({"draw": 1.0, "clean": 1.0, "train": 2.0}, "train", "error: no memory")
    results = run(side(), side(lock, {}), outcome)
    assert statuses(results) == {
        "draw": "equal",
        "clean": "equal",
        "train": "failed",
        "measure": "not run",
        "export": "not run",
        "report": "not run",
    }
    assert results["train"].detail == "error: no memory"


def test_a_failure_in_a_stage_that_the_record_does_not_know_is_told() -> None:
    outcome = Outcome({"new": 1.0}, "new", "error: x")
    assert run(side({}), side({}), outcome)["new"].status == Status.FAILED


def test_what_else_went_in_is_named_apart_from_what_stages_made() -> None:
    old, new = stages()["train"], stages(src__train="9", work__clean="9")["train"]
    new = replace(new, params={"params.yaml:seed": 1})
    assert changed_inputs(old, new, stages()) == ["src/train", "params.yaml:seed"]
    assert changed_inputs(old, replace(old, command="other"), stages()) == ["cmd"]


def test_a_folder_that_stages_write_into_is_no_input_of_its_own() -> None:
    old = stages()["report"]
    assert changed_inputs(old, replace(old, deps={**old.deps, "exports": "9"}), stages()) == []


@pytest.mark.parametrize(
    ("old", "new", "within"),
    [
        (0.9, 0.95, True),
        (0.9, 0.951, False),
        (0.9, "x", False),
        ("a", "b", False),
        (None, 1, False),
    ],
)
def test_figures_are_compared_by_their_distance(old: Any, new: Any, within: bool) -> None:
    name = "tasks/a:exact_match"
    recorded = {} if old is None else {name: old}
    assert [d.within for d in compare_figures(recorded, {name: new}, LOOSE)] == [within]


def test_a_figure_that_is_gone_is_a_difference() -> None:
    recorded = FIGURES["metrics/tasks/a.json"]
    (difference,) = compare_figures(recorded, {"tasks/a:questions": 100.0}, LOOSE)
    assert (difference.figure, difference.found) == ("tasks/a:exact_match", None)
    assert not difference.within
