"""Lines of JSON become rows; a line that is none becomes a row that validation files."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from plumbline.data.arrays import decode_array
from plumbline.errors import ConfigError, DataError
from plumbline.sources import jsonl
from plumbline.sources.jsonl import JsonlSource


def read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return read_and_tell(path, **settings)[0]


def read_and_tell(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and what the source has to say of them."""
    source = JsonlSource.model_validate({"source": "jsonl", **settings})
    rows = [row for batch in source.read(path) for row in batch.to_pylist()]
    return rows, source.tally.lines()


def put(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def test_fields_are_renamed_and_numbers_become_text(tmp_path: Path) -> None:
    put(
        tmp_path / "a.jsonl",
        {"id": 7, "words": "hello", "class": 3, "score": 0.1, "more": []},
        {"id": "8", "words": "NA", "class": True, "score": -2, "meta": {}},
        {"id": "9", "words": None, "class": "x"},
    )
    columns = {"sample_id": "id", "text": "words", "label": "class", "value": "score"}
    assert read(tmp_path, columns=columns) == [
        {"sample_id": "7", "text": "hello", "label": "3", "value": "0.1"},
        {"sample_id": "8", "text": "NA", "label": "true", "value": "-2"},
        {"sample_id": "9", "text": None, "label": "x", "value": None},
    ]


def test_without_an_id_a_row_is_called_by_its_file_and_line(tmp_path: Path) -> None:
    put(tmp_path / "b/x.jsonl", {"t": "one"}, b"  ", {"t": "two"})
    put(tmp_path / "a.jsonl", {"t": "zero"})
    rows = read(tmp_path, columns={"text": "t"})
    assert [row["sample_id"] for row in rows] == ["a.jsonl:1", "b/x.jsonl:1", "b/x.jsonl:3"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b'"text"',
        b"nonsense",
        b"[" * 100_000,
        b'{"t": 1' + b"0" * 5000 + b"}",
        b"\xff",
    ],
)
def test_a_broken_line_is_a_row_without_content_and_counted(tmp_path: Path, line: bytes) -> None:
    put(tmp_path / "a.jsonl", {"i": "x", "t": "good"}, line, {"i": "y", "t": "good"})
    rows, told = read_and_tell(tmp_path, columns={"sample_id": "i", "text": "t"})
    assert rows == [
        {"sample_id": "x", "text": "good"},
        {"sample_id": "a.jsonl:2", "text": None},
        {"sample_id": "y", "text": "good"},
    ]
    assert told == ["1 rows are broken and reach validation empty, the first: a.jsonl:2"]


def test_a_line_that_is_too_long_is_broken_and_the_next_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 30)
    put(tmp_path / "a.jsonl", {"t": "x" * 100}, {"t": "good"})
    assert [row["text"] for row in read(tmp_path, columns={"text": "t"})] == [None, "good"]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"t": "a"}\r\n{"t": "b"}\r\n')
    assert [row["text"] for row in read(file, columns={"text": "t"})] == ["a", "b"]


def test_text_that_is_not_utf8_reaches_validation_as_it_is(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", b'{"t": "caf\xe9", "l": "x"}', b'{"t": "\\ud800", "l": "y"}')
    source = JsonlSource(source="jsonl", columns={"text": "t", "label": "l"})
    (batch,) = source.read(file)
    assert batch.column("text").view("binary").to_pylist() == [b"caf\xe9", b"\xed\xa0\x80"]
    assert batch.column("label").to_pylist() == ["x", "y"]


def test_a_name_with_dots_reaches_into_objects(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", {"a": {"b": "in"}}, {"a.b": "whole"}, {"a": "no object"})
    assert [row["text"] for row in read(tmp_path, columns={"text": "a.b"})] == ["in", "whole", None]


def test_lists_are_features_and_what_is_no_array_says_why(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", *({"f": f} for f in ([[1, 2.5], [3, 4]], [1, 2], [[1], [2, 3]])))
    put(tmp_path / "b.jsonl", *({"f": f} for f in ([1, None], [[[1]]], "f.npy", {}, 5, None)))
    rows = read(tmp_path, columns={"features": "f"})
    cells = [row["features"] for row in rows]
    np.testing.assert_array_equal(decode_array(cells[0]), [[1, 2.5], [3, 4]])
    np.testing.assert_array_equal(decode_array(cells[1]), [[1, 2]])
    for cell, reason in zip(cells[2:5], ("inhomogeneous", "null", "3 dimensions"), strict=True):
        with pytest.raises(ValueError, match=reason):
            decode_array(cell)
    assert cells[5:] == [None] * 4


def test_media_are_files_below_the_path_and_no_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "img").mkdir(parents=True)
    (data / "img/a.png").write_bytes(b"picture")
    (data / "img/none.png").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"no")
    (data / "link").symlink_to("../secret")
    names = ["img/a.png", "img/none.png", "../secret", str(tmp_path / "secret"), "link", "img"]
    names += ["nowhere", "x" * 5000, "\0", ""]
    put(data / "a.jsonl", *({"i": name} for name in names))
    rows, told = read_and_tell(data, columns={"image": "i"})
    assert [row["image"] for row in rows] == [b"picture", b"", *[None] * 8]
    assert told == [
        "7 rows name a file that is not there, the first: a.jsonl:3 (../secret); set media_folder "
        "to the folder that the names begin in, or put the file there",
        "1 rows hold nothing usable as image, the first: a.jsonl:10",
    ]


def test_names_begin_in_the_media_folder_and_may_lack_their_ending(tmp_path: Path) -> None:
    (tmp_path / "pictures/deep").mkdir(parents=True)
    (tmp_path / "pictures/a.png").write_bytes(b"a")
    (tmp_path / "pictures/deep/b.png").write_bytes(b"b")
    (tmp_path / "c.png").write_bytes(b"outside")
    url = "data:image/png;base64,eHl6"
    put(tmp_path / "t.jsonl", *({"i": name} for name in ("a", "deep\\b", "../c", "gone", url)))
    settings = {"media_folder": "pictures", "media_ending": ".png"}
    rows, told = read_and_tell(tmp_path, columns={"image": "i"}, **settings)
    assert [row["image"] for row in rows] == [b"a", b"b", None, None, b"xyz"]
    assert told[0].startswith(
        "2 rows name a file that is not there, the first: t.jsonl:3 (pictures/"
    )
    with pytest.raises(DataError, match=r"photos: no such folder; set media_folder"):
        read(tmp_path, columns={"image": "i"}, media_folder="photos")
    with pytest.raises(ValidationError, match="media is base64"):
        read(tmp_path, columns={"image": "i"}, media="base64", media_ending=".png")


def test_media_can_be_base64(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"sound").decode()
    lines = [encoded, f"data:audio/wav;base64,{encoded}", "no base64!"]
    put(tmp_path / "a.jsonl", *({"a": line} for line in lines))
    rows = read(tmp_path / "a.jsonl", columns={"audio": "a"}, media="base64")
    assert [row["audio"] for row in rows] == [b"sound", b"sound", b"no base64!"]


def test_media_by_path_need_a_folder_as_the_dataset_s_path(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", {"i": "x"})
    with pytest.raises(ConfigError, match=r"a\.jsonl: is one file, but its rows name others"):
        read(tmp_path / "a.jsonl", columns={"image": "i"})


def test_splits_and_templates(tmp_path: Path) -> None:
    put(tmp_path / "t.jsonl", {"l": "cat"}, {"l": None})
    put(tmp_path / "v.jsonl", {"l": "dog"})
    rows = read(
        tmp_path,
        columns={"label": "l"},
        splits={"train": "t.jsonl", "val": "v.jsonl"},
        templates={"caption": "a photo of a {label}"},
    )
    assert [(row["split"], row["caption"]) for row in rows] == [
        ("train", "a photo of a cat"),
        ("train", None),
        ("val", "a photo of a dog"),
    ]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert read(tmp_path, columns={"text": "t"}) == []


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"columns": {"picture": "x"}}, "unknown canonical column 'picture'"),
        ({"columns": {"sample_id": "x"}}, "one column with content"),
        ({"columns": {"text": "t", "split": "s"}, "splits": {"val": "v"}}, "both say"),
        ({"columns": {"text": "t"}, "media": "url"}, "base64"),
        (
            {"columns": {"text": "t"}, "templates": {"caption": "{label}"}},
            "there is sample_id, text",
        ),
        ({"columns": {"text": "t"}, "templates": {"text": "{sample_id}"}}, "has a column text"),
        ({"columns": {"text": "t"}, "templates": {"label": "{text}"}}, "text columns"),
        ({"columns": {"text": "t"}, "templates": {"caption": "{text!r}"}}, "in braces"),
        ({"columns": {"text": "t"}, "templates": {"caption": "{text"}}, "template caption"),
        ({"columns": {"text": "t"}, "templates": {"caption": "nothing"}}, "in braces"),
        ({"columns": {"image": "i"}, "templates": {"caption": "{image}"}}, "in braces"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        JsonlSource.model_validate({"source": "jsonl", **settings})
