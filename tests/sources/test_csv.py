"""Every cell of a table is text and stays what it is; ragged records are filed, not guessed at."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import DataError
from plumbline.sources import csv as source_csv
from plumbline.sources.csv import CsvSource


def read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return read_and_tell(path, **settings)[0]


def read_and_tell(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and what the source has to say of them."""
    source = CsvSource.model_validate({"source": "csv", **settings})
    rows = [row for batch in source.read(path) for row in batch.to_pylist()]
    return rows, source.tally.lines()


def test_words_for_nothing_and_numbers_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "id,t,l\n1,NA,01\n2,nan,1.50\n3,null,\n4,None,true\n", encoding="utf-8"
    )
    rows = read(tmp_path, columns={"sample_id": "id", "text": "t", "label": "l"})
    assert [(r["sample_id"], r["text"], r["label"]) for r in rows] == [
        ("1", "NA", "01"),
        ("2", "nan", "1.50"),
        ("3", "null", ""),
        ("4", "None", "true"),
    ]


def test_quotes_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,t\r\n1,"x, ""y""\r\nz"\r\n\r\n2,plain\r\n')
    rows = read(tmp_path, columns={"text": "t"})
    assert [(r["sample_id"], r["text"]) for r in rows] == [
        ("a.csv:1", 'x, "y"\r\nz'),
        ("a.csv:2", "plain"),
    ]


def test_other_delimiters_and_tables_without_quoting(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('t\tl\n"open\t1\nfine\t0\n', encoding="utf-8")
    columns = {"text": "t", "label": "l"}
    rows = read(tmp_path, columns=columns, files="*.tsv", delimiter="\t", quotes=False)
    assert [(r["text"], r["label"]) for r in rows] == [('"open', "1"), ("fine", "0")]


def test_other_quotes_and_escapes_as_databases_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,l\n'it, ''s',1\n", encoding="utf-8")
    assert [r["text"] for r in read(tmp_path, columns={"text": "t"}, quote="'")] == ["it, 's"]
    (tmp_path / "a.csv").write_text('t,l\n"say \\"x, y\\"",1\na\\,b,0\n', encoding="utf-8")
    rows = read(tmp_path, columns={"text": "t", "label": "l"}, escape="\\")
    assert [(r["text"], r["label"]) for r in rows] == [('say "x, y"', "1"), ("a,b", "0")]


def test_names_of_columns_may_stand_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one,x\ntwo,y\nthree\n", encoding="utf-8")
    rows = read(tmp_path, columns={"text": "t", "label": "l"}, header=["t", "l"])
    assert [(r["sample_id"], r["text"], r["label"]) for r in rows] == [
        ("a.csv:1", "one", "x"),
        ("a.csv:2", "two", "y"),
        ("a.csv:3", None, None),
    ]
    with pytest.raises(DataError, match="u is missing; the header row has t, l"):
        read(tmp_path, columns={"text": "u"}, header=["t", "l"])


@pytest.mark.parametrize(
    "settings",
    [{"quote": ","}, {"escape": '"'}, {"delimiter": "\n"}, {"header": []}, {"header": ["t", "t"]}],
)
def test_a_form_that_contradicts_itself_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"must differ|header must name"):
        CsvSource.model_validate({"source": "csv", "columns": {"text": "t"}, **settings})


def test_words_for_splits_are_known_and_others_stay(tmp_path: Path) -> None:
    words = ("Train", "validation", "dev", "testing", "unsupervised", "")
    text = "".join(f"text,{word}\n" for word in words)
    (tmp_path / "a.csv").write_text(f"t,s\n{text}", encoding="utf-8")
    rows = read(tmp_path, columns={"text": "t", "split": "s"})
    assert [r["split"] for r in rows] == ["train", "val", "val", "test", "unsupervised", ""]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbft,l\na,b\n")
    assert [r["text"] for r in read(tmp_path, columns={"text": "t"})] == ["a"]


def test_a_record_of_another_length_is_a_row_without_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("i,t\nx,good\ny\nz,1,2\nw,good\n", encoding="utf-8")
    rows, told = read_and_tell(tmp_path, columns={"sample_id": "i", "text": "t"})
    assert [(r["sample_id"], r["text"]) for r in rows] == [
        ("x", "good"),
        ("a.csv:2", None),
        ("a.csv:3", None),
        ("w", "good"),
    ]
    assert told == ["2 rows are broken and reach validation empty, the first: a.csv:2"]


def test_text_that_is_not_utf8_reaches_validation_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"t\ncaf\xe9\na\x00b\n")
    (batch,) = CsvSource(source="csv", columns={"text": "t"}).read(tmp_path)
    assert batch.column("text").view("binary").to_pylist() == [b"caf\xe9", b"a\x00b"]


def test_media_are_files_and_splits_are_tables(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "train.csv").write_text("f,l\na.png,x\n", encoding="utf-8")
    (tmp_path / "test.csv").write_text("f,l\nb.png,y\n", encoding="utf-8")
    splits = {"train": "train.csv", "test": "test.csv"}
    rows = read(tmp_path, columns={"image": "f", "label": "l"}, splits=splits)
    assert [(r["split"], r["image"], r["label"]) for r in rows] == [
        ("train", b"A", "x"),
        ("test", None, "y"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a\.csv: wrong columns: t is missing; .*file is empty"),
        (b"x,y\n1,2\n", r"t is missing; the header row has x, y"),
        (b"t,t\n1,2\n", "t is there twice"),
    ],
)
def test_a_header_without_a_column_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(tmp_path, columns={"text": "t"})


def test_a_line_without_an_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_csv, "MAX_LINE_CHARS", 20)
    (tmp_path / "a.csv").write_text("t\n" + "x" * 30, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv: line 2 is longer than 20 characters"):
        read(tmp_path, columns={"text": "t"})


def test_a_quote_that_is_never_closed_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_csv, "MAX_LINE_CHARS", 20)
    (tmp_path / "a.csv").write_text('t\n"open\n' + "some text\n" * 9, encoding="utf-8")
    with pytest.raises(DataError, match=r"a quote in line 2 .* lines to \d .*field limit"):
        read(tmp_path, columns={"text": "t"})


def test_a_delimiter_is_one_character() -> None:
    with pytest.raises(ValidationError, match="delimiter"):
        CsvSource(source="csv", columns={"text": "t"}, delimiter="::")


def stray(opening: int, closing: int, mark: str = '"', rows: int = 10_000) -> str:
    quotes = {opening: '"', closing: mark}
    return "id,t\n" + "".join(f"r{i},{quotes.get(i, '')}text {i}\n" for i in range(rows))


def test_two_stray_quotes_that_swallow_rows_are_told_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(stray(10, 5000), encoding="utf-8")
    columns = {"sample_id": "id", "text": "t"}
    with pytest.raises(DataError) as error:
        read(tmp_path, columns=columns)
    assert "a.csv: a quote in line 12 opens a cell that swallows the lines to 5002" in str(
        error.value
    )
    assert "quotes: false" in str(error.value)
    rows, told = read_and_tell(tmp_path, columns=columns, quotes=False)
    assert (len(rows), told) == (10_000, [])
    assert rows[10]["text"] == '"text 10'


def test_one_stray_quote_that_swallows_the_rest_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(stray(10, -1, rows=100), encoding="utf-8")
    with pytest.raises(DataError, match=r"a quote in line 12 .* lines to 101 .*unexpected end"):
        read(tmp_path, columns={"sample_id": "id", "text": "t"})


def test_stray_quotes_that_look_like_a_cell_are_counted_with_their_line(tmp_path: Path) -> None:
    text = stray(10, -1, rows=100).replace("text 50\n", 'text 50"\n')
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    rows, told = read_and_tell(tmp_path, columns={"sample_id": "id", "text": "t"})
    assert len(rows) == 60
    assert told == [
        f"1 cells in quotes hold lines that look like records, the first: {tmp_path}/a.csv, "
        "line 12; are the quotes stray? mend them, or set quotes: false"
    ]


def test_real_cells_of_many_lines_survive_without_a_word(tmp_path: Path) -> None:
    poem = "To be, or not to be: that\nis the question\n\nWhether 'tis nobler, in the mind\nto " * 9
    (tmp_path / "a.csv").write_text(
        "id,t,l\n" + "".join(f'r{i},"{poem}{i}",x\n' for i in range(20)), encoding="utf-8"
    )
    rows, told = read_and_tell(tmp_path, columns={"sample_id": "id", "text": "t"})
    assert [row["text"] for row in rows] == [f"{poem}{i}" for i in range(20)]
    assert told == []


def test_a_quoted_cell_that_goes_on_after_its_end_breaks_its_record_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'id,t\na,"he said "hi" to me"\nb,5" disk\nc,"fine"\nd,"open', encoding="utf-8"
    )
    rows, told = read_and_tell(tmp_path, columns={"sample_id": "id", "text": "t"})
    assert [(row["sample_id"], row["text"]) for row in rows] == [
        ("a.csv:1", None),
        ("b", '5" disk'),
        ("c", "fine"),
        ("a.csv:4", None),
    ]
    assert told == ["2 rows are broken and reach validation empty, the first: a.csv:1"]


@pytest.mark.parametrize("other", [";", "\t", "|"])
def test_another_delimiter_is_named(tmp_path: Path, other: str) -> None:
    (tmp_path / "a.csv").write_text(f'"t"{other}l\na{other}b\n', encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path, columns={"text": "t", "label": "l"})
    assert str(error.value).endswith(f"; set delimiter: {other!r}")
