"""Files in other encodings are read where that is declared and refused by name where it is not."""

import codecs
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import DataError
from plumbline.sources import encoding as source_encoding
from plumbline.sources.csv import CsvSource
from plumbline.sources.encoding import find_wide, open_utf8
from plumbline.sources.jsonl import JsonlSource
from plumbline.sources.table import TableSource
from plumbline.sources.text import TextSource

CYRILLIC = "".join(f"привет мир {i}\n" for i in range(30))
TEXTS = {
    "cyrillic": CYRILLIC,
    "english": "to be or not to be\n" * 20,
    "chinese": "你好世界\n" * 40,
    "no blanks": "привет" * 200,
    "one line": "a b c d",
    "emoji": "👩\u200d👧 and 🎉\n" * 9,
}


def rows_of(source: Any, path: Path) -> list[dict[str, Any]]:
    return [row for batch in source.read(path) for row in batch.to_pylist()]


def lines_of(path: Path, encoding: str = "utf-8") -> list[str]:
    source = TextSource.model_validate({"source": "text", "unit": "line", "encoding": encoding})
    return [row["text"] for row in rows_of(source, path)]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_is_told_apart_with_and_without_a_mark(text: str, encoding: str) -> None:
    assert find_wide(text.encode(encoding)) == encoding
    mark = {"utf-16": codecs.BOM_UTF16, "utf-32": codecs.BOM_UTF32}[encoding[:6]]
    assert find_wide(mark + text.encode(encoding[:6] + "-le")) == encoding[:6]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_other_text_is_not_taken_for_wide(text: str, encoding: str) -> None:
    assert find_wide(text.encode(encoding)) is None


def test_stray_zero_and_control_bytes_do_not_make_text_wide() -> None:
    draw = random.Random(0)
    for _ in range(200):
        data = bytearray(b"some plain text, as people have it\n" * 40)
        for at in draw.choices(range(len(data)), k=20):
            data[at] = draw.randrange(9)
        assert find_wide(bytes(data)) is None
    assert find_wide(b"") is None
    assert find_wide(b"ab\0c" * 2) is None


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
def test_a_wide_file_is_refused_by_its_encoding_and_read_where_that_is_declared(
    tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "a.txt").write_bytes(CYRILLIC.encode(encoding))
    with pytest.raises(DataError, match=rf"a\.txt: is written in {encoding}, not in utf-8; set "):
        lines_of(tmp_path)
    assert lines_of(tmp_path, encoding) == CYRILLIC.splitlines()


def test_without_a_mark_the_order_of_bytes_is_found(tmp_path: Path) -> None:
    for order in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes(CYRILLIC.encode(order))
        assert lines_of(tmp_path, "utf-16") == CYRILLIC.splitlines()


def test_a_plain_file_is_not_read_as_a_wide_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CYRILLIC, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.txt: is written in utf-8, not in utf-16; set enc"):
        lines_of(tmp_path, "utf-16")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "utf-16", "utf-16-be"])
def test_tables_and_lines_of_json_are_read_in_the_declared_encoding(
    tmp_path: Path, encoding: str
) -> None:
    texts = ["café", 'a "quoted", cell\nof two lines', "ÄÖÜß", "plain"]
    (tmp_path / "a.csv").write_text(
        "t\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in texts), encoding=encoding
    )
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in texts),
        encoding=encoding,
    )
    settings = {"columns": {"text": "t"}, "encoding": encoding}
    sources: list[TableSource] = [
        CsvSource.model_validate({"source": "csv", **settings}),
        JsonlSource.model_validate({"source": "jsonl", **settings}),
    ]
    for source in sources:
        assert [row["text"] for row in rows_of(source, tmp_path)] == texts
        assert source.tally.lines() == []


def test_bytes_that_are_not_utf8_are_counted_with_the_remedy(tmp_path: Path) -> None:
    rows = "".join(f"café {i},b\n" if i % 4 == 0 else f"tea {i},a\n" for i in range(600))
    (tmp_path / "a.csv").write_bytes(("text,label\n" + rows).encode("latin-1"))
    settings = {"source": "csv", "columns": {"text": "text", "label": "label"}}
    source = CsvSource.model_validate(settings)
    assert sum(batch.num_rows for batch in source.read(tmp_path)) == 600
    assert source.tally.lines() == [
        "150 rows hold bytes that are not utf-8, the first: a.csv:1; set encoding to what the file "
        "is written in, such as latin-1 or cp1252"
    ]
    declared = CsvSource.model_validate({**settings, "encoding": "latin-1"})
    assert [row["text"] for row in rows_of(declared, tmp_path)][:2] == ["café 0", "tea 1"]


@pytest.mark.parametrize("unit", ["file", "line", "paragraph"])
def test_text_that_is_not_utf8_is_counted_by_its_rows(tmp_path: Path, unit: str) -> None:
    (tmp_path / "a.txt").write_bytes("café\n\ntea\n\ncafé\n".encode("latin-1"))
    source = TextSource.model_validate({"source": "text", "unit": unit})
    list(source.read(tmp_path))
    (line,) = source.tally.lines()
    assert line.startswith(f"{1 if unit == 'file' else 2} rows hold bytes that are not utf-8")


def test_bytes_that_the_declared_encoding_lacks_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"t\nfine\n\x81\xe9\n")  # cp1252 has no 81
    source = CsvSource(source="csv", columns={"text": "t"}, encoding="cp1252")
    (batch,) = source.read(tmp_path)
    assert batch.column("text").view("binary").to_pylist() == [b"fine", b"\x81\xc3\xa9"]
    assert source.tally.count("rows") == 1


def test_a_file_cut_within_a_character_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CYRILLIC.encode("utf-16-le")[:-1])
    with pytest.raises(DataError, match=r"a\.txt: cannot be read as utf-16-le .*truncated"):
        lines_of(tmp_path, "utf-16-le")


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "latin1", "ISO-8859-1", "cp1252", "UTF-16"])
def test_encodings_go_by_the_names_that_python_knows(name: str) -> None:
    source = CsvSource(source="csv", columns={"text": "t"}, encoding=name)
    assert source.encoding == codecs.lookup(name).name


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13", ""])
def test_what_is_no_text_encoding_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no text encoding"):
        CsvSource(source="csv", columns={"text": "t"}, encoding=name)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_do_on_any_system(tmp_path: Path, end: str) -> None:
    texts = [f"line {number}" for number in range(50)]
    (tmp_path / "a.txt").write_bytes(end.join([*texts, ""]).encode())
    (tmp_path / "a.csv").write_bytes(end.join(["t", *texts, ""]).encode())
    objects = [json.dumps({"t": text}) for text in texts]
    (tmp_path / "a.jsonl").write_bytes(end.join([*objects, ""]).encode())
    assert lines_of(tmp_path) == texts
    for name, kind in (("csv", CsvSource), ("jsonl", JsonlSource)):
        source = kind.model_validate({"source": name, "columns": {"text": "t"}})
        rows = rows_of(source, tmp_path)
        assert [row["text"] for row in rows] == texts
        assert rows[7]["sample_id"] == f"a.{name}:8"


def test_a_rewritten_file_is_the_same_wherever_its_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(TEXTS.values())
    (tmp_path / "a").write_bytes(text.encode("utf-16"))
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(source_encoding, "_BLOCK_BYTES", size)
        with open_utf8(tmp_path / "a", "utf-16") as file:
            assert file.read().decode() == text
