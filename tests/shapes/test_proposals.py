"""Each proposal follows from its rule, at its edges too."""

import pytest

from plumbline.shapes.proposals import (
    PATCH,
    SIDES,
    batch_size,
    class_weights,
    context_tokens,
    image_side,
)


@pytest.mark.parametrize(
    ("typical", "most", "side"),
    [(16, 224, 32), (32, 224, 32), (47, 224, 32), (48, 224, 48), (4000, 224, 224), (300, 96, 96)],
)
def test_the_side_of_images_enlarges_no_typical_one(typical: int, most: int, side: int) -> None:
    assert image_side(typical, most) == side


def test_sides_are_whole_patches() -> None:
    assert all(side % PATCH == 0 for side in SIDES)


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 2), (8, 2), (31, 4), (32, 8), (511, 64), (512, 128), (10**6, 128)]
)
def test_a_batch_is_a_power_of_two_of_a_fourth_of_the_rows(rows: int, size: int) -> None:
    assert batch_size(rows) == size


@pytest.mark.parametrize(
    ("usual", "longest", "most", "tokens"),
    [
        (20, 30, None, 32),
        (20, 31, None, 32),
        (100, 150, None, 160),  # no longer than half as much again: nothing is cut
        (100, 151, None, 128),
        (32, 32, None, 32),
        (32.5, 33, None, 64),
        (900, 950, 512, 512),
    ],
)
def test_a_context_has_room_for_the_longest_unless_it_is_far_longer(
    usual: float, longest: float, most: int | None, tokens: int
) -> None:
    assert context_tokens(usual, longest, most) == tokens


@pytest.mark.parametrize(("imbalance", "how"), [(1.0, "none"), (9.99, "none"), (10.0, "balanced")])
def test_classes_are_weighed_from_ten_times_on(imbalance: float, how: str) -> None:
    assert class_weights(imbalance) == how
