import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from plumbline.validation import key_codes
from plumbline.validation.key_codes import KeyCodes
from plumbline.validation.notes import REASONS, notes_schema
from plumbline.validation.settling import draw_from_train, drop_conflicts, pool_unsplit_rows
from plumbline.validation.splits import SPLIT_CODES, hash_unit
from plumbline.validation.verdicts import Verdicts

TEST, VAL, TRAIN = (SPLIT_CODES[name] for name in ("test", "val", "train"))


class Noted(NamedTuple):
    """What pass one notes of a row."""

    number: int
    split: int | None
    id: bytes | None
    medium: bytes | None
    place: float | None
    reason: str | None = None


class Found(NamedTuple):
    """What is decided of it."""

    split: int
    reason: str | None
    other: int | None


@pytest.fixture(params=[1, 50], ids=["one piece", "pieces"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what outgrows memory lies: nothing, and nearly everything."""
    if request.param > 1:
        monkeypatch.setattr(key_codes, "KEYS_AT_ONCE", request.param)
        monkeypatch.setattr(key_codes, "ARRAY_BYTES", request.param)
    return tmp_path


def row(
    number: int, split: int | None, key: str, image: str | None = None, group: str = ""
) -> Noted:
    medium = b"\0" + image.encode().ljust(16, b"\0") if image else None
    return Noted(number, split, key.encode().ljust(16, b"\0"), medium, hash_unit(group or key, 0))


def noted(folder: Path, rows: Iterable[Noted]) -> Verdicts:
    """The verdicts of rows, which come in two shards."""
    every = list(rows)
    schema, verdicts = notes_schema([]), Verdicts(folder, len(every))
    for some in (every[: len(every) // 3], every[len(every) // 3 :]):
        columns = {
            "reason": [item.reason and REASONS.index(item.reason) for item in some],
            "grouped": [False] * len(some),
            **{name: [getattr(item, name) for item in some] for name in ("split", "id", "medium")},
            "place": [item.place for item in some],
        }
        given = {name: columns.get(name, [None] * len(some)) for name in schema.names}
        verdicts.add(pa.table(given, schema))
    verdicts.number_all(0)
    return verdicts


def read(verdicts: Verdicts) -> list[Found]:
    columns = (column.tolist() for column in verdicts.slice(0, verdicts.rows))
    return [
        Found(split, None if reason < 0 else REASONS[reason], None if other < 0 else other)
        for split, reason, _, other in zip(*columns, strict=True)
    ]


def settle(folder: Path, rows: list[Noted]) -> list[Found]:
    verdicts = noted(folder, rows)
    drop_conflicts(verdicts)
    return read(verdicts)


def test_of_rows_with_one_id_the_first_stays(folder: Path) -> None:
    found = settle(folder, [row(0, TRAIN, "a"), row(1, TRAIN, "a"), row(2, TRAIN, "a")])
    assert [verdict.reason for verdict in found] == [None, "duplicate_id", "duplicate_id"]
    assert [verdict.other for verdict in found] == [None, 0, 0]


def test_one_image_with_other_texts_in_one_split_is_no_conflict(folder: Path) -> None:
    found = settle(folder, [row(n, TRAIN, str(n), "picture") for n in range(3)])
    assert [verdict.reason for verdict in found] == [None] * 3


def test_evaluation_splits_stay_whole_when_rows_leak(folder: Path) -> None:
    rows = [
        row(0, TRAIN, "id in val"),
        row(1, TRAIN, "other", "image in test"),
        row(2, VAL, "id in val"),
        row(3, VAL, "more", "image in test"),
        row(4, TEST, "last", "image in test"),
    ]
    found = settle(folder, rows)
    assert [verdict.reason for verdict in found] == [
        "split_leak",
        "split_leak",
        None,
        "split_leak",
        None,
    ]
    assert [verdict.other for verdict in found] == [2, 4, None, 4, None]


def test_a_row_that_goes_drags_no_other_row_along(folder: Path) -> None:
    rows = [
        row(0, TEST, "a", "x"),
        row(1, VAL, "b", "x"),  # leaks from test, so its id is free again
        row(2, VAL, "b", "y"),
        row(3, TRAIN, "a", "z"),  # leaks from test, so its image counts for nothing
        row(4, TRAIN, "c", "y"),  # leaks from val
        row(5, TRAIN, "c", "z"),
    ]
    found = settle(folder, rows)
    assert [verdict.reason for verdict in found] == [
        None,
        "split_leak",
        None,
        "split_leak",
        "split_leak",
        None,
    ]


def greedy(rows: list[Noted]) -> dict[int, str | None]:
    """The rule in words: in order of priority and number, a row stays unless it meets a keeper."""
    kept: list[Noted] = []
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
def test_conflicts_of_many_rows_are_settled_as_one_by_one(seed: int, folder: Path) -> None:
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
    found = settle(folder, rows)
    assert {number: verdict.reason for number, verdict in enumerate(found)} == greedy(rows)


def test_groups_are_drawn_whole_and_enough_of_them(folder: Path) -> None:
    store = noted(folder, (row(n, TRAIN, str(n), group=f"group-{n // 4}") for n in range(400)))
    drawn = draw_from_train(store, "val", 0.0, 10)
    assert drawn == 12
    splits = [verdict.split for verdict in read(store)]
    assert splits.count(VAL) == 12
    for start in range(0, 400, 4):
        assert len(set(splits[start : start + 4])) == 1


def test_a_draw_takes_the_groups_that_the_hash_assigns(folder: Path) -> None:
    store = noted(folder, (row(n, TRAIN, f"row-{n}") for n in range(300)))
    draw_from_train(store, "test", 0.2, 0)
    draw_from_train(store, "val", 0.1, 0)
    for number, verdict in enumerate(read(store)):
        place = hash_unit(f"row-{number}", 0)
        expected = VAL if place < 0.1 else TEST if place >= 0.8 else TRAIN
        assert verdict.split == expected


@pytest.mark.parametrize(("rows", "expected"), [(1, 0), (2, 1), (15, 7), (20, 10), (30, 10)])
def test_train_keeps_half_of_a_small_set(rows: int, expected: int, folder: Path) -> None:
    store = noted(folder, (row(n, TRAIN, str(n)) for n in range(rows)))
    assert draw_from_train(store, "val", 0.0, 10) == expected


def test_rejected_rows_take_no_part(folder: Path) -> None:
    bad = row(0, None, "a", "x")._replace(id=None, medium=None, place=None, reason="bad_image")
    store = noted(folder, [bad, row(1, None, "a", "x")])
    assert pool_unsplit_rows(store) == 1
    drop_conflicts(store)
    assert [(verdict.reason, verdict.split) for verdict in read(store)] == [
        ("bad_image", -1),
        (None, TRAIN),
    ]


def test_equal_keys_share_a_number_and_others_do_not(folder: Path) -> None:
    draw = random.Random(0)
    keys = [draw.choice((b"aaaa", b"aaab", b"b%03d" % draw.randrange(300))) for _ in range(1000)]
    codes = KeyCodes(folder, 4, len(keys))
    array = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 4)
    for start in range(0, 1000, 300):
        codes.add(np.arange(start, min(start + 300, 1000)), array[start : start + 300])
    found = np.full(1000, -1)
    distinct = [key for some in codes.distinct(found) for key in some.to_pylist()]
    assert [distinct[number] for number in found.tolist()] == keys
    assert len(distinct) == len(set(keys))
