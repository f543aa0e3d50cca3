import re

import numpy as np
import pytest

from plumbline.metrics.classification import expected_calibration_error
from plumbline.report.calibration import Calibration


def test_the_error_is_that_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.4), 500)
    labels = rng.integers(0, 4, 500)
    calibration = Calibration()
    for row, label in zip(probabilities, labels, strict=True):
        calibration.add(float(row.max()), right=bool(row.argmax() == label))
    expected = expected_calibration_error(probabilities, labels)
    assert calibration.error == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_an_edge_is_in_the_bin_below_it_as_in_the_metric() -> None:
    probabilities = np.array([[0.2, 0.2, 0.2, 0.2, 0.2], [0.21, 0.2, 0.2, 0.2, 0.19]])
    calibration = Calibration()
    calibration.add(0.2, right=True)
    calibration.add(0.21, right=False)
    assert calibration.error == pytest.approx((0.8 + 0.21) / 2)
    expected = expected_calibration_error(probabilities, np.array([0, 1]))
    assert calibration.error == pytest.approx(expected, abs=1e-12)


def test_what_is_right_as_often_as_it_claims_has_no_error() -> None:
    calibration = Calibration()
    for right in (True, True, True, False):
        calibration.add(0.75, right=right)
    assert calibration.error == 0.0


@pytest.mark.parametrize(("confidence", "words"), [(0.9, "too sure"), (0.1, "not sure enough")])
def test_the_words_say_in_which_direction(confidence: float, words: str) -> None:
    calibration = Calibration()
    for right in (True, False):
        calibration.add(confidence, right=right)
    (block,) = calibration.blocks("digit", "name", "answers")
    assert block.part == "digit"
    svg, said = block.content  # type: ignore[misc]  # of this template a pair
    assert f"2 answers: mean confidence {confidence:.3f}, right 0.500" in said
    assert words in said
    assert "Expected calibration error 0.400 over 15 bins" in said
    assert len(re.findall(r"<svg", str(svg))) == 1


def test_a_difference_that_is_none_is_not_called_one() -> None:
    calibration = Calibration()
    for right in (True, False):
        calibration.add(0.505, right=right)
    (block,) = calibration.blocks("", "name", "answers")
    assert "on the whole as sure as it is right" in str(block.content)


def test_a_confidence_of_0_and_of_1_have_a_bin() -> None:
    calibration = Calibration()
    calibration.add(0.0, right=False)
    calibration.add(1.0, right=True)
    assert calibration.error == 0.0


def test_without_confidences_there_is_no_diagram() -> None:
    assert Calibration().blocks("", "name", "answers") == []
