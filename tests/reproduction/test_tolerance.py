"""verify.yaml says how far figures may lie apart."""

from pathlib import Path

import pytest

from plumbline.errors import ConfigError
from plumbline.reproduction.tolerance import Tolerances, figures_of, read_tolerances

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("figure", "recorded", "allowed"),
    [
        ("tasks/vqa:exact_match", 0.9, 0.05),
        ("tasks/vqa:caption_bleu", 80.0, 5.0),
        ("tasks/multi30k:bleu", 30.0, 5.0),
        ("tasks/vqa:answer_perplexity", 4.0, 0.4),
        ("tasks/vqa:questions", 2779.0, 0.0),
        ("align/image:image_to_text_recall_at_1", 0.98, 0.05),
        ("tasks/forecast:mae", 20.0, 2.0),
    ],
)
def test_the_settings_of_the_project_give_each_figure_its_count(
    figure: str, recorded: float, allowed: float
) -> None:
    assert read_tolerances(ROOT).allowed(figure, recorded) == pytest.approx(allowed)


def test_every_committed_figure_is_a_number_with_a_rule_or_a_share() -> None:
    """The default of 0.05 fits a share; what is larger needs a rule of its own."""
    import json

    tolerances = read_tolerances(ROOT)
    for file in (ROOT / "metrics").rglob("*.json"):
        name = file.relative_to(ROOT).as_posix()
        for figure, value in figures_of(json.loads(file.read_text(encoding="utf-8")), name).items():
            default = tolerances.default.absolute
            assert value <= 1 or tolerances.allowed(figure, value) != default, figure


def test_data_stages_are_exact_and_training_is_not() -> None:
    tolerances = read_tolerances(ROOT)
    assert tolerances.is_exact("check_params")
    assert tolerances.is_exact("tokenize_text@scenes")
    assert not tolerances.is_exact("finetune@vqa")


def test_without_settings_nothing_is_tolerated(tmp_path: Path) -> None:
    assert read_tolerances(tmp_path) == Tolerances()
    assert Tolerances().is_exact("anything")


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "verify.yaml").write_text(
        "default: {absolute: -1.0}\nfigures: []\nexact: []\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"default\.absolute = -1\.0: .*greater"):
        read_tolerances(tmp_path)


def test_the_first_rule_that_fits_counts() -> None:
    rules = [{"figure": "a:*", "absolute": 1.0}, {"figure": "*", "absolute": 9.0}]
    tolerances = Tolerances.model_validate({"figures": rules})
    assert tolerances.allowed("a:x", 0.0) == 1.0
    assert tolerances.allowed("b:x", 0.0) == 9.0


def test_figures_of_nested_metrics_have_dotted_names() -> None:
    content = {"recall": {"at_1": 0.5}, "list": [1, 2]}
    assert figures_of(content, "metrics/tasks/a.json") == {
        "tasks/a:recall.at_1": 0.5,
        "tasks/a:list.0": 1,
        "tasks/a:list.1": 2,
    }
