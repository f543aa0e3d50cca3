import pytest

from plumbline.metrics.known import split_part
from plumbline.report.figures import figure, label, number, percent, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (12345.0, "12,345"),
        (3.304356, "3.304"),
        (1234.56, "1,234.6"),
        (-2.5, "-2.5"),
        (1.234e-6, "1.23e-06"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 0, "0 %"), (30, 2700, "1.1 %"), (1, 100_000, "< 0.1 %"), (996, 1000, "100 %")],
)
def test_percents_never_show_something_as_nothing(part: int, whole: int, shown: str) -> None:
    assert percent(part, whole) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (999, "999 B"),
        (15_360, "15.4 kB"),
        (999_900, "1 MB"),
        (5_655_330, "5.66 MB"),
        (3 * 10**12, "3,000 GB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


def test_figures_are_printed_by_their_kind() -> None:
    assert figure("exact_match", 0.91249) == "0.912"
    assert figure("caption_bleu", 41.27) == "41.3"
    assert figure("questions", 240.0) == "240"
    assert label("exact_match") == "Exact match"
    assert label("some_new_figure") == "Some new figure"


@pytest.mark.parametrize(
    ("name", "part", "rest"),
    [
        ("accuracy", "", "accuracy"),
        ("balanced_accuracy", "", "balanced_accuracy"),
        ("digit/balanced_accuracy", "digit", "balanced_accuracy"),
        ("digit_balanced/accuracy", "digit_balanced", "accuracy"),
        ("left/hand/r2", "left/hand", "r2"),
        ("caption_bleu", "", "caption_bleu"),
        ("ndcg_at_10", "", "ndcg_at_10"),
    ],
)
def test_a_part_is_what_stands_before_the_last_slash(name: str, part: str, rest: str) -> None:
    assert split_part(name) == (part, rest)


def test_figures_of_a_part_are_printed_as_those_of_the_whole() -> None:
    assert figure("digit/accuracy", 0.91249) == "0.912"
    assert figure("class_agreement", 1.0) == "1.000"


def test_one_name_means_what_its_place_says() -> None:
    assert label("samples") == "Samples"
    assert label("samples", "training") == "Samples seen"
    assert label("samples", "parity") == "Samples compared"
    assert label("accuracy_difference", "parity") == "Difference: Accuracy"
