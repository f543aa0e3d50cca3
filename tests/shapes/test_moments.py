import numpy as np
import pytest

from plumbline.shapes.moments import Moments


@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 50], [40, 40]])
def test_pieces_give_the_moments_of_the_whole(cuts: list[int]) -> None:
    values = np.random.default_rng(0).normal(1e4, [1.0, 1e-3], (100, 2))
    moments = Moments(2)
    for piece in np.split(values, cuts):
        moments.add(piece)
    # Nine digits are kept; the second channel loses seven more to its mean.
    np.testing.assert_allclose(moments.mean(), values.mean(0), rtol=1e-8)
    np.testing.assert_allclose(moments.std(), values.std(0), rtol=1e-7)
    assert moments.count == 100
