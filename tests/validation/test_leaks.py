"""Content that stands in several splits is kept out of drawn ones, and counted in given ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.validation.report import counts_of_leaks
from tests.validation.validation_run import NO_VAL, Row, Run, failure, good

TEXTS: dict[str, list[str]] = {
    "text": ["text"],
    "pair": ["source", "target"],
    "answer": ["question", "answer"],
    "talk": ["turns"],
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def said(columns: list[str], number: int) -> dict[str, str]:
    """Cells of a row that say something of their own by number."""
    if columns == ["turns"]:
        turns = [("user", f"question {number}"), ("assistant", f"answer {number}")]
        return {"turns": json.dumps([{"role": role, "content": text} for role, text in turns])}
    return {name: f"{name} {number}" for name in columns}


def row(columns: list[str], number: int, at: int, split: str | None = "train") -> Row:
    return {"sample_id": f"row-{at}", "split": split, **said(columns, number)}


def given(columns: list[str]) -> list[Row]:
    """20 rows of train; in val 3 of 5 are of them, in test 2 of 4, one of which is in val too."""
    of_val, of_test = [1, 2, 3, 100, 101], [3, 4, 200, 201]
    return [
        *(row(columns, n, n) for n in range(20)),
        *(row(columns, n, 50 + at, "val") for at, n in enumerate(of_val)),
        *(row(columns, n, 70 + at, "test") for at, n in enumerate(of_test)),
    ]


def found(run: Run, what: str) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (leak["split"], leak["other"]): (leak["rows"], leak["of"])
        for leak in run.report.get("leaks", [])
        if leak["what"] == what
    }


PLANTED = {("test", "val"): (1, 4), ("test", "train"): (2, 4), ("val", "train"): (3, 5)}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("batch_rows", [3, 100])
def test_planted_texts_are_counted_between_given_splits(
    run: Run, name: str, batch_rows: int
) -> None:
    columns = TEXTS[name]
    run.write(given(columns)).validate(batch_rows, views={"all": columns})
    assert found(run, "texts") == PLANTED
    assert run.lost() == {}
    told = [line for line in run.report["warnings"] if line.startswith("texts of")]
    assert told[0] == (
        "texts of 1 of 4 rows of test are in val too "
        "(validate.leaks.texts: drop takes them from val)"
    )
    assert len(told) == 3
    alone = columns if len(columns) > 1 else []  # else the cell is the row
    assert counts_of_leaks(run.report) == {
        f"texts_of_{one}_in_{other}": rows for (one, other), (rows, _) in PLANTED.items()
    }
    (leak,) = [
        leak
        for leak in run.report["leaks"]
        if (leak["what"], leak["split"], leak["other"]) == ("texts", "val", "train")
    ]
    assert leak["examples"][0] == {
        "row": {"file": "part-0.parquet", "row": 20},
        "other": {"file": "part-0.parquet", "row": 1},
    }
    for column in alone:
        assert found(run, column) == PLANTED


def test_a_cell_alone_is_counted_and_a_row_is_not_one_for_it(run: Run) -> None:
    rows = given(["source", "target"])
    for at, each in enumerate(rows):
        each["target"] = f"target of row {at}"
    run.write(rows).validate(views={"all": ["source", "target"]})
    assert found(run, "source") == PLANTED
    assert found(run, "target") == found(run, "texts") == {}
    assert run.report["warnings"] == [
        "1 of 4 cells source of test stand in val too",
        "2 of 4 cells source of test stand in train too",
        "3 of 5 cells source of val stand in train too",
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_dropped_texts_go_from_train_before_val_before_test(run: Run, name: str) -> None:
    columns = TEXTS[name]
    run.write(given(columns)).validate(views={"all": columns}, leaks={"texts": "drop"})
    assert run.lost() == dict.fromkeys(["row-1", "row-2", "row-3", "row-4", "row-52"], "split_leak")
    assert found(run, "texts") == {}
    assert len(run.ids("test")) == 4


@pytest.mark.parametrize("batch_rows", [3, 100])
def test_refused_texts_are_named_by_a_row(run: Run, batch_rows: int) -> None:
    run.write(given(["text"]))
    error = failure(run, views={"all": ["text"]}, leaks={"texts": "refuse"}, batch_rows=batch_rows)
    assert (
        "texts of 1 of 4 rows of test are in val too, such as row 25 of part-0.parquet, which is "
        "row 22 of part-0.parquet; validate.leaks.texts refuses that"
    ) in str(error)


@pytest.mark.parametrize(("policy", "lost"), [("drop", 1), ("report", 0)])
def test_media_go_by_default_and_are_counted_where_they_may_stay(
    run: Run, policy: str, lost: int
) -> None:
    rows = [good(0), good(1), good(0, sample_id="again", split="test")]
    run.write(rows).validate(leaks={"media": policy}, split=NO_VAL)
    assert len(run.lost()) == lost
    assert found(run, "media") == ({} if lost else {("test", "train"): (1, 1)})


def test_media_are_refused_where_that_is_said(run: Run) -> None:
    run.write([good(0), good(1), good(0, sample_id="again", split="test")])
    error = failure(run, leaks={"media": "refuse"}, split=NO_VAL)
    assert "media of 1 of 1 rows of test are in train too, such as row 2" in str(error)


@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_equal_texts_share_a_place_in_a_drawn_split(run: Run, name: str) -> None:
    columns = TEXTS[name]
    rows = [row(columns, n % 100, n, None) for n in range(300)]
    run.write(rows).validate(views={"all": columns}, split={"val": 0.2, "test": 0.2})
    texts = [
        {tuple(each[c] for c in columns) for each in run.rows(split)}
        for split in ("train", "val", "test")
    ]
    assert all(texts)
    assert sum(map(len, texts)) == len(set.union(*texts)) == 100
    assert "leaks" not in run.report


def test_texts_that_cleaning_makes_equal_share_a_place_too(run: Run) -> None:
    forms = ["caf\u00e9 {}", "cafe\u0301 {}", "\ufeffcaf\u00e9 {}"]
    rows: list[Row] = [
        {"sample_id": f"{form}-{n}", "text": text.format(n)}
        for n in range(60)
        for form, text in enumerate(forms)
    ]
    run.write(rows).validate(views={"all": ["text"]}, split={"val": 0.3, "test": 0.3})
    texts = [{each["text"] for each in run.rows(split)} for split in ("train", "val", "test")]
    assert all(texts)
    assert sum(map(len, texts)) == 60


def test_a_group_of_its_own_comes_before_the_text_of_a_row(run: Run) -> None:
    rows: list[Row] = [
        {"sample_id": str(n), "group": f"speaker {n % 40}", "text": f"word {n % 3}"}
        for n in range(400)
    ]
    run.write(rows).validate(views={"all": ["text"]}, split={"val": 0.2, "test": 0.2})
    groups = [{each["group"] for each in run.rows(split)} for split in ("train", "val", "test")]
    assert all(groups)
    assert sum(map(len, groups)) == 40
    assert found(run, "texts")[("val", "train")][0] == len(run.rows("val"))


def test_a_text_beside_a_medium_is_no_place_of_its_own(run: Run) -> None:
    rows: list[Any] = [good(n, split=None, caption="the same") for n in range(200)]
    run.write(rows).validate()
    assert run.ids("val")
    assert run.ids("train")
    assert found(run, "texts") == {}
    assert found(run, "caption")[("val", "train")][0] == len(run.ids("val"))
