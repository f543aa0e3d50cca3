import re
import shutil

import pytest

from plumbline.errors import CheckpointError
from plumbline.files import dump_json, read_json
from plumbline.report.page import TIMES, render_page
from tests.report.outline import ATTACK, Outline


def test_the_page_shows_what_was_measured(project) -> None:
    page = render_page(project.chosen())
    rows = Outline(page).rows
    for row in (
        ["16 (all)", "0.875 0.750 to 1.000", "0.875 0.750 to 1.000"],
        ["8", "0.875 0.750 to 1.000", "0.875 0.750 to 1.000"],
        ["Image encoder", "70", "frozen", ""],
        ["Caption BLEU", "40.0"],
        ["Exact match", "0.500"],
        ["Exact match from the question alone", "0.250"],
        ["what is", "2", "", "0.500"],
        ["Images of 8 \u00d7 6 pixels", "4"],
        ["Figures of vqa", "metrics/tasks/vqa.json", "dvc repro evaluate_model@vqa"],
    ):
        assert row in rows
    assert "logits within 2.5e-06" in page
    assert "torchscript could not be written: RuntimeError: no such operator" in page


def test_the_page_is_well_formed_and_its_links_lead_somewhere(project) -> None:
    page = render_page(project.chosen())
    outline = Outline(page)
    ids = outline.ids()
    assert len(ids) == len(set(ids))
    targets = {str(a["href"]) for _, a in outline.tags if "href" in a}
    targets |= {"#" + name for name in re.findall(r"url\(#([^)]+)\)", page)}
    named = {str(a["aria-labelledby"]) for _, a in outline.tags if "aria-labelledby" in a}
    assert {target.removeprefix("#") for target in targets} | named <= set(ids)


def test_every_picture_has_a_text_and_every_column_a_header(project) -> None:
    outline = Outline(render_page(project.chosen()))
    pictures = [attrs for tag, attrs in outline.tags if tag == "img"]
    assert len(pictures) == 5  # the last one shows stage times
    assert all(picture["alt"] for picture in pictures)
    assert all("scope" in attrs for tag, attrs in outline.tags if tag == "th")


def test_the_page_loads_and_runs_nothing(project) -> None:
    page = render_page(project.chosen())
    assert not re.search(r"https?:|<script|<link|@import|javascript:|\son\w+=", page)
    beside = [src for src in re.findall(r' src="([^"]*)"', page) if not src.startswith("data:")]
    assert beside == [TIMES]
    assert page.count(" src=") == page.count(' src="data:image/png;base64,') + 1
    assert "default-src 'none'; img-src data: 'self'; media-src data:; style-src" in page


def test_html_in_data_is_shown_and_not_obeyed(empty_project) -> None:
    empty_project.add_dataset("scenes", sample_id=ATTACK, warning=ATTACK)
    empty_project.add_alignment("image", "scenes", text=ATTACK)
    empty_project.add_task("vqa", "scenes", text=ATTACK)
    page = render_page(empty_project.chosen())
    assert "<img src=x" not in page
    # found text; question twice, wrong answer; caption and reference; warning, also in the card;
    # two ids
    assert page.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;") == 10
    Outline(page)


def test_names_with_html_in_them_are_escaped(empty_project) -> None:
    empty_project.add_dataset("a<b>&c")
    empty_project.add_task("t<u>", "a<b>&c", start="work/cache/a<b>&c")
    page = render_page(empty_project.chosen())
    assert "<b>" not in page.replace("<b style", "")
    assert "<u>" not in page
    Outline(page)


def test_equal_outputs_give_equal_bytes_in_any_folder(
    project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = render_page(project.chosen())
    other = tmp_path_factory.mktemp("other") / "place"
    shutil.copytree(project.root, other)
    monkeypatch.chdir(other)
    assert render_page(project.chosen()) == first
    assert str(project.root) not in first


def test_absolute_paths_in_settings_are_cut_to_their_names(project) -> None:
    page = render_page(project.chosen())
    assert "/srv/models" not in page
    assert '"pretrained": "small"' in Outline(page).text


def test_an_empty_selection_still_gives_a_page(empty_project) -> None:
    page = render_page(empty_project.chosen())
    assert "No alignment and no task is selected" in page
    Outline(page)


def test_a_task_without_alignment_captions_validation_or_export(empty_project) -> None:
    empty_project.add_dataset("scenes")
    empty_project.add_task(
        "vqa", "scenes", start="work/cache/scenes", kinds=("question",), validated=False
    )
    page = render_page(empty_project.chosen())
    Outline(page)
    assert "pretrain_alignment" not in page
    assert "BLEU" not in page
    assert "validation" not in page
    assert "Not exported" in page


def test_a_task_that_only_describes_and_one_that_does_neither(empty_project) -> None:
    empty_project.add_dataset("scenes")
    empty_project.add_task("captions", "scenes", start="", kinds=("caption",))
    empty_project.add_task("silent", "scenes", start="models/tasks/captions", kinds=())
    page = render_page(empty_project.chosen())
    Outline(page)
    assert "Answered" not in page
    assert "Caption BLEU" in page


def test_two_tasks_and_two_datasets_keep_their_ids_apart(project) -> None:
    project.add_dataset("photos")
    project.add_task("second", "photos")
    ids = Outline(render_page(project.chosen())).ids()
    assert len(ids) == len(set(ids))


def test_a_missing_output_is_named(project) -> None:
    shutil.rmtree("work/evaluation/tasks/vqa")
    with pytest.raises(CheckpointError, match=r"work/evaluation/tasks/vqa: no digests\.json"):
        render_page(project.chosen())


def test_the_page_shows_what_was_passed_over_before_there_were_rows(project) -> None:
    place = project.root / "work/quarantine/scenes"
    account = read_json(place / "report.json")
    one = {
        "unit": "files",
        "what": "passed over: ending none",
        "count": 1234,
        "first": "a\u202e<b>",
    }
    source = {"passed_over": [one | {"remedy": "rename them"}], "with_faults": []}
    project.write(
        "work/quarantine/scenes", {"report.json": dump_json(account | {"source": source})}
    )
    page = render_page(project.chosen())
    assert "1,234 files passed over: ending none, the first: a\\u202e&lt;b&gt;; rename them" in page


def test_the_page_shows_which_rows_stand_in_several_splits(project) -> None:
    place = project.root / "work/quarantine/scenes"
    account = read_json(place / "report.json")
    where = {
        "row": {"file": "part-0.parquet", "row": 1207},
        "other": {"file": "b.parquet", "row": 3},
    }
    leaks = [
        {
            "what": "texts",
            "split": "val",
            "other": "train",
            "rows": 5,
            "of": 20,
            "examples": [where],
        },
        {"what": "answer", "split": "test", "other": "val", "rows": 2, "of": 8, "examples": []},
    ]
    project.write("work/quarantine/scenes", {"report.json": dump_json(account | {"leaks": leaks})})
    page = render_page(project.chosen())
    assert "Content in several splits (2)" in page
    rows = Outline(page).rows
    assert [
        "Texts val in train",
        "5 of 20 (25 %)",
        "part-0.parquet row 1,207 is b.parquet row 3",
    ] in rows
    assert ["Answer test in val", "2 of 8 (25 %)", "counted alone"] in rows
