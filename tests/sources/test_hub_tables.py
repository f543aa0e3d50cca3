"""Parquet as hubs serve it: no ids, media as objects, classes as numbers, texts as lists."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.data.parquet import BATCH_BYTES
from plumbline.sources.media_cells import decode_base64
from plumbline.sources.parquet import ParquetSource
from tests.sources.test_parquet import write
from tests.tiny import picture

HELD = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read_and_tell(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    source = ParquetSource.model_validate({"source": "parquet", **settings})
    rows = [row for batch in source.read(path) for row in batch.to_pylist()]
    return rows, source.tally.lines()


def with_classes(table: pa.Table, **names: Any) -> pa.Table:
    features = {column: {"names": of, "_type": "ClassLabel"} for column, of in names.items()}
    noted = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": noted})


def test_rows_without_ids_are_called_by_file_and_number(tmp_path: Path) -> None:
    write(tmp_path / "b/x.parquet", {"t": ["one", "two"]})
    write(tmp_path / "a.parquet", {"t": ["none"]})
    rows, _ = read_and_tell(tmp_path, columns={"text": "t"})
    ids = [row["sample_id"] for row in rows]
    assert ids == ["a.parquet:1", "b/x.parquet:1", "b/x.parquet:2"]


def test_numbers_of_rows_go_on_over_batches(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"t": [f"text {row}" for row in range(9000)]})
    rows, _ = read_and_tell(tmp_path, columns={"text": "t"})
    assert [row["sample_id"] for row in rows] == [f"a.parquet:{n + 1}" for n in range(9000)]


def test_an_object_gives_its_bytes_or_the_file_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/b.png").write_bytes(b"of the file")
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    held = [
        {"bytes": b"of the cell", "path": "pictures/b.png"},
        {"bytes": None, "path": "pictures/b.png"},
        {"bytes": None, "path": "pictures/gone.png"},
        {"bytes": None, "path": "../secret.png"},
        None,
    ]
    write(tmp_path / "a.parquet", {"image": pa.array(held, HELD)})
    rows, told = read_and_tell(tmp_path, columns={"image": "image"})
    assert [row["image"] for row in rows] == [b"of the cell", b"of the file", None, None, None]
    where = "the first: a.parquet:3 (pictures/gone.png)"
    assert told == [f"2 rows name a file that is not there, {where}"]


@pytest.mark.parametrize("media", ["path", "base64"])
def test_a_text_names_a_medium_or_is_it(tmp_path: Path, media: str) -> None:
    image = picture(1)
    (tmp_path / "a.png").write_bytes(image)
    coded = base64.b64encode(image).decode()
    cells = {"path": ["a.png", f"data:image/png;base64,{coded}"], "base64": [coded, coded]}[media]
    write(tmp_path / "a.parquet", {"picture": cells, "t": ["x", "y"]})
    rows, _ = read_and_tell(tmp_path, columns={"image": "picture", "text": "t"}, media=media)
    assert [row["image"] for row in rows] == [image, image]


def test_names_begin_in_the_media_folder_and_may_lack_their_ending(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/7.png").write_bytes(b"seven")
    write(tmp_path / "a.parquet", {"n": ["7", "8"], "t": ["x", "y"]})
    settings = {"media": "path", "media_folder": "pictures", "media_ending": ".png"}
    rows, told = read_and_tell(tmp_path, columns={"image": "n"}, **settings)
    assert [row["image"] for row in rows] == [b"seven", None]
    assert told == ["1 rows name a file that is not there, the first: a.parquet:2 (8.png)"]


@pytest.mark.parametrize(
    "coded",
    [
        base64.encodebytes,
        lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n"),
        lambda data: base64.b64encode(data).rstrip(b"="),
        base64.urlsafe_b64encode,
        lambda data: b"data:image/png;base64," + base64.b64encode(data),
        lambda data: b"data:image/png;base64,\n" + base64.encodebytes(data),
    ],
)
def test_base64_of_any_form_is_its_bytes(coded: Any) -> None:
    for length in (1, 2, 3, 100, 300):
        data = bytes(255 - number % 256 for number in range(length))
        assert decode_base64(coded(data)) == data


def test_what_is_no_base64_stays_as_it_is() -> None:
    for text in (b"not base64!", b"a", b"caf\xe9"):
        assert decode_base64(text) == text


def test_numbers_of_classes_become_names_that_the_schema_has(tmp_path: Path) -> None:
    table = pa.table({"label": [1, 0, -1, 2, None], "n": [0, 1, 0, 1, 0]})
    pq.write_table(with_classes(table, label=["cat", "dog"]), tmp_path / "a.parquet")
    rows, told = read_and_tell(tmp_path, columns={"label": "label"})
    assert [row["label"] for row in rows] == ["dog", "cat", None, None, None]
    assert told == ["2 rows have a class number without a name, the first: a.parquet:3"]
    plain, _ = read_and_tell(tmp_path, columns={"label": "label"}, class_names=False)
    assert [row["label"] for row in plain] == ["1", "0", "-1", "2", None]
    other, _ = read_and_tell(tmp_path, columns={"label": "n"})
    assert [row["label"] for row in other] == ["0", "1", "0", "1", "0"]


@pytest.mark.parametrize("noted", ["", "{", "[]", '{"info": 3}', '{"info": {"features": null}}'])
def test_a_note_that_is_none_changes_nothing(tmp_path: Path, noted: str) -> None:
    table = pa.table({"label": [1]}).replace_schema_metadata({"huggingface": noted})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, _ = read_and_tell(tmp_path, columns={"label": "label"})
    assert [row["label"] for row in rows] == ["1"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_a_list_of_texts_makes_a_row_of_each(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [["one", "two"], [], None, ["three"]]
    held = [{"bytes": f"{n}".encode(), "path": None} for n in range(4)]
    plain = pa.array(texts, pa.list_(pa.string()))
    columns = {"image": pa.array(held, HELD), "c": plain.cast(kind)}
    write(tmp_path / "a.parquet", columns)
    rows, told = read_and_tell(tmp_path, columns={"image": "image", "caption": "c"})
    assert [tuple(row.values()) for row in rows] == [
        ("a.parquet:1:1", "a.parquet:1", b"0", "one"),
        ("a.parquet:1:2", "a.parquet:1", b"0", "two"),
        ("a.parquet:2:1", "a.parquet:2", b"1", None),
        ("a.parquet:3:1", "a.parquet:3", b"2", None),
        ("a.parquet:4:1", "a.parquet:4", b"3", "three"),
    ]
    assert not told


def test_lists_side_by_side_keep_their_pairs_and_lost_ones_are_told(tmp_path: Path) -> None:
    table = pa.table({"id": ["x", "y"], "q": [["a", "b"], ["c"]], "a": [["1", "2"], ["3", "4"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = {"sample_id": "id", "question": "q", "answer": "a"}
    rows, told = read_and_tell(tmp_path, columns=columns)
    pairs = [(row["sample_id"], row["question"], row["answer"]) for row in rows]
    assert pairs == [("x:1", "a", "1"), ("x:2", "b", "2"), ("y:1", "c", "3"), ("y:2", None, "4")]
    assert told == ["1 rows have lists of unequal length, the first: a.parquet:2"]


def test_many_texts_of_a_large_medium_come_in_pieces(tmp_path: Path) -> None:
    held = pa.array([{"bytes": bytes(2**20), "path": None}] * 2, HELD)
    texts = [[f"text {n}" for n in range(100)]] * 2
    write(tmp_path / "a.parquet", {"image": held, "c": texts})
    source = ParquetSource(source="parquet", columns={"image": "image", "caption": "c"})
    sizes, captions = [], []
    for batch in source.read(tmp_path):
        sizes.append(batch.nbytes)
        captions += batch.column("caption").to_pylist()
    assert captions == texts[0] * 2
    assert max(sizes) <= BATCH_BYTES + 2**20


def test_a_label_that_is_not_whole_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"l": [0.5]})
    with pytest.raises(Exception, match=r"a\.parquet: the column of label holds 0\.5"):
        read_and_tell(tmp_path, columns={"label": "l"})
