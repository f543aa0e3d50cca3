"""The tables of a history hold every digit."""

import csv
from pathlib import Path

from plumbline.training.history import History


def example() -> History:
    return History(
        steps=[{"global_step": 1, "loss": 0.1 + 0.2}, {"global_step": 2, "loss": 1e-17}],
        micro=[
            {"micro_step": 0, "global_step": 1, "loss": 1 / 3, "count": 7},
            {"micro_step": 1, "global_step": 1, "loss": 2e-300, "count": 0},
        ],
        validations=[{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4, "score": 2.0}],
    )


def test_tables_hold_every_digit_and_leave_holes_where_a_row_has_none(tmp_path: Path) -> None:
    example().write(tmp_path)
    assert (tmp_path / "train.csv").read_text(encoding="utf-8") == (
        "global_step,loss\n1,0.30000000000000004\n2,1e-17\n"
    )
    with (tmp_path / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"epoch": "1", "loss": "0.5", "score": ""},
        {"epoch": "2", "loss": "0.4", "score": "2.0"},
    ]


def test_the_table_of_micro_batches_names_each_value_beside_both_steps(tmp_path: Path) -> None:
    example().write(tmp_path)
    assert (tmp_path / "micro.csv").read_text(encoding="utf-8") == (
        "micro_step,global_step,name,value\n"
        "0,1,loss,0.3333333333333333\n"
        "0,1,count,7\n"
        "1,1,loss,2e-300\n"
        "1,1,count,0\n"
    )


def test_an_empty_table_is_not_written(tmp_path: Path) -> None:
    History(steps=[{"global_step": 1}]).write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["train.csv"]


def test_skipped_steps_have_a_table_of_their_own(tmp_path: Path) -> None:
    row: dict[str, int | str] = {"global_step": 3, "reason": "ValueError: a, b", "samples": "4 7"}
    history = History(skipped=[row])
    history.write(tmp_path)
    assert (tmp_path / "skipped.csv").read_text(encoding="utf-8") == (
        'global_step,reason,samples\n3,"ValueError: a, b",4 7\n'
    )
