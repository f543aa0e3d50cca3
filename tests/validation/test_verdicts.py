import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.validation.splits import hash_unit
from plumbline.validation.verdicts import SPLIT_CODES, FinalVerdict, RowVerdict, VerdictStore

TEST, VAL, TRAIN = (SPLIT_CODES[name] for name in ("test", "val", "train"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VerdictStore]:
    with VerdictStore(tmp_path) as opened:
        yield opened


def row(
    number: int, split: int | None, key: str, image: str | None = None, group: str = ""
) -> RowVerdict:
    return RowVerdict(
        number,
        split,
        key.encode(),
        image.encode() if image else None,
        hash_unit(group or key, 0),
        views=1,
        blank=0,
    )


def settle(store: VerdictStore, rows: list[RowVerdict]) -> list[FinalVerdict]:
    store.add_rows(rows)
    store.drop_conflicts()
    return list(store.read())


def test_of_rows_with_one_id_the_first_stays(store: VerdictStore) -> None:
    found = settle(store, [row(0, TRAIN, "a"), row(1, TRAIN, "a"), row(2, TRAIN, "a")])
    assert [verdict.reason for verdict in found] == [None, "duplicate_id", "duplicate_id"]
    assert [verdict.other for verdict in found] == [None, 0, 0]


def test_one_image_with_other_texts_in_one_split_is_no_conflict(store: VerdictStore) -> None:
    found = settle(store, [row(n, TRAIN, str(n), "picture") for n in range(3)])
    assert [verdict.reason for verdict in found] == [None] * 3


def test_evaluation_splits_stay_whole_when_rows_leak(store: VerdictStore) -> None:
    rows = [
        row(0, TRAIN, "id in val"),
        row(1, TRAIN, "other", "image in test"),
        row(2, VAL, "id in val"),
        row(3, VAL, "more", "image in test"),
        row(4, TEST, "last", "image in test"),
    ]
    found = settle(store, rows)
    assert [verdict.reason for verdict in found] == [
        "split_leak",
        "split_leak",
        None,
        "split_leak",
        None,
    ]
    assert [verdict.other for verdict in found] == [2, 4, None, 4, None]


def test_a_row_that_goes_drags_no_other_row_along(store: VerdictStore) -> None:
    rows = [
        row(0, TEST, "a", "x"),
        row(1, VAL, "b", "x"),  # leaks from test, so its id is free again
        row(2, VAL, "b", "y"),
        row(3, TRAIN, "a", "z"),  # leaks from test, so its image counts for nothing
        row(4, TRAIN, "c", "y"),  # leaks from val
        row(5, TRAIN, "c", "z"),
    ]
    found = settle(store, rows)
    assert [verdict.reason for verdict in found] == [
        None,
        "split_leak",
        None,
        "split_leak",
        "split_leak",
        None,
    ]


def greedy(rows: list[RowVerdict]) -> dict[int, str | None]:
    """The rule in words: in order of priority and number, a row stays unless it meets a keeper."""
    kept: list[RowVerdict] = []
    reasons: dict[int, str | None] = {}
    for item in sorted(rows, key=lambda one: (one.split, one.number)):
        other_split = [one for one in kept if one.split != item.split]
        if any(item.id == one.id or item.medium == one.medium for one in other_split):
            reasons[item.number] = "split_leak"
        elif any(item.id == one.id for one in kept):
            reasons[item.number] = "duplicate_id"
        else:
            reasons[item.number] = None
            kept.append(item)
    return reasons


@pytest.mark.parametrize("seed", range(5))
def test_conflicts_of_many_rows_are_settled_as_one_by_one(seed: int, store: VerdictStore) -> None:
    draw = random.Random(seed)
    rows = [
        row(
            number,
            draw.choice((TEST, VAL, TRAIN)),
            f"id-{draw.randrange(60)}",
            f"{draw.random():.2}",
        )
        for number in range(200)
    ]
    found = settle(store, rows)
    assert {number: verdict.reason for number, verdict in enumerate(found)} == greedy(rows)


def test_groups_are_drawn_whole_and_enough_of_them(store: VerdictStore) -> None:
    store.add_rows(row(n, TRAIN, str(n), group=f"group-{n // 4}") for n in range(400))
    drawn = store.draw_from_train("val", 0.0, 10)
    assert drawn == 12
    splits = [verdict.split for verdict in store.read()]
    assert splits.count(VAL) == 12
    for start in range(0, 400, 4):
        assert len(set(splits[start : start + 4])) == 1


def test_a_draw_takes_the_groups_that_the_hash_assigns(store: VerdictStore) -> None:
    store.add_rows(row(n, TRAIN, f"row-{n}") for n in range(300))
    store.draw_from_train("test", 0.2, 0)
    store.draw_from_train("val", 0.1, 0)
    for number, verdict in enumerate(store.read()):
        place = hash_unit(f"row-{number}", 0)
        expected = VAL if place < 0.1 else TEST if place >= 0.8 else TRAIN
        assert verdict.split == expected


@pytest.mark.parametrize(("rows", "expected"), [(1, 0), (2, 1), (15, 7), (20, 10), (30, 10)])
def test_train_keeps_half_of_a_small_set(rows: int, expected: int, store: VerdictStore) -> None:
    store.add_rows(row(n, TRAIN, str(n)) for n in range(rows))
    assert store.draw_from_train("val", 0.0, 10) == expected


def test_rejected_rows_take_no_part(store: VerdictStore) -> None:
    bad = row(0, None, "a", "x")._replace(id=None, medium=None, reason="bad_image", detail="cut")
    store.add_rows([bad, row(1, None, "a", "x")])
    assert store.pool_unsplit_rows() == 1
    store.drop_conflicts()
    assert [(verdict.reason, verdict.split) for verdict in store.read()] == [
        ("bad_image", None),
        (None, TRAIN),
    ]
