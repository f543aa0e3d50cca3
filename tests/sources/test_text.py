"""Plain text arrives to the character, cut where the shares say."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import ConfigError, DataError
from plumbline.sources import files as source_files
from plumbline.sources import text as source_text
from plumbline.sources.text import TextSource, cut_characters


def read(path: Path, **settings: Any) -> list[dict[str, bytes]]:
    """Rows with their text as bytes, which need not be UTF-8."""
    rows = []
    for batch in TextSource.model_validate({"source": "text", **settings}).read(path):
        texts = batch.column("text").view("binary").to_pylist()
        others = batch.drop_columns("text").to_pylist()
        rows += [{**row, "text": text} for row, text in zip(others, texts, strict=True)]
    return rows


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_file_is_a_row_and_files_come_sorted_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/deep/y.txt", ".hidden.txt", "_part.txt", "c.md"):
        put(tmp_path / name, name.encode())
    put(tmp_path / ".git/x.txt", b"no")
    assert read(tmp_path) == [
        {"sample_id": name, "text": name.encode()} for name in ("a/deep/y.txt", "a/z.txt", "b.txt")
    ]


def test_one_file_can_be_the_whole_dataset(tmp_path: Path) -> None:
    file = put(tmp_path / "notes.md", b"hello")
    assert read(file) == [{"sample_id": "notes.md", "text": b"hello"}]


@pytest.mark.parametrize("text", ["0123456789", "ä€😀x" * 25, "a", "", "\ufeffab\r\n" * 7])
def test_shares_cut_at_characters_and_together_give_the_file_back(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_text, "_BLOCK_BYTES", 7)
    file = put(tmp_path / "a.txt", text.encode())
    rows = read(file, shares={"val": 0.1, "train": 0.9})
    assert b"".join(row["text"] for row in rows) == text.encode()
    first = text[: int(len(text) * 0.9)].encode()
    trained = b"".join(row["text"] for row in rows if row["split"] == "train")
    assert trained == first
    assert len(rows) == len({row["sample_id"] for row in rows})


def test_three_shares_are_cut_in_the_order_train_val_test(tmp_path: Path) -> None:
    file = put(tmp_path / "a.txt", b"0123456789")
    rows = read(file, shares={"test": 0.2, "val": 0.1, "train": 0.7})
    assert [(r["split"], r["text"]) for r in rows] == [
        ("train", b"0123456"),
        ("val", b"7"),
        ("test", b"89"),
    ]
    assert rows[0]["sample_id"] == "a.txt:train"


def test_bytes_that_are_no_utf8_are_kept_and_cut_all_the_same() -> None:
    data = b"caf\xe9 \xff\xfe \x80\x80"
    stops = cut_characters(io.BytesIO(data), [Fraction(1, 2)])
    assert stops == [4, len(data)]


def test_lines_are_numbered_and_blank_ones_passed_over(tmp_path: Path) -> None:
    file = put(tmp_path / "a.txt", b"one\r\n\n  \ntwo\n three ")
    assert read(file, unit="line") == [
        {"sample_id": "a.txt:1", "text": b"one"},
        {"sample_id": "a.txt:4", "text": b"two"},
        {"sample_id": "a.txt:5", "text": b" three "},
    ]


def test_blank_lines_part_paragraphs(tmp_path: Path) -> None:
    file = put(tmp_path / "a.txt", b"\n\na\r\nb\r\n\r\n \n\nc\n\n")
    assert read(file, unit="paragraph") == [
        {"sample_id": "a.txt:3", "text": b"a\r\nb"},
        {"sample_id": "a.txt:8", "text": b"c"},
    ]


def test_a_line_that_is_cut_by_shares_is_in_both_with_its_number(tmp_path: Path) -> None:
    file = put(tmp_path / "a.txt", b"aa\nbbbb\ncc")
    rows = read(file, unit="line", shares={"train": 0.5, "val": 0.5})
    assert [(r["sample_id"], r["text"]) for r in rows] == [
        ("a.txt:train:1", b"aa"),
        ("a.txt:train:2", b"bb"),
        ("a.txt:val:2", b"bb"),
        ("a.txt:val:3", b"cc"),
    ]


def test_of_a_line_that_is_too_long_the_beginning_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_text, "MAX_FILE_BYTES", 4)
    monkeypatch.setattr(source_files, "_SKIP_BYTES", 3)
    file = put(tmp_path / "a.txt", b"0123456789abcdef\nxy\n01234\n")
    rows = read(file, unit="line")
    assert [(r["sample_id"], r["text"]) for r in rows] == [
        ("a.txt:1", b"01234"),
        ("a.txt:2", b"xy"),
        ("a.txt:3", b"01234"),
    ]
    assert [r["text"] for r in read(file)] == [b"01234"]


def test_splits_are_files_or_folders(tmp_path: Path) -> None:
    put(tmp_path / "train/a.txt", b"a")
    put(tmp_path / "held_out", b"b")
    splits = {"train": "train", "val": "held_out"}
    assert read(tmp_path, splits=splits) == [
        {"sample_id": "train/a.txt", "split": "train", "text": b"a"},
        {"sample_id": "held_out", "split": "val", "text": b"b"},
    ]
    source = TextSource(source="text", splits=splits)
    assert source.given_splits == ["train", "val"]


def test_an_empty_file_reaches_validation_as_an_empty_text(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", b"")
    assert read(tmp_path) == [{"sample_id": "a.txt", "text": b""}]
    assert read(tmp_path, unit="line") == []


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "secret.txt", b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"data/a\.txt: a link that leaves the dataset's folder"):
        read(tmp_path / "data")
    with pytest.raises(DataError, match="a link that leaves"):
        read(tmp_path / "data", splits={"train": "a.txt"})


def test_links_within_the_folder_are_files_and_to_folders_or_nothing_refused(
    tmp_path: Path,
) -> None:
    put(tmp_path / "a/x.txt", b"x")
    (tmp_path / "a/y.txt").symlink_to("x.txt")
    assert [row["sample_id"] for row in read(tmp_path)] == ["a/x.txt", "a/y.txt"]
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DataError, match="b: a link to a folder"):
        read(tmp_path)
    (tmp_path / "b").unlink()
    (tmp_path / "b.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match="a link to nothing"):
        read(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file or folder.*PLUMBLINE_DATA"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"val\.txt: no such file or folder"):
        read(tmp_path, splits={"val": "val.txt"})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"shares": {"train": 0.9, "val": 0.2}}, "add up to 1"),
        ({"shares": {"train": 1.1, "val": -0.1}}, "must be positive"),
        ({"shares": {"dev": 1.0}}, "train"),
        ({"shares": {"train": 1.0}, "splits": {"val": "v"}}, "give one of them"),
        ({"splits": {"dev": "x"}}, "unknown split 'dev'"),
        ({"splits": {"val": "../x"}}, "below the dataset's path"),
        ({"splits": {"val": "/x"}}, "below the dataset's path"),
        ({"unit": "word"}, "paragraph"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        TextSource.model_validate({"source": "text", **settings})
