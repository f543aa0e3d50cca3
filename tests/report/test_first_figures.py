"""A metrics file holds what comes first, and fits a line of a terminal."""

import json
from pathlib import Path

import pytest

from plumbline.report.collect import figures_of
from plumbline.report.first_figures import listed_figures, write_figures
from plumbline.report.headline import alignment_headlines, metric_headlines

RECALLS = {
    f"{direction}_recall_at_{k}{width}{bound}": 0.5
    for direction in ("image_to_text", "text_to_image")
    for k in (10, 1, 5)
    for width in ("", "_width_32", "_width_64")
    for bound in ("", "_low", "_high")
}
VLM = dict.fromkeys(
    (
        "answer_perplexity",
        "caption_bleu",
        "caption_rouge1",
        "caption_rouge_l",
        "captions",
        "exact_match",
        "question_only_exact_match",
        "questions",
        "token_f1",
    ),
    0.12345,
)


@pytest.mark.parametrize(
    ("figures", "listed"),
    [
        (
            {**RECALLS, "images": 3.0, "zero_shot_accuracy": 0.5},
            ["image_to_text_recall_at_1", "text_to_image_recall_at_1", "zero_shot_accuracy"],
        ),
        (
            {"text_to_audio_recall_at_5": 0.5, "audio_to_text_recall_at_5": 0.5},
            ["text_to_audio_recall_at_5", "audio_to_text_recall_at_5"],
        ),
        (VLM, ["exact_match", "caption_bleu"]),
        (
            dict.fromkeys(("a/accuracy", "a/accuracy_low", "a/accuracy_high", "a/log_loss"), 0.5),
            ["a/accuracy"],
        ),
        ({"loss": 1.0, "unigram_loss": 2.0, "perplexity": 2.7}, ["loss", "perplexity"]),
        ({"bleu": 3.0, "exact_match": 0.1, "rouge_l": 0.2}, ["bleu", "rouge_l"]),
        (
            {"ndcg": 1.0, "ndcg_low": 0.5, "ndcg_high": 1.5, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1},
            ["ndcg", "b", "c", "d"],
        ),
    ],
)
def test_the_rules_choose_what_is_listed(figures: dict[str, float], listed: list[str]) -> None:
    assert listed_figures(figures) == {name: figures[name] for name in listed}


def test_the_table_of_an_alignment_and_its_task_fits_a_terminal() -> None:
    """DVC prints a line per file with a column for each name, four blanks apart."""
    names = [*listed_figures(RECALLS), *listed_figures(VLM)]
    assert len("    ".join(["metrics/align/image.json", *sorted(names)])) <= 120


def test_every_figure_stands_in_the_details(tmp_path: Path) -> None:
    out, metrics = tmp_path / "out", tmp_path / "metrics.json"
    out.mkdir()
    write_figures(VLM, {"bleu_signature": "tok:13a"}, out, metrics)
    details = json.loads((out / "details.json").read_text(encoding="utf-8"))
    assert details == {"figures": VLM, "bleu_signature": "tok:13a"}
    assert json.loads(metrics.read_text(encoding="utf-8")) == listed_figures(VLM)


def test_what_the_settings_ask_for_is_listed_in_any_case(tmp_path: Path) -> None:
    figures = {**VLM, "digit/chrf": 0.5, "chrf": 0.25, "other": 1.0}
    listed = listed_figures(figures, ["chrf"])
    assert listed == {**listed_figures(VLM), "chrf": 0.25, "digit/chrf": 0.5}
    write_figures(figures, {}, tmp_path, tmp_path / "metrics.json", ["chrf"])
    details = json.loads((tmp_path / "details.json").read_text(encoding="utf-8"))
    assert details == {"figures": figures, "asked": ["chrf"]}
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == listed
    assert [h.name for h in metric_headlines({"r2": 0.5, "chrf": 0.25}, details)] == ["R²", "Chrf"]
    assert [h.shown for h in alignment_headlines({"chrf": 0.25, "other": 1.0}, details)] == ["0.25"]


def test_the_page_reads_all_figures(project) -> None:
    figures = figures_of(Path("work/evaluation/align/image"))
    assert figures["image_to_text_recall_at_5_width_8_low"] == 0.75
