"""The certificate says what passed, what did not, and where to look."""

import json

import pytest

from plumbline.reproduction.certificate import Certificate
from plumbline.reproduction.compare import FigureDifference, StageResult, Status
from tests.reproduction.test_machine import HERE

TRAIN = StageResult("train", Status.WITHIN, 12.34, "models/a", "model.bin")
MEASURE = StageResult(
    "measure",
    Status.WITHIN,
    1.0,
    "metrics/tasks/a.json",
    consequence_of="train",
    figures=[FigureDifference("tasks/a:exact_match", 0.9, 0.93, 0.05, True)],
)


def certificate(*stages: StageResult, exact: bool = False) -> Certificate:
    return Certificate(
        commit="c0ffee",
        date="2000-01-01 00:00:00 UTC",
        preset=None,
        compared_with="the committed dvc.lock",
        exact=exact,
        why="figures within verify.yaml pass",
        stages=stages,
        machine=HERE,
        recorded_machine=HERE.model_copy(update={"capability": "AVX2"}),
        notes=["nothing is committed"],
    )


@pytest.mark.parametrize(
    ("status", "exact", "passed"),
    [
        (Status.EQUAL, True, True),
        (Status.WITHIN, True, False),
        (Status.WITHIN, False, True),
        (Status.DIFFERENT, False, False),
        (Status.MISSING, False, False),
        (Status.EXTRA, False, False),
        (Status.FAILED, False, False),
        (Status.NOT_RUN, False, False),
        (Status.NOT_COMPARED, False, False),
    ],
)
def test_a_stage_passes_by_its_status(status: Status, exact: bool, passed: bool) -> None:
    stages = (StageResult("a", Status.EQUAL), StageResult("b", status))
    assert certificate(*stages, exact=exact).passed is passed


def test_nothing_compared_is_no_proof() -> None:
    assert not certificate().passed


def test_a_reader_finds_the_first_difference_and_its_consequences() -> None:
    text = certificate(StageResult("draw", Status.EQUAL, 0.5), TRAIN, MEASURE).markdown()
    assert "# Reproduction certificate: passed" in text
    assert "Stages: 1 equal, 2 within tolerance; 14 s." in text
    assert "First difference: **train: models/a: model.bin** (within tolerance)." in text
    assert "| metrics/tasks/a.json (after train) |" in text
    assert "train: models/a: model.bin: other bytes, from the same inputs." in text
    assert "- tasks/a:exact_match: 0.9 -> 0.93, within 0.05" in text
    assert "The record's machine: capability: AVX512, not AVX2." in text
    assert "Note: nothing is committed" in text


def test_the_lines_of_the_table_are_of_one_length() -> None:
    lines = certificate(TRAIN, MEASURE).markdown().splitlines()
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


def test_the_error_of_a_failed_stage_is_shown_as_it_was() -> None:
    failed = StageResult("train", Status.FAILED, 1.0, detail="line one\nerror: no memory")
    text = certificate(failed, StageResult("measure", Status.NOT_RUN)).markdown()
    assert "```\nline one\nerror: no memory\n```" in text


def test_inputs_that_are_not_the_records_are_told_with_the_remedy() -> None:
    train = StageResult(
        "train", Status.DIFFERENT, 1.0, "models/a", changed_inputs=["src/train", "seed"]
    )
    text = certificate(train).markdown()
    assert "from other inputs: src/train, seed." in text
    assert "run dvc repro and commit dvc.lock" in text


def test_the_json_has_it_all() -> None:
    content = json.loads(certificate(TRAIN, MEASURE).json())
    assert content["passed"] is True
    assert content["first_difference"] == "train"
    assert content["stages"][1]["figures"][0]["found"] == 0.93
    assert content["machine"]["cpu"] == HERE.cpu
    assert content["recorded_machine"]["capability"] == "AVX2"
