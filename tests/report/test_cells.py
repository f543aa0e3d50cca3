"""Cells of the tables of an evaluation."""

import pytest

from plumbline.report.cells import as_number


def test_a_number_is_taken_as_it_is() -> None:
    assert as_number(3) == 3.0
    assert as_number(1 / 3) == 1 / 3


@pytest.mark.parametrize("value", ["3", None, True, [1.0]])
def test_what_is_no_number_is_refused_by_its_value(value: object) -> None:
    with pytest.raises(TypeError, match="no number"):
        as_number(value)
