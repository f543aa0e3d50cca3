import shutil

import pytest
import yaml

from plumbline.cli.main import call
from plumbline.errors import CheckpointError
from plumbline.report.collect import Export
from plumbline.report.headline import (
    alignment_headlines,
    headlines,
    metric_headlines,
    summary,
    task_headlines,
)


def test_the_summary_is_a_table_that_ends_with_the_place_of_the_page(project) -> None:
    lines = summary(headlines(project.chosen())).splitlines()
    assert lines[0] == (
        "alignment image  Recall@1, image to text  0.875  95 % interval 0.750 to 1.000"
    )
    assert " ".join(lines[3].split()) == (
        "task vqa Exact match 0.500 0.250 from the question alone"
    )
    assert lines[-1] == "report: report/index.html"
    assert len(lines) == 9


def test_the_command_prints_the_selection_of_params_yaml(
    project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump(project.selection), encoding="utf-8")
    call(["figures"])
    assert capsys.readouterr().out == summary(headlines(project.chosen())) + "\n"


def test_missing_figures_are_one_line(project) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump(project.selection), encoding="utf-8")
    shutil.rmtree(project.root / "work/evaluation/align/image")
    with pytest.raises(CheckpointError) as refused:
        call(["figures"])
    assert str(refused.value) == (
        "work/evaluation/align/image: no digests.json; build it with dvc repro, or restore it with "
        "dvc checkout"
    )


def test_an_empty_selection_is_said() -> None:
    assert summary({}) == "nothing is selected\nreport: report/index.html"


def test_the_worst_format_stands_for_the_export() -> None:
    good = {"token_agreement": 1.0, "max_logits_difference": 1e-6}
    poor = {"token_agreement": 0.995, "max_logits_difference": 3e-5}
    export = Export(files={}, parity={"onnx": good, "torchscript": poor}, failed={"other": "why"})
    (only,) = task_headlines({}, export)
    assert only.shown == "0.995"
    assert only.note == (
        "of tokens agree in onnx and torchscript; logits within 3e-05; other failed"
    )


def test_weights_alone_are_an_export_without_parity() -> None:
    (only,) = task_headlines({}, Export(files={"model.safetensors": 1}, parity={}, failed={}))
    assert only.note == "weights alone are exported"


def shown(metrics: dict[str, float], details: dict[str, object] | None = None) -> list[str]:
    return [f"{h.name} {h.shown} ({h.note})" for h in metric_headlines(metrics, details)]


def test_a_classification_shows_accuracy_and_f1_of_every_part() -> None:
    figures = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95, "macro_f1": 0.8}
    metrics = {f"{part}/{name}": v for part in ("digit", "speaker") for name, v in figures.items()}
    assert shown({**metrics, "samples": 300.0}) == [
        "Accuracy, digit 0.900 (95 % interval 0.850 to 0.950)",
        "Macro F1, digit 0.800 (the mean over classes)",
        "Accuracy, speaker 0.900 (95 % interval 0.850 to 0.950)",
        "Macro F1, speaker 0.800 (the mean over classes)",
    ]


def test_a_language_model_stands_beside_the_frequencies_of_tokens() -> None:
    metrics = {"loss": 1.5, "perplexity": 4.48, "token_accuracy": 0.5, "unigram_loss": 3.25}
    assert shown(metrics) == [
        "Loss 1.5 (nats per token; 3.25 from token frequencies alone)",
        "Perplexity 4.48 (lower is better, 1 is perfect)",
    ]


def test_a_translation_shows_bleu_with_its_signature() -> None:
    metrics = {"bleu": 34.25, "exact_match": 0.1, "perplexity": 6.0, "rouge_l": 0.5}
    first, second, third = shown(metrics, {"bleu_signature": "tok:13a"})
    assert first == "BLEU 34.2 (of 100; tok:13a)"
    assert second == "ROUGE-L 0.500 (of 1)"
    assert third.startswith("Perplexity 6 ")


def test_a_regression_shows_r2_and_the_mean_error() -> None:
    assert [line.split(" (")[0] for line in shown({"mae": 0.5, "mse": 0.4, "r2": -0.5})] == [
        "R² -0.500",
        "Mean absolute error 0.5",
    ]


def test_an_alignment_of_audio_shows_both_ways_and_zero_shot_accuracy() -> None:
    metrics = {
        "audio_to_text_recall_at_1": 0.5,
        "text_to_audio_recall_at_1": 0.25,
        "zero_shot_accuracy": 0.75,
        "audios": 4.0,
    }
    assert [(h.name, h.shown) for h in alignment_headlines(metrics)] == [
        ("Recall@1, audio to text", "0.500"),
        ("Recall@1, text to audio", "0.250"),
        ("Zero-shot accuracy", "0.750"),
    ]


def test_figures_that_no_rule_knows_are_shown_from_the_first() -> None:
    metrics = {f"figure_{letter}": 1.5 for letter in "abcdef"}
    metrics |= {"figure_a_low": 1.0, "figure_a_high": 2.0}
    lines = shown(dict(sorted(metrics.items())))
    assert lines[0] == "Figure a 1.5 (95 % interval 1 to 2)"
    assert [line.split(" 1.5")[0] for line in lines[1:]] == ["Figure b", "Figure c", "Figure d"]


@pytest.mark.parametrize(
    ("parity", "figure", "note"),
    [
        (
            {"class_agreement": 1.0, "max_logits_difference": 2e-6, "accuracy_difference": 0.0},
            "1.000",
            "of classes agree in onnx; logits within 2e-06",
        ),
        ({"max_logits_difference": 2e-6}, "2e-06", "largest difference of logits in onnx"),
        ({"metric_difference": 0.0}, "0", "largest difference of metric in onnx"),
        ({"samples": 4}, "measured", "in onnx"),
        ({}, "none", "weights alone are exported"),
    ],
)
def test_parity_is_told_by_the_figures_that_there_are(
    parity: dict[str, float], figure: str, note: str
) -> None:
    (only,) = task_headlines({}, Export(files={}, parity={"onnx": parity}, failed={}))
    assert (only.shown, only.note) == (figure, note)
