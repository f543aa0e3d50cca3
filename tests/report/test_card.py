from pathlib import Path

import pytest
import yaml

from plumbline.errors import ConfigError
from plumbline.files import sha256_file
from plumbline.report.card import CardPart, as_markdown
from plumbline.report.page import render
from plumbline.report.settings import CardSettings, ReportSettings
from plumbline.stages import report
from tests.report.outline import ATTACK, Outline


def test_a_card_says_what_is_known_and_what_nobody_said(project) -> None:
    said = CardSettings(intended_use="Counting shapes in drawings.", licence="Apache-2.0")
    rendered = render(project.chosen(), ReportSettings(cards={"vqa": said}))
    card = rendered.cards["vqa"]
    for line in (
        "# Model card: vqa",
        "Counting shapes in drawings.",
        "Apache-2.0",
        "| Parameters | 100, of which 30 are trained |",
        "| Dataset | scenes |",
        "| Rejected | 2 (17 %) |",
        "| Exact match | 0.500 |",
        "Measured on split val.",
        "Of the data: small.",
        r"Not stated. report.cards.vqa.out\_of\_scope in conf/ says it.",
    ):
        assert line in card.split("\n"), line
    weights = sha256_file(Path("models/tasks/vqa/model.safetensors"))
    assert f"| models/tasks/vqa/model.safetensors | {weights} |" in card
    text = Outline(rendered.page).text
    assert "Counting shapes in drawings." in text
    assert weights in text


def test_intervals_stand_with_their_figures(empty_project) -> None:
    empty_project.add_dataset("photos")
    figures = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.9}
    empty_project.add_evaluated("animals", "photos", "classification", figures, [])
    card = render(empty_project.chosen(), ReportSettings()).cards["animals"]
    assert "| Accuracy | 0.750 (95 % interval 0.500 to 0.900) |" in card


def test_what_would_act_in_markdown_is_written_out() -> None:
    evil = "a|b\n# head <script> [x](http://y) `c`" + ATTACK
    card = as_markdown("t", [CardPart("Data", [evil], [(evil, evil)])])
    assert "<" not in card
    assert "\n# head" not in card
    assert r"a\|b" in card
    assert r"\[x\](" in card
    assert all(line.count("|") - line.count(r"\|") in (0, 3) for line in card.split("\n"))


def test_the_same_outputs_give_the_same_card(project) -> None:
    first, second = (render(project.chosen(), ReportSettings()).cards for _ in range(2))
    assert first == second


def test_a_card_of_no_task_is_refused(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    settings = {"report": {"cards": {"vqb": {"licence": "MIT"}}}, **project.selection}
    Path("params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"report: cards\.vqb: no such task \(there is vqa\)"):
        report.main([])


def test_the_stage_writes_a_card_of_each_task(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("params.yaml").write_text(
        yaml.safe_dump({"report": {}, **project.selection}), encoding="utf-8"
    )
    report.main([])
    assert [path.name for path in Path("report/cards").iterdir()] == ["vqa.md"]
