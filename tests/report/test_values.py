import numpy as np

from plumbline.report.samples import Key
from plumbline.report.values import POINTS, Values

LARGEST = 8


def test_points_are_thinned_evenly_and_the_words_count_all() -> None:
    values = Values()
    for at in range(2 * POINTS + 1):
        values.add(Key("sample_id", str(at)), float(at), float(-at))
    true, said, words = values.drawn()
    np.testing.assert_array_equal(true, np.arange(0, 2 * POINTS + 1, 3.0))
    np.testing.assert_array_equal(said, -true)
    assert words.startswith("1,201 values from 0 to 1,200, predicted -1,200 to 0;")
    assert words.endswith("One in 3 is drawn.")


def test_the_largest_errors_come_first_whatever_their_sign() -> None:
    values = Values()
    for at, error in enumerate([0.5, -3.0, 2.0, *[0.0] * 20, 3.0]):
        values.add(Key("sample_id", str(at)), 1.0, 1.0 + error)
    largest = values.largest(LARGEST)
    assert [error.key.value for error in largest[:3]] == ["1", "23", "2"]
    assert len(largest) == LARGEST
