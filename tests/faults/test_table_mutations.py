"""A slice of the campaign against tables; the whole is `python -m tests.faults.table_mutations`."""

from pathlib import Path

from tests.faults.table_mutations import KINDS, campaign


def test_damaged_tables_are_refused_in_a_line_or_judged_row_by_row(tmp_path: Path) -> None:
    ends, failures, _ = campaign(seed=0, count=80, work=tmp_path)
    assert failures == []
    assert {end.partition(":")[0] for end in ends} == set(KINDS)
    assert {end.partition(": ")[2] for end in ends} >= {"cached", "refused by prepare"}
