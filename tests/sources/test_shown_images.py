"""Images in chat data: every dialect becomes one form, and what does not add up is filed."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.data.image_lists import BadImageList, pack_images, unpack_images
from plumbline.data.turns import IMAGE_MARK, BadTurns, Turn, count_images, dump_turns, parse_turns
from plumbline.errors import ConfigError
from plumbline.sources.jsonl import JsonlSource
from plumbline.sources.parquet import ParquetSource
from plumbline.validation.faults import Fault
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.turns_check import clean_turns
from tests.tiny import picture
from tests.validation.validation_run import Run

Record = dict[str, Any]

ONE, OTHER = picture(1), picture(2)
FILES = {"one.png": ONE, "other.png": OTHER}
TALK: list[Turn] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": f"{IMAGE_MARK} and {IMAGE_MARK}: which?", "images": [0, 1]},
    {"role": "assistant", "content": "The <image> on the left."},
]
SAID = "<image> and <image>: which?"
ANSWER = "The <image> on the left."
BRIEF = {"role": "system", "content": "Be brief."}
NAMES = ["one.png", "other.png"]


def parts(*images: Record) -> list[Record]:
    texts = [{"type": "text", "text": text} for text in (" and ", ": which?")]
    return [images[0], texts[0], images[1], texts[1]]


def url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def messages(content: Any, **beside: Any) -> Record:
    asked = {"role": "user", "content": content}
    return {"messages": [BRIEF, asked, {"role": "assistant", "content": ANSWER}], **beside}


IN_DIALECTS: dict[str, tuple[str, Record]] = {
    "parts that name files": (
        "messages",
        messages(parts(*({"type": "image", "image": name} for name in NAMES))),
    ),
    "parts of the hub": (
        "messages",
        messages(parts({"type": "image"}, {"type": "image"}), images=NAMES),
    ),
    "parts of OpenAI": (
        "messages",
        messages(
            parts(*({"type": "image_url", "image_url": {"url": url(i)}} for i in (ONE, OTHER)))
        ),
    ),
    "parts of URLs in capitals": (
        "messages",
        messages(
            parts(
                *({"type": "image", "url": url(i).replace("data:", "DATA:")} for i in (ONE, OTHER))
            )
        ),
    ),
    "messages of texts": ("messages", messages(SAID, images=NAMES)),
    "alpaca": (
        "alpaca",
        {"system": "Be brief.", "instruction": SAID, "output": ANSWER, "images": NAMES},
    ),
    "sharegpt": (
        "sharegpt",
        {
            "system": "Be brief.",
            "images": NAMES,
            "conversations": [{"from": "human", "value": SAID}, {"from": "gpt", "value": ANSWER}],
        },
    ),
}


ALPACA = IN_DIALECTS["alpaca"][1]


def read(folder: Path, dialect: str, *records: Record, **source: Any) -> list[Record]:
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    settings = {"source": "jsonl", "chat": {"dialect": dialect, "images": True}, **source}
    return rows_of(JsonlSource.model_validate(settings).read(folder))


def rows_of(batches: Any) -> list[Record]:
    return [
        {"turns": turns, "images": images}
        for batch in batches
        for turns, images in zip(
            batch.column("turns").to_pylist(), batch.column("images").to_pylist(), strict=True
        )
    ]


@pytest.mark.parametrize("which", IN_DIALECTS)
def test_every_dialect_becomes_the_same_turns_and_images(tmp_path: Path, which: str) -> None:
    """`<image>` of an answer is what the assistant says."""
    dialect, record = IN_DIALECTS[which]
    (row,) = read(tmp_path, dialect, record)
    assert parse_turns(row["turns"]) == TALK
    assert unpack_images(row["images"]) == [ONE, OTHER]


def test_one_image_may_stand_in_a_field_of_its_own(tmp_path: Path) -> None:
    """As in LLaVA's files, the name of the field is another."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    chat = {"dialect": "sharegpt", "images": True, "fields": {"image": "picture"}}
    (row,) = read(tmp_path, "", {"picture": "one.png", "conversations": talk}, chat=chat)
    assert parse_turns(row["turns"])[0] == {
        "role": "user",
        "content": f"{IMAGE_MARK}\nWhat?",
        "images": [0],
    }
    assert unpack_images(row["images"]) == [ONE]


@pytest.mark.parametrize("which", IN_DIALECTS)
def test_conversations_can_be_read_without_their_images(tmp_path: Path, which: str) -> None:
    dialect, record = IN_DIALECTS[which]
    (tmp_path / "chat.jsonl").write_text(json.dumps(record), encoding="utf-8")
    chat = {"dialect": dialect, "images": "ignored"}
    source = JsonlSource.model_validate({"source": "jsonl", "chat": chat})
    (row,) = [row for batch in source.read(tmp_path) for row in batch.to_pylist()]
    assert parse_turns(row["turns"]) == [
        TALK[0],
        {"role": "user", "content": "and\n: which?"},
        TALK[2],
    ]
    assert row.keys() == {"sample_id", "turns"}


@pytest.mark.parametrize("kind", ["bytes", "structs"])
def test_parquet_holds_images_as_bytes_or_as_the_hub_has_them(tmp_path: Path, kind: str) -> None:
    held: list[Any] = [ONE, OTHER]
    if kind == "structs":
        held = [{"bytes": image, "path": "x.png"} for image in held]
    record = {"id": "a", **IN_DIALECTS["messages of texts"][1], "images": held}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "chat.parquet")
    settings = {
        "source": "parquet",
        "chat": {"dialect": "messages", "images": True},
        "columns": {"sample_id": "id"},
    }
    (row,) = rows_of(ParquetSource.model_validate(settings).read(tmp_path))
    assert parse_turns(row["turns"]) == TALK
    assert unpack_images(row["images"]) == [ONE, OTHER]


def test_a_word_or_a_mark_that_somebody_typed_is_no_image(tmp_path: Path) -> None:
    said = f"{IMAGE_MARK} or <image>?"
    (text,) = read(tmp_path, "messages", messages(said))
    assert parse_turns(text["turns"])[1] == {"role": "user", "content": said}
    assert text["images"] is None
    (both,) = read(tmp_path, "messages", messages(said, images=["one.png"]))
    assert parse_turns(both["turns"])[1] == {
        "role": "user",
        "content": f"{IMAGE_MARK} or {IMAGE_MARK}?",
        "images": [1],
    }
    typed = [{"type": "text", "text": IMAGE_MARK}, {"type": "image", "image": "one.png"}]
    (mixed,) = read(tmp_path, "messages", messages([*typed, *typed]))
    assert parse_turns(mixed["turns"])[1].get("images") == [1, 3]


def test_rows_with_images_are_filed_where_none_are_read(tmp_path: Path) -> None:
    for dialect, record in IN_DIALECTS.values():
        chat = {"chat": {"dialect": dialect}}
        (tmp_path / "chat.jsonl").write_text(json.dumps(record), encoding="utf-8")
        source = JsonlSource.model_validate({"source": "jsonl", **chat})
        (batch,) = source.read(tmp_path)
        assert "images" not in batch.schema.names
        fault = clean_turns(batch.column("turns").to_pylist()[0].encode(), 1000)
        assert fault == Fault("bad_turns", "images in turns are not read; set chat.images")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "image", "url": "https://a/b.png"}], "address on a network"),
        ([{"type": "image", "url": "HTTP://a/b.png"}], "address on a network"),
        ([{"type": "audio"}], "a part of type 'audio' is not read"),
    ],
)
def test_what_is_no_image_of_the_data_is_filed(tmp_path: Path, content: Any, said: str) -> None:
    (row,) = read(tmp_path, "messages", messages(content))
    with pytest.raises(BadTurns, match=said):
        parse_turns(row["turns"])


def test_an_image_of_the_assistant_is_filed(tmp_path: Path) -> None:
    shown = {"role": "assistant", "content": [{"type": "image", "image": "one.png"}]}
    (row,) = read(tmp_path, "messages", {"messages": [{"role": "user", "content": "a"}, shown]})
    with pytest.raises(BadTurns, match="an image that the assistant shows"):
        parse_turns(row["turns"])


def test_a_dataset_of_one_file_cannot_name_others(tmp_path: Path) -> None:
    dialect, record = IN_DIALECTS["sharegpt"]
    read(tmp_path, dialect, record)
    chat = {"dialect": dialect, "images": True}
    source = JsonlSource.model_validate({"source": "jsonl", "chat": chat})
    with pytest.raises(ConfigError, match="is one file, but its rows name others"):
        list(source.read(tmp_path / "chat.jsonl"))


@pytest.mark.parametrize("images", [[-1], [1], [0, 0], ["0"], "0", [True], [1, 0]])
def test_turns_that_name_marks_that_they_do_not_have_are_none(images: Any) -> None:
    cell = json.dumps([{"role": "user", "content": IMAGE_MARK, "images": images}])
    with pytest.raises(BadTurns, match="images name marks"):
        parse_turns(cell)


@pytest.mark.parametrize(
    "cell", [b"", b"\0" * 7, b"\0" * 8, pack_images([ONE])[:-1], pack_images([ONE]) + b"x"]
)
def test_bytes_that_hold_no_images_are_refused(cell: bytes) -> None:
    with pytest.raises(BadImageList):
        unpack_images(cell)


def test_an_image_that_is_not_there_is_told_from_an_empty_one() -> None:
    assert unpack_images(pack_images([None, b"", ONE])) == [None, b"", ONE]


def test_cleaning_moves_no_image() -> None:
    said = f"\r\ncafe\u0301{IMAGE_MARK}\x00 {IMAGE_MARK}"
    talk: list[Turn] = [{"role": "user", "content": said, "images": [1]}, TALK[-1]]
    found = clean_turns(dump_turns(talk).encode(), 1000, images=True)
    assert not isinstance(found, Fault)
    (asked, _) = parse_turns(found.text)
    assert asked == {
        "role": "user",
        "content": f"\ncaf\u00e9{IMAGE_MARK} {IMAGE_MARK}",
        "images": [1],
    }


VIEWS = {"chat": ["turns"], "shown": ["turns", "images"]}


def row(number: int, places: int, images: list[bytes | None] | None, **more: Any) -> Record:
    asked: Turn = {"role": "user", "content": f"{number}{IMAGE_MARK * places}"}
    turns: list[Turn] = [{**asked, "images": list(range(places))} if places else asked, TALK[-1]]
    cell = None if images is None else pack_images(images)
    said = {"sample_id": f"row-{number}", "turns": dump_turns(turns), "images": cell}
    return {**said, "split": "train", **more}


def test_places_and_images_go_together_or_the_row_is_filed(tmp_path: Path) -> None:
    rows = [
        row(0, 2, [ONE, OTHER]),
        row(1, 0, None),
        row(2, 2, [ONE]),
        row(3, 1, [ONE, OTHER]),
        row(4, 0, [ONE]),
        row(5, 1, None),
        row(6, 1, [b"nonsense"]),
        row(7, 2, [ONE, None]),
        row(8, 1, None) | {"images": b"nonsense"},
        row(9, 1, [ONE], turns="[]"),
        row(10, 0, [b"nonsense"]),
        row(11, 0, [None]),
    ]
    run = Run(tmp_path).write(rows).validate(views=VIEWS, split={"val": 0.0, "test": 0.0})
    assert run.ids("train") == ["row-0", "row-1"]
    assert run.lost() == {
        "row-2": "image_places",
        "row-3": "image_places",
        "row-4": "image_places",
        "row-5": "image_places",
        "row-6": "bad_image",
        "row-7": "null_image",
        "row-8": "bad_images",
        "row-9": "turn_order",
        "row-10": "bad_image",
        "row-11": "null_image",
    }
    assert [unpack_images(r["images"]) for r in run.rows("train")[:1]] == [[ONE, OTHER]]


def test_turns_with_images_need_a_view_that_has_them(tmp_path: Path) -> None:
    rows = [row(0, 0, None), row(1, 1, [ONE])]
    views = {"chat": ["turns"]}
    run = Run(tmp_path).write(rows).validate(views=views, split={"val": 0.0, "test": 0.0})
    assert run.lost() == {"row-1": "image_places"}


def test_a_row_leaves_train_where_any_of_its_images_is_in_test(tmp_path: Path) -> None:
    third = picture(3)
    rows = [
        row(0, 2, [third, ONE], split="test"),
        row(1, 2, [OTHER, ONE]),
        row(2, 1, [ONE]),
        row(3, 1, [third]),
        row(4, 1, [OTHER]),
    ]
    run = Run(tmp_path).write(rows).validate(views=VIEWS, split={"val": 0.0})
    assert run.ids("train") == ["row-4"]
    assert run.lost() == dict.fromkeys(["row-1", "row-2", "row-3"], "split_leak")


def test_rows_that_share_an_image_stay_in_one_split_through_however_many_others(
    tmp_path: Path,
) -> None:
    """Chains of five: 0 1, 1 2, 2 3, 3 4, and one row with the last alone."""
    rows: list[Record] = []
    for chain in range(20):
        images = [picture(100 * chain + at) for at in range(5)]
        shown = [images[at : at + 2] for at in range(4)] + [images[4:]]
        rows += [row(10 * chain + at, len(two), two) for at, two in enumerate(shown)]
    for each in rows:
        del each["split"]
    run = Run(tmp_path).write(rows).validate(views=VIEWS, split={"val": 0.2, "test": 0.2})
    assert not run.lost()
    chains = [{int(i[4:]) // 10 for i in run.ids(split)} for split in ("train", "val", "test")]
    assert all(chains)
    assert sum(map(len, chains)) == len(set.union(*chains)) == 20


def test_of_more_images_than_a_row_may_have_no_more_are_read(tmp_path: Path) -> None:
    """A row that names a large one again and again takes no more memory than the rest would."""
    half = MAX_CELL_BYTES // 2
    (tmp_path / "half.png").write_bytes(bytes(half))
    (row,) = read(tmp_path, "alpaca", {**ALPACA, "images": ["half.png"] * 90})
    assert MAX_CELL_BYTES < len(row["images"]) < 2 * MAX_CELL_BYTES


def test_images_without_turns_are_no_view() -> None:
    with pytest.raises(ValueError, match="none has turns"):
        ValidationConfig(views={"a": ["images"]})


def test_counting_is_of_images_and_not_of_marks() -> None:
    assert count_images(TALK) == 2
    assert count_images([{"role": "user", "content": IMAGE_MARK}]) == 0
