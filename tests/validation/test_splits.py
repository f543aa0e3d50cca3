from collections import Counter

import pytest

from plumbline.data.columns import SPLITS
from plumbline.validation.splits import PRIORITY, assign_split, hash_unit

FRACTIONS = {"val": 0.1, "test": 0.2}


def test_priority_orders_the_splits_there_are() -> None:
    assert sorted(PRIORITY) == sorted(SPLITS)


def test_a_key_has_the_same_place_on_every_machine() -> None:
    assert hash_unit("scene-7", 0) == 0.056395949244930854
    assert hash_unit(b"scene-7", 0) == hash_unit("scene-7", 0)
    assert hash_unit("scene-7", 1) != hash_unit("scene-7", 0)


def test_shares_come_out_as_asked() -> None:
    counts = Counter(assign_split(f"group-{n}", 0, FRACTIONS) for n in range(10_000))
    # Three standard deviations of a binomial share at 10,000 draws are at most 0.012.
    assert counts["val"] / 10_000 == pytest.approx(0.1, abs=0.012)
    assert counts["test"] / 10_000 == pytest.approx(0.2, abs=0.012)


def test_a_larger_test_share_takes_from_train_alone() -> None:
    for number in range(500):
        before = assign_split(f"group-{number}", 3, {"val": 0.1})
        after = assign_split(f"group-{number}", 3, FRACTIONS)
        assert after == before or (before, after) == ("train", "test")


@pytest.mark.parametrize("fractions", [{"val": 0.6, "test": 0.4}, {"val": -0.1}, {"test": 1.0}])
def test_shares_that_leave_nothing_for_train_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to less than 1"):
        assign_split("group", 0, fractions)
