"""What the page shows of each kind of task, told from what its evaluation wrote."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import CheckpointError
from plumbline.files import write_digests
from plumbline.metrics.known import figure_name
from plumbline.report.collect import Wanted, collect_task
from plumbline.report.page import render_page
from plumbline.report.rows import ShownRows
from plumbline.report.settings import ReportSettings
from tests.report.outline import ATTACK, Outline

Row = dict[str, Any]


def classified(names: list[str], part: str = "", wrong: int = 2) -> tuple[list[Row], Any, Any]:
    """Predictions, tables and figures of a head that takes some of the first class for the last."""
    rows: list[Row] = []
    for at, label in enumerate(names * 4):
        mistaken = label == names[0] and wrong > 0
        wrong -= mistaken
        said = names[-1] if mistaken else label
        row = {"kind": "class", "part": part, "sample_id": f"s{at % 4}", "label": label}
        sure = 0.9 - at / 1000
        rows.append({**row, "prediction": said, "confidence": sure, "correct": said == label})
    confusion = [
        {
            "actual": actual,
            "predicted": said,
            "count": sum((r["label"], r["prediction"]) == (actual, said) for r in rows),
        }
        for actual in names
        for said in names
    ]
    per_class = [
        {"class": name, "support": 4, "precision": 1.0, "recall": 0.5, "f1": 2 / 3}
        for name in names
    ]
    named = {"part": part} if part else {}
    figures = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.9, "macro_f1": 0.625}
    return (
        rows,
        {
            "confusion": [named | row for row in confusion],
            "per_class": [named | row for row in per_class],
        },
        {figure_name(part, name): value for name, value in figures.items()},
    )


def words(page: str) -> str:
    """The text of a page, without tags, in one line."""
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_a_classifier_shows_its_confusions_classes_and_mistakes(empty_project) -> None:
    empty_project.add_dataset("photos")
    rows, tables, metrics = classified(["cat", "dog", "fox"])
    empty_project.add_evaluated("animals", "photos", "classification", metrics, rows, tables)
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "Task: Classification animals Trained on photos . Measured on split val ." in text
    assert "Accuracy 0.750 0.500 to 0.900" in text
    assert "cat dog fox cat 2 2 dog 4 fox 4" in text  # the matrix; nothing stands for 0
    assert page.count('class="hit"') == 3
    assert page.count('class="miss"') == 1
    assert "cat 4 1.000 0.500 0.667" in text
    assert "Classified right: 10 of 12" in text
    assert "Classified wrong: 2 of 12" in text
    assert "Most confident mistakes" in text
    assert "fox 90.0 % expected cat" in text
    assert "fox 89.7 % expected cat" in text


def test_every_part_of_a_classifier_has_its_own_tables(empty_project) -> None:
    empty_project.add_dataset("fsdd", images=False, parts=("digit", "speaker"), text="")
    digit = classified(["0", "1"], "digit")
    speaker = classified(["theo", "lucas"], "speaker", wrong=0)
    rows, metrics = digit[0] + speaker[0], digit[2] | speaker[2]
    tables = {name: digit[1][name] + speaker[1][name] for name in digit[1]}
    metrics = {**metrics, "samples": 8.0}
    empty_project.add_evaluated("spoken", "fsdd", "classification", metrics, rows, tables)
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "Figure digit speaker All parts" in text
    assert text.index("Part digit") < text.index("Classified wrong: 2 of 8")
    assert text.index("Classified wrong: 2 of 8") < text.index("Part speaker")
    assert text.index("Part speaker") < text.index("Classified wrong: 0 of 8")
    assert "Accuracy, speaker" in text
    assert text.count("Confusion matrix") == 2
    assert text.count("Most confident mistakes") == 1
    assert "1 90.0 % expected 0 s0" in text  # clips are told by their ids


@pytest.mark.parametrize(
    ("classes", "cells", "title"),
    [
        (2, 4, "Confusion matrix"),
        (10, 100, "Confusion matrix"),
        (40, 0, "Classes taken for others"),
    ],
)
def test_confusions_of_few_and_many_classes(
    empty_project, classes: int, cells: int, title: str
) -> None:
    empty_project.add_dataset("photos")
    rows, tables, metrics = classified([f"c{at}" for at in range(classes)])
    empty_project.add_evaluated("task", "photos", "classification", metrics, rows, tables)
    page = render_page(empty_project.chosen())
    Outline(page)
    assert title in page
    matrix = re.search(r'<table class="confusion.*?</table>', page, re.S)
    assert (matrix[0].count("<td") - 1 if matrix else 0) == cells
    if classes == 40:
        assert "c0 c39 50 % 2" in words(page)
        assert "30 classes with the lowest F1 of 40" in page


def test_a_language_model_shows_continuations_and_how_they_were_drawn(empty_project) -> None:
    empty_project.add_dataset("plays", images=False)
    metrics = {"loss": 1.5, "perplexity": 4.48, "unigram_loss": 3.25, "tokens": 1000.0}
    rows = [{"kind": "continuation", "prompt": "ROMEO:", "prediction": "\nO, my\n  lord"}]
    details = {
        "sampling": {"temperature": 0.8, "top_k": None, "stop": [], "seed": 0},
        "title": "Causal language model",  # as the evaluation writes it, by the kind's settings
    }
    empty_project.add_evaluated("speak", "plays", "causal_lm", metrics, rows, details=details)
    page = render_page(empty_project.chosen())
    Outline(page)
    assert "Task: Causal language model" in page
    assert "nats per token; 3.25 from token frequencies alone" in page
    assert "O, my\n  lord" in page
    assert "seed 0, temperature 0.8." in page
    assert "top k" not in page


def test_a_masked_model_without_predictions_shows_its_figures(empty_project) -> None:
    empty_project.add_dataset("plays", images=False)
    metrics = {"loss": 2.5, "perplexity": 12.18, "unigram_loss": 3.25}
    empty_project.add_evaluated("guess", "plays", "masked_lm", metrics, [])
    page = render_page(empty_project.chosen())
    Outline(page)
    assert "Perplexity 12.18" in words(page)
    assert "Predictions" not in page.split("<footer")[0].split('id="pipeline"')[0]


def test_a_translation_shows_source_target_and_reference(empty_project) -> None:
    empty_project.add_dataset("pairs", images=False)
    metrics = {"bleu": 34.25, "rouge_l": 0.5, "exact_match": 0.5, "perplexity": 6.0}
    row = {"kind": "translation", "references": ["a dog runs"]}
    rows = [
        {**row, "prompt": "ein Hund läuft", "prediction": "a dog runs", "correct": True},
        {**row, "prompt": "ein Hund rennt", "prediction": "a dog walks", "correct": False},
    ]
    details = {"bleu_signature": "nrefs:1|tok:13a"}
    empty_project.add_evaluated("translate", "pairs", "seq2seq", metrics, rows, details=details)
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "ein Hund läuft word by word: a dog runs a dog runs" in text
    assert "ein Hund rennt a dog walks a dog runs" in text
    assert "BLEU 34.2 of 100; nrefs:1|tok:13a" in text
    assert "BLEU as sacrebleu nrefs:1|tok:13a" in text


def test_a_regression_shows_points_and_largest_errors_of_every_part(empty_project) -> None:
    empty_project.add_dataset("signals", images=False)
    rows = [
        {
            "kind": "value",
            "part": part,
            "sample_id": f"s{at:.0f}",
            "value": at,
            "prediction": at + 0.25,
        }
        for part in ("a b", "a-b")  # which must not become one id
        for at in (0.0, 1.0)
    ]
    metrics = {f"{part}/{name}": 0.5 for part in ("a b", "a-b") for name in ("mae", "r2")}
    empty_project.add_evaluated("level", "signals", "regression", metrics, rows)
    page = render_page(empty_project.chosen())
    ids = Outline(page).ids()
    assert len(ids) == len(set(ids))
    assert page.count("2 values from 0 to 1, predicted 0.25 to 1.25") == 2
    assert "1.25 off by 0.25 expected 1 s1" in words(page)
    assert "R², a-b" in page


def test_figures_that_are_left_out_and_cells_without_a_value_are_shown_as_such(
    empty_project,
) -> None:
    empty_project.add_dataset("photos")
    rows, tables, metrics = classified(["cat", "dog"], "eyes/left")
    tables["per_class"][0] |= {"support": 0, "recall": None, "f1": None}
    details = {"left_out": {"eyes/left/r2": "all values are equal"}}
    details["cut_tokens_of_prompts"] = {"to be": 12}
    empty_project.add_evaluated(
        "animals", "photos", "classification", metrics, rows, tables, details
    )
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "R², eyes/left is left out: all values are equal" in text
    assert "its first 12 tokens were cut: to be" in text
    assert "cat 0 1.000 - -" in text
    assert "dog 4 1.000 0.500 0.667" in text
    assert "Part eyes/left" in text


def test_repeated_rows_and_contradictions_stand_with_the_dataset(empty_project) -> None:
    shapes = {
        "rows": {"train": 7, "test": 3},
        "repeated_rows": {"train": 2},
        "contradictions": {"": {"train": 1}},
    }
    empty_project.add_dataset("photos", shapes=shapes)
    rows, tables, metrics = classified(["cat", "dog"])
    empty_project.add_evaluated("animals", "photos", "classification", metrics, rows, tables)
    text = words(render_page(empty_project.chosen()))
    assert "rows that repeat another one, each of which counts: train 2 of 7" in text
    assert "inputs with several labels or values, all of which count: train 1" in text


def test_a_kind_that_is_not_known_shows_figures_tables_and_predictions(empty_project) -> None:
    empty_project.add_dataset("signals", images=False)
    metrics = {"ndcg": 0.71, "regret": 1.25}
    rows = [
        {"kind": "ranking", "query": f"q{at}", "ranked": ["b", "a"], "gain": at / 8, "ok": None}
        for at in range(12)
    ]
    tables = {"by_length": [{"length": at, "queries": 40} for at in range(25)]}
    empty_project.add_evaluated("rank", "signals", "ranker", metrics, rows, tables)
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "Task: Ranker rank" in text
    assert "Ndcg 0.71 Regret 1.25" in text
    assert "By length The 20 first of 25" in text
    assert "19 40" in text
    assert "20 40" not in text
    assert "Predictions: Ranking The first 8 of 12" in text
    assert "q7 b, a 0.875" in text
    assert "q8" not in text


def test_predictions_without_a_kind_are_shown_too(empty_project) -> None:
    empty_project.add_dataset("signals", images=False)
    empty_project.add_evaluated("rank", "signals", "ranker", {}, [{"query": "q0", "good": True}])
    assert "q0 True" in words(render_page(empty_project.chosen()))


def test_an_evaluation_of_figures_alone_is_enough(empty_project) -> None:
    empty_project.add_dataset("signals", images=False)
    empty_project.add_evaluated("rank", "signals", "ranker", {"ndcg": 0.71}, [])
    folder = Path("work/evaluation/tasks/rank")
    (folder / "predictions.parquet").unlink()
    write_digests(folder)
    page = render_page(empty_project.chosen())
    Outline(page)
    assert "0.71" in page


def test_an_alignment_of_audio_names_its_clips(empty_project) -> None:
    empty_project.add_dataset("fsdd", images=False, text="seven, by nicolas")
    empty_project.add_alignment("spoken", "fsdd", modality="audio")
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "Audio clips and texts of fsdd in one space. Measured on 3 audio clips" in text
    assert "What is found for an audio clip" in text
    assert "seven, by nicolas s1" in text
    assert "Zero-shot accuracy: 0.625" in text
    assert page.count("<img") == 1  # the stage times


def test_a_dataset_shows_its_media_labels_and_values(empty_project) -> None:
    many = [f"c{at}" for at in range(31)]
    shapes = {
        "rows": {"train": 7, "test": 3},
        "audio": {
            "clips": 3000,
            "sample_rates": {"8000": 3000},
            "channels": {"1": 2000, "2": 1000},
            "longest_s": 2.25,
            "mean_s": 0.5,
        },
        "features": {"arrays": 40, "channels": 12, "shortest": 4, "longest": 9, "mean": 6.5},
        "labels": {
            "digit": {
                "classes": ["0", "1"],
                "counts": {"train": {"0": 30, "1": 10}, "val": {"0": 0, "1": 20}},
            },
            "many": {"classes": many, "counts": {"train": dict.fromkeys(many, 1) | {"c30": 2}}},
        },
        "values": {"": {"count": 5, "mean": 3.5, "std": 0.5, "min": -1.0, "max": 9.0}},
    }
    empty_project.add_dataset("all", images=False, shapes=shapes)
    page = render_page(empty_project.chosen())
    Outline(page)
    text = words(page)
    assert "Audio clips 3,000 mean 0.5 s, longest 2.25 s" in text
    assert "Clips at 8,000 Hz 3,000 Clips with 1 channel 2,000 Clips with 2 channels 1,000" in text
    assert "Feature arrays of 12 channels 40 4 to 9 steps, mean 6.5" in text
    assert "Values in training 5 -1 to 9, mean 3.5, deviation 0.5" in text
    assert "Labels of part digit 2 classes; rows by split" in text
    assert "0 30 0 1 10 20" in text
    assert '<i class="train" style="width:33.33%"></i><i class="val" style="width:66.67%">' in page
    assert "31 classes, the 30 most frequent" in text
    assert "train c30 2 c0 1" in text
    assert "c29 1" not in text


def evil_classes(project) -> None:
    rows, tables, metrics = classified([ATTACK, "b"], "<b>part</b>")
    project.add_evaluated("task", "data", "classification", metrics, rows, tables)


def evil_rows(project) -> None:
    rows = [{"kind": "<b>kind</b>", "part": "<i>part</i>", "<u>column</u>": ATTACK}]
    tables = {"table": [{"<u>column</u>": ATTACK}]}
    project.add_evaluated("task", "data", "<b>x</b>", {"<b>m</b>": 0.5}, rows, tables)


def evil_texts(project) -> None:
    known = {"prompt": ATTACK, "prediction": ATTACK}
    rows: list[Row] = [
        {"kind": "translation", **known, "references": [ATTACK], "correct": False},
        {"kind": "continuation", **known, "references": None, "correct": None},
    ]
    details = {"bleu_signature": ATTACK, "sampling": {"stop": [ATTACK]}}
    project.add_evaluated("task", "data", "seq2seq", {"bleu": 1.0}, rows, details=details)


@pytest.mark.parametrize("evil", [evil_classes, evil_rows, evil_texts])
def test_html_in_what_an_evaluation_wrote_is_shown_and_not_obeyed(
    empty_project, evil: Callable[[Any], None]
) -> None:
    shapes = {
        "rows": {"train": 1},
        "labels": {ATTACK: {"classes": [ATTACK], "counts": {"train": {ATTACK: 1}}}},
        "values": {ATTACK: {"count": 1, "mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0}},
    }
    empty_project.add_dataset("data", images=False, text=ATTACK, shapes=shapes)
    empty_project.add_alignment("spoken", "data", modality="audio", text=ATTACK)
    evil(empty_project)
    page = render_page(empty_project.chosen())
    Outline(page)
    assert page.count("<img") == 1  # the stage times
    assert not re.search(r"<(b|i|u)>", page)
    assert page.count("&lt;img src=x") > 5


def test_a_table_without_its_columns_is_named(empty_project) -> None:
    empty_project.add_dataset("photos")
    tables = {"confusion": [{"actual": "a", "count": 1}]}
    empty_project.add_evaluated("task", "photos", "classification", {}, [], tables)
    with pytest.raises(CheckpointError, match=r"confusion\.csv: not readable as confusion"):
        collect_task("task", "photos", "task-0", Wanted(ReportSettings(), ShownRows("data-0")))


def test_a_prediction_without_its_columns_is_named(empty_project) -> None:
    empty_project.add_dataset("photos")
    empty_project.add_evaluated("task", "photos", "classification", {}, [{"kind": "class"}])
    with pytest.raises(CheckpointError, match=r"predictions\.parquet: not readable.*'prediction'"):
        collect_task("task", "photos", "task-0", Wanted(ReportSettings(), ShownRows("data-0")))


def test_a_task_that_starts_from_its_data_starts_from_nothing(project) -> None:
    project.add_evaluated("rank", "scenes", "ranker", {"ndcg": 0.71}, [])
    project.add_evaluated("order", "scenes", "ranker", {"ndcg": 0.7}, [], start="work/cache/scenes")
    page = render_page(project.chosen())
    assert page.count("starting from") == 1
    assert "starting from <code>models/align/image</code>" in page
