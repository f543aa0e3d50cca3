"""A stored model is measured from its folder, wherever it was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import ConfigError, DataError
from plumbline.evaluate import evaluate
from plumbline.loading.cache_reader import TrainingCache

Caches = Callable[[str], TrainingCache]
Folder = Callable[[str], Path]


@pytest.mark.parametrize(
    ("case", "data", "figure"),
    [
        ("causal_lm_stream", "text", "perplexity"),
        ("text", "reviews", "accuracy"),
        ("align_image", "scenes", "image_to_text_recall_at_1"),
    ],
)
def test_a_moved_model_is_measured_without_its_training(
    case: str, data: str, figure: str, caches: Caches, stored_case: Folder, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(stored_case(case), moved)
    figures = evaluate(moved, caches(data).folder, {"split": "val"})
    assert figure in figures
    assert figures == evaluate(stored_case(case), caches(data).folder, {"split": "val"})


def test_the_command_prints_the_figures(
    caches: Caches, stored_case: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(stored_case("text"))
    call(["evaluate", folder, "--data", str(caches("reviews").folder), "split=val", "batch_size=3"])
    assert json.loads(capsys.readouterr().out)["samples"] > 0


def test_a_wrong_setting_names_the_nearest(caches: Caches, stored_case: Folder) -> None:
    with pytest.raises(ConfigError, match="spilt: unknown key; did you mean split"):
        evaluate(stored_case("text"), caches("reviews").folder, {"spilt": "val"})


def test_a_split_that_is_not_there_is_named(caches: Caches, stored_case: Folder) -> None:
    with pytest.raises((DataError, ConfigError), match="train"):
        evaluate(stored_case("text"), caches("reviews").folder, {"split": "nowhere"})


def test_the_ids_of_another_tokenizer_are_refused(caches: Caches, stored_case: Folder) -> None:
    with pytest.raises(ConfigError, match="its tokenizer is not that of"):
        evaluate(stored_case("text"), caches("text").folder, {"split": "val"})
