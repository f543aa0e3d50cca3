from plumbline.data.columns import SPLITS
from plumbline.validation.splits import PRIORITY, hash_unit


def test_priority_orders_the_splits_there_are() -> None:
    assert sorted(PRIORITY) == sorted(SPLITS)


def test_a_key_has_the_same_place_on_every_machine() -> None:
    assert hash_unit("scene-7", 0) == 0.056395949244930854
    assert hash_unit(b"scene-7", 0) == hash_unit("scene-7", 0)
    assert hash_unit("scene-7", 1) != hash_unit("scene-7", 0)
