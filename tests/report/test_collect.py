from pathlib import Path

import pytest

from plumbline.errors import CheckpointError
from plumbline.files import write_digests
from plumbline.report.collect import (
    Wanted,
    collect_alignment,
    collect_dataset,
    collect_export,
    collect_task,
    recall_tables,
)
from plumbline.report.rows import ShownRows
from plumbline.report.settings import ReportSettings

WANTED = Wanted(ReportSettings(), ShownRows("data-0"))


def test_recalls_are_sorted_by_direction_width_and_k() -> None:
    metrics = {
        "text_to_image_recall_at_10": 0.9,
        "text_to_image_recall_at_5": 0.8,
        "image_to_text_recall_at_1_width_16": 0.3,
        "image_to_text_recall_at_1_width_128": 0.4,
        "image_to_text_recall_at_1": 0.5,
        "image_to_text_recall_at_1_low": 0.4,
        "image_to_text_recall_at_1_high": 0.6,
        "images": 4.0,
    }
    first, second = recall_tables(metrics)
    assert (first.direction, second.direction) == ("image to text", "text to image")
    assert list(first.rows) == [None, 128, 16]
    assert second.ks == [5, 10]
    cell = first.rows[None][1]
    assert (cell.value, cell.low, cell.high) == (0.5, 0.4, 0.6)
    assert first.rows[16][1].low is None


def test_a_changed_file_is_refused(project) -> None:
    file = Path("work/evaluation/align/image/examples.json")
    file.write_text(file.read_text(encoding="utf-8").replace("a dog", "a fox"), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"examples\.json: not as it was written"):
        collect_alignment("image", "scenes", WANTED)


def test_a_predictions_table_that_is_none_is_named(project) -> None:
    folder = Path("work/evaluation/tasks/vqa")
    (folder / "predictions.parquet").write_text("nothing", encoding="utf-8")
    write_digests(folder)
    with pytest.raises(CheckpointError, match=r"predictions\.parquet: not readable"):
        collect_task("vqa", "scenes", "task-0", WANTED)


def test_a_few_rejected_rows_of_each_reason_are_read(project) -> None:
    dataset = collect_dataset("scenes", WANTED.settings)
    assert dataset.reasons == {"empty_text": 2}
    assert [row.row for row in dataset.rejected["empty_text"]] == [0, 1]


def test_answers_are_ranked_by_how_often_they_occur(project) -> None:
    assert list(collect_dataset("scenes", WANTED.settings).answers) == ["yes", "no"]


def test_training_figures_are_printed_and_curves_read(project) -> None:
    training = collect_task("vqa", "scenes", "task-0", WANTED).training
    assert ("Best validation", "0.75 in epoch 2") in training.facts
    assert training.steps["loss"].values.tolist() == [2.0, 0.5]
    assert training.weights_bytes == 400


def test_a_bundle_lists_its_files_and_what_failed(project) -> None:
    export = collect_export("vqa")
    assert export is not None
    assert next(iter(export.files)) == "vision.onnx"
    assert export.parity["onnx"]["token_agreement"] == 1.0
    assert list(export.failed) == ["torchscript"]


def test_what_is_not_exported_is_none_and_a_bundle_with_a_hole_an_error(project) -> None:
    assert collect_export("other") is None
    Path("exports/vqa/vision.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"vision\.onnx: missing"):
        collect_export("vqa")
