"""Tar shards: files that share a key make a row, and every other file is counted."""

import io
import json
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from plumbline.errors import DataError
from plumbline.sources.webdataset import WebDatasetSource

Member = tuple[str, bytes]


def put(path: Path, members: Sequence[Member]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def read_and_tell(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    source = WebDatasetSource.model_validate({"source": "webdataset", **settings})
    rows = [row for batch in source.read(path) for row in batch.to_pylist()]
    return rows, source.tally.lines()


def test_files_of_one_key_are_one_row(tmp_path: Path) -> None:
    told = {"caption": "of json", "deep": {"n": 3}}
    put(
        tmp_path / "0.tar",
        [
            ("a.jpg", b"image a"),
            ("a.txt", b"text a\r\n"),
            ("a.json", json.dumps(told).encode()),
            ("folder/b.v2.PNG", b"image b"),
            ("folder/b.txt", b"text b"),
            ("c.jpeg", b"image c"),
        ],
    )
    put(tmp_path / "more/1.tar", [("a.txt", b"text of another shard")])
    columns = {"image": "jpg;jpeg;v2.png", "text": "txt", "caption": "json.caption"}
    rows, lines = read_and_tell(tmp_path, columns={**columns, "label": "json.deep.n"})
    shown = [tuple(row[n] for n in ("sample_id", "image", *columns, "label")) for row in rows]
    assert [(row[0], row[1], *row[3:]) for row in shown] == [
        ("0.tar:a", b"image a", "text a", "of json", "3"),
        ("0.tar:folder/b", b"image b", "text b", None, None),
        ("0.tar:c", b"image c", None, None, None),
        ("more/1.tar:a", None, "text of another shard", None, None),
    ]
    assert not lines


def test_what_is_in_no_column_is_counted_by_its_ending(tmp_path: Path) -> None:
    members = [(f"{n}.{e}", b"{}") for n in range(3) for e in ("jpg", "txt", "json")]
    put(tmp_path / "0.tar", [*members, (".hidden.jpg", b""), ("x/_y/z.jpg", b""), ("0.jpg", b"no")])
    rows, lines = read_and_tell(tmp_path, columns={"image": "jpg"})
    assert [row["sample_id"] for row in rows] == [f"0.tar:{n}" for n in (0, 1, 2, 0)]
    assert lines == [
        "3 members passed over: .txt is in no column, the first: 0.tar:0.txt",
        "3 members passed over: .json is in no column, the first: 0.tar:0.json",
        "2 members passed over: hidden, the first: 0.tar:.hidden.jpg",
    ]


def test_links_are_never_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("b.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"text"))
    rows, lines = read_and_tell(tmp_path, columns={"text": "txt"})
    assert [row["text"] for row in rows] == ["text"]
    assert lines == ["1 members passed over: a link or a device, the first: 0.tar:a.txt"]


def test_splits_are_patterns_of_shards(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        put(tmp_path / f"{name}.tar", [("a.txt", name.encode())])
    splits = {"train": "train-*.tar", "test": "test-*.tar"}
    rows, _ = read_and_tell(tmp_path, columns={"text": "txt"}, splits=splits)
    found = [(row["split"], row["text"]) for row in rows]
    assert found == [("train", "train-0"), ("train", "train-1"), ("test", "test-0")]


def test_faults_within_a_sample_are_told_and_its_row_stays(tmp_path: Path) -> None:
    members = [("a.json", b"{"), ("a.txt", b"fine"), ("b.json", b'{"c": [1]}'), ("b.txt", b"\xff")]
    put(tmp_path / "0.tar", [*members, ("b.txt", b"again")])
    columns = {"text": "txt", "caption": "json.c"}
    source = WebDatasetSource(source="webdataset", columns=columns)
    (batch,) = source.read(tmp_path)
    assert batch.column("text").view(pa.binary()).to_pylist() == [b"fine", b"\xff"]
    assert source.tally.lines() == [
        "1 rows have a .json that is no JSON object, the first: 0.tar:a",
        "1 members passed over: named twice in a sample, the first: 0.tar:b.txt",
        "1 rows hold bytes that are not utf-8, the first: 0.tar:b",
        "1 rows hold nothing usable as caption, the first: 0.tar:b",
    ]


@pytest.mark.parametrize("cut", [100, 700, 1200])
def test_a_shard_that_is_cut_off_or_none_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    put(tmp_path / "0.tar", [("a.txt", bytes(300)), ("b.txt", bytes(3000))])
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"0\.tar: not readable as tar"):
        read_and_tell(tmp_path, columns={"text": "txt"})


def test_a_name_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "0.tar", [("x" * 2_000_000 + ".txt", b"")])
    with pytest.raises(DataError, match="a name or a header of"):
        read_and_tell(tmp_path, columns={"text": "txt"})


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    def peak(samples: int) -> int:
        file = tmp_path / f"{samples}.tar"
        put(file, [(f"{n}.txt", b"x" * 100) for n in range(samples)])
        source = WebDatasetSource(source="webdataset", columns={"text": "txt"})
        tracemalloc.start()
        assert sum(len(batch) for batch in source.read(file)) == samples
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(40_000) < 1.2 * peak(10_000)


def test_columns_without_content_are_refused() -> None:
    with pytest.raises(ValidationError, match="one column with content"):
        WebDatasetSource(source="webdataset", columns={"sample_id": "json.id"})


def test_captions_are_made_of_questions_and_answers(tmp_path: Path) -> None:
    asked = [{"q": "what colour?", "a": "red"}, {"q": "is it red?", "a": "yes"}]
    members = [(f"{n}.json", json.dumps(row).encode()) for n, row in enumerate(asked)]
    put(tmp_path / "0.tar", members)
    columns = {"question": "json.q", "answer": "json.a"}
    rule = {"question": "what (.+)\\?", "caption": "the \\1 is {answer}"}
    rows, _ = read_and_tell(tmp_path, columns=columns, captions=[rule])
    assert [row["caption"] for row in rows] == ["the colour is red", None]
    with pytest.raises(ValidationError, match="which columns has already"):
        read_and_tell(tmp_path, columns={**columns, "caption": "txt"}, captions=[rule])
