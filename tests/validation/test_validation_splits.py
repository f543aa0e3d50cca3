from pathlib import Path

import pyarrow.parquet as pq
import pytest

from plumbline.data.parquet import declare_splits
from plumbline.validation.settings import SplitConfig
from plumbline.validation.splits import hash_unit
from tests.validation.validation_run import NO_VAL, Run, failure, good, png


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_leaks_between_splits_cost_the_training_side(run: Run) -> None:
    rows = [
        good(0),
        good(1, sample_id="in val too"),
        good(2),
        good(3, sample_id="in val too", split="val"),
        good(2, sample_id="image of train", split="val"),
        good(2, sample_id="image of val", split="test"),
    ]
    run.write(rows[:3], "part-0").write(rows[3:], "part-1").validate()
    assert run.lost() == {
        "in val too": "split_leak",
        "row-2": "split_leak",
        "image of train": "split_leak",
    }
    assert {split: run.ids(split) for split in ("train", "val", "test")} == {
        "train": ["row-0"],
        "val": ["in val too"],
        "test": ["image of val"],
    }
    details = pq.read_table(run.quarantine / "rows.parquet")["detail"].to_pylist()
    assert "the same sample_id as row 0 of part-1.parquet" in details


def test_a_split_is_drawn_by_group_where_none_is_given(run: Run) -> None:
    rows = [good(n, split=None, group=f"group-{n // 5}", image=png(n // 5)) for n in range(500)]
    run.write(rows).validate(split=SplitConfig(seed=4, val=0.2, test=0.1))
    found = {row["group"]: split for split in ("train", "val", "test") for row in run.rows(split)}
    assert len(found) == 100
    for group, split in found.items():
        place = hash_unit(group, 4)
        assert split == ("val" if place < 0.2 else "test" if place >= 0.9 else "train")
    assert "no split is given" in run.report["warnings"][0]


def test_a_validation_split_is_drawn_from_train_where_only_train_is_given(run: Run) -> None:
    run.write([good(n, group=f"group-{n // 2}") for n in range(60)]).validate()
    train, val = run.rows("train"), run.rows("val")
    assert len(train) + len(val) == 60
    assert len(val) >= 10
    assert not {row["group"] for row in train} & {row["group"] for row in val}
    assert "no validation split is given" in run.report["warnings"][0]
    assert run.lost() == {}


def test_no_validation_split_is_drawn_where_it_is_switched_off(run: Run) -> None:
    run.write([good(n) for n in range(30)]).validate(split=NO_VAL)
    assert run.report["rows_clean"] == {"train": 30}
    assert run.report["warnings"] == []


def test_without_groups_rows_with_one_image_stay_together_when_splits_are_drawn(run: Run) -> None:
    run.write([good(n, split="", image=png(n // 10)) for n in range(400)]).validate()
    assert run.lost() == {}
    train, val = ({row["image"] for row in run.rows(name)} for name in ("train", "val"))
    assert val
    assert not train & val


def test_a_blank_group_counts_as_none(run: Run) -> None:
    groups = ["named", " ", "", None]
    rows = [good(n, group=group, image=png(0)) for n, group in enumerate(groups)]
    run.write(rows).validate(split=NO_VAL)
    named, *others = (row["group"] for row in run.rows("train"))
    assert named == "named"
    assert len(set(others)) == 1
    assert others[0].startswith("image:")


def test_one_image_in_two_groups_does_not_leak_through_a_draw(run: Run) -> None:
    rows = [good(n, split=None, group=f"group-{n}", image=png(n % 40)) for n in range(80)]
    run.write(rows).validate(split=SplitConfig(val=0.3, test=0.0))
    train, val = ({row["image"] for row in run.rows(name)} for name in ("train", "val"))
    assert not train & val
    assert run.report["reasons"]["split_leak"] == 80 - len(run.ids("train")) - len(run.ids("val"))


def test_rows_without_a_split_count_as_train_where_others_have_one(run: Run) -> None:
    run.write([good(0, split=None), good(1, split="val"), good(2, split="")]).validate()
    assert (run.ids("train"), run.ids("val")) == (["row-0", "row-2"], ["row-1"])
    assert "2 rows bring no split" in run.report["warnings"][0]


def test_a_group_with_rows_in_two_given_splits_is_worth_a_warning(run: Run) -> None:
    rows = [good(0, group="speaker"), good(1, group="speaker", split="val"), good(2)]
    run.write(rows).validate()
    assert run.report["warnings"] == ["groups with rows in more than one of the given splits: 1"]


def test_a_given_split_without_a_valid_row_is_an_error_that_names_it(run: Run) -> None:
    run.write([good(0), good(1), good(2, split="val", caption=None)])
    error = failure(run)
    assert "split val is given but has no valid row" in str(error)
    assert error.report["rows_in"] == 3


def test_a_declared_split_without_a_row_is_an_error_unless_validation_is_off(run: Run) -> None:
    run.write([good(0), good(1)])
    path = run.raw / "part-0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.cast(declare_splits(table.schema, ["train", "val"])), path)
    assert "split val is given" in str(failure(run))
    again = Run(run.raw.parent / "again")
    again.raw = run.raw
    again.validate(split=NO_VAL)
    assert again.report["rows_clean"] == {"train": 2}


def test_a_full_overlap_of_two_splits_is_an_error(run: Run) -> None:
    run.write([good(0), good(1), good(0, split="val"), good(1, split="val")])
    assert "split train is given but has no valid row" in str(failure(run))
