"""Files whose pages or footer say what is not so: refused in a line, or read as they are."""

import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from plumbline.data import parquet, parquet_pages
from plumbline.data.parquet import iter_batches, iter_encoded_batches
from plumbline.errors import DataError
from plumbline.stages import prepare
from tests.data.forged_parquet import BINARY, LIST, Forged, items, set_to, take_apart
from tests.data.parquet_lies import LIES, ROWS, UNSEEN, read_in_child, tell_lies, true_file
from tests.data.test_parquet import peak_of_reading, peak_of_refusal
from tests.peak import ROOT

CODECS = ("none", "snappy", "zstd", "gzip", "lz4", "brotli")
FAST = {("zstd", "1.0", True), ("snappy", "2.0", False)}
FORMS = [
    pytest.param(
        *(codec, version, dictionary),
        marks=() if (codec, version, dictionary) in FAST else pytest.mark.slow,
    )
    for codec in CODECS
    for version in ("1.0", "2.0")
    for dictionary in (True, False)
]
ONE_PAGE = {"data_page_size": 2**30, "max_rows_per_page": 2**30}
PEAK_MB = 80
"""More than a page of 32 MiB that is unpacked and found to be shorter; files have 0.5 to 1 MB."""


@pytest.mark.parametrize(("codec", "version", "dictionary"), FORMS)
def test_a_lie_is_refused_in_one_line_or_costs_no_row_and_no_memory(
    codec: str, version: str, dictionary: bool, tmp_path: Path
) -> None:
    lies = tell_lies(
        tmp_path, compression=codec, data_page_version=version, use_dictionary=dictionary
    )
    found = read_in_child(tmp_path)
    refused = 0
    for lie, (file, told) in zip(lies, found.items(), strict=True):
        assert told is not None, f"{lie}: the process died"
        assert told.peak_mb < PEAK_MB, lie
        if told.error is None:
            assert told.same or (lie in UNSEEN and told.rows == ROWS), lie
            continue
        refused += 1
        assert told.error.startswith(f"{tmp_path / file}: "), lie
        assert "\n" not in told.error
    assert refused > 150


def test_every_lie_can_be_told(tmp_path: Path) -> None:
    told = set()
    for number, version in enumerate(("1.0", "2.0")):
        (tmp_path / str(number)).mkdir()
        told |= set(tell_lies(tmp_path / str(number), data_page_version=version))
    assert told == set(LIES)


def test_without_a_lie_a_file_that_was_taken_apart_is_the_same_bytes() -> None:
    for options in ({}, {"data_page_version": "2.0"}, {"compression": "none"}):
        true = true_file(**options)
        assert take_apart(true).to_bytes() == true


def forge(path: Path) -> Forged:
    return take_apart(path.read_bytes())


def bomb(path: Path, cell: int = 2**26, **options: Any) -> Path:
    """A file of some kB whose image, or number of another column, unpacks to many MB."""
    table = pa.table({"image": [b"small"] * 9 + [bytes(cell)], "value": np.zeros(10)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, **options)
    return path


def test_a_bomb_is_refused_unread_whatever_the_footer_calls_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    path = bomb(tmp_path / "bomb.parquet")
    as_number, elsewhere = forge(path), forge(path)
    set_to(as_number.column(0), [1], lambda _: 1)  # of four bytes, which would be no matter
    elsewhere.column(0)[3] = LIST, (BINARY, [b"other"])
    for forged in (forge(path), as_number, elsewhere):
        path.write_bytes(forged.to_bytes())
        with pytest.raises(DataError, match=r"bomb\.parquet: row group 0, column image: a page of"):
            list(iter_batches(path, ["image"]))
        assert peak_of_refusal(path, "image") < 2**20


@pytest.mark.parametrize("codec", CODECS[1:])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_bomb_that_says_it_is_small_is_stopped_where_it_exceeds_that(
    codec: str, version: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.parquet"
    table = pa.table({"image": [bytes(2**26)]})
    pq.write_table(table, path, compression=codec, use_dictionary=False, data_page_version=version)
    forged = forge(path)
    forged.chunks[0][0][0].header[2] = 5, 1000
    path.write_bytes(forged.to_bytes())
    assert path.stat().st_size < 2**23
    with pytest.raises(DataError, match=r"bomb\.parquet: damaged in row group 0 \(.*\); get or"):
        list(iter_batches(path, ["image"]))
    assert peak_of_refusal(path, "image") < 2**23  # what is stored


def test_numbers_that_unpack_to_far_more_than_is_stored_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    path = tmp_path / "bomb.parquet"
    table = pa.table({"value": np.zeros(2**20)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, **ONE_PAGE)
    with pytest.raises(DataError, match="column value: a page of"):
        list(iter_batches(path, ["value"]))
    assert peak_of_refusal(path, "value") < 2**20


def test_a_row_of_very_many_empty_texts_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    path = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"turns": pa.array([["a"], [None] * 2**20])}), path)
    with pytest.raises(DataError, match=r"row group 0, column turns\.list\.element: "):
        list(iter_batches(path, ["turns"]))


def test_lengths_that_stand_apart_count_even_where_values_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    path = tmp_path / "part.parquet"
    encoded = {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}}
    pq.write_table(pa.table({"text": [""] * 2**18}), path, **encoded, **ONE_PAGE)
    with pytest.raises(DataError, match="column text: a page of"):
        list(iter_batches(path, ["text"]))


def test_rows_that_repeat_a_long_beginning_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2**20)
    monkeypatch.setattr(parquet, "_COLLECTED_BYTES", 2**21)
    monkeypatch.setattr(parquet, "_COPIED_BYTES", 2**23)
    long = random.Random(0).randbytes(2**18)
    table = pa.table({"image": [long + row.to_bytes(2) for row in range(600)]})
    path = tmp_path / "part.parquet"
    pq.write_table(table, path, use_dictionary=False, column_encoding={"image": "DELTA_BYTE_ARRAY"})
    assert path.stat().st_size < 2**19  # for 150 MiB
    assert peak_of_reading(path, ["image"]) < 6 * 2**23
    read = [row for batch in iter_batches(path, ["image"]) for row in batch.column(0).to_pylist()]
    assert read == table["image"].to_pylist()


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_a_dictionary_that_ends_in_lengths_apart_is_read(encoding: str, tmp_path: Path) -> None:
    # As Java and Rust write it where a dictionary becomes too large.
    table = pa.table({"caption": [f"picture {row % 7}" for row in range(100)]})
    path, more = tmp_path / "part.parquet", tmp_path / "more.parquet"
    pq.write_table(table, path)
    pq.write_table(table, more, use_dictionary=False, column_encoding={"caption": encoding})
    forged = forge(path)
    forged.chunks[0][0] += forge(more).chunks[0][0]
    for facts, number in ((forged.footer, 3), (forged.group(), 3), (forged.column(0), 5)):
        set_to(facts, [number], lambda rows: 2 * rows)
    path.write_bytes(forged.to_bytes())
    wanted = [text.encode() for text in 2 * table["caption"].to_pylist()]
    for batches in (iter_batches(path, ["caption"]), iter_encoded_batches(path, ["caption"])):
        assert [text for batch in batches for text in batch.column(0).to_pylist()] == wanted


def test_bytes_of_one_length_are_read(tmp_path: Path) -> None:
    cells = [None, *(bytes([row % 9]) * 16 for row in range(99))]
    path = tmp_path / "part.parquet"
    for dictionary in (True, False):
        table = pa.table({"image": pa.array(cells, pa.binary(16))})
        pq.write_table(table, path, use_dictionary=dictionary)
        read = [cell for batch in iter_batches(path, ["image"]) for cell in batch[0].to_pylist()]
        assert read == cells


def test_a_length_that_all_rows_have_counts_for_those_without_a_value(tmp_path: Path) -> None:
    path = tmp_path / "fixed.parquet"
    table = pa.table({"features": pa.array([None] * 200, pa.binary(8))})
    pq.write_table(table, path, store_schema=False)
    forged = forge(path)
    element = items(forged.footer, 2)[1]
    set_to(element, [2], lambda _: 2**22)  # 800 MiB of nothing, in a file of 500 bytes
    path.write_bytes(forged.to_bytes())
    assert {batch.num_rows for batch in iter_encoded_batches(path, ["features"])} == {2}
    set_to(element, [2], lambda _: 2**30)
    path.write_bytes(forged.to_bytes())
    with pytest.raises(DataError, match=r"column features: 1073741824 bytes in every row, where"):
        list(iter_batches(path, ["features"]))


LIARS = (
    "stored size of a page of images: too much",
    "values of a page of captions: 0",
    "rows of a row group in the footer: 1 less",
    "values of a dictionary of images: 1 less",
    "a page that is not there",
)


@pytest.mark.parametrize("lie", LIARS)
def test_prepare_names_the_file_and_leaves_nothing_behind(
    lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lay_out(tmp_path, lie)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^data/b\.parquet: .*row group") as error:
        prepare.main(["lying"])
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "work/raw").rglob("*") if path.suffix == ".parquet"]
    assert caplog.messages == []


def test_a_stage_that_meets_a_lie_ends_with_1_and_one_line(tmp_path: Path) -> None:
    lay_out(tmp_path, LIARS[0])
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare", "lying"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}/src:{ROOT}", "PLUMBLINE_TRACKING": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: data/b.parquet: damaged in row group 0 (column image: ")
    assert done.stderr.endswith("; get or write the file again, or take it out\n")


def lay_out(project: Path, lie: str) -> None:
    """A project with a good file and one that lies."""
    data = project / "data"
    data.mkdir()
    (data / "a.parquet").write_bytes(true_file())
    lying = LIES[lie](take_apart(true_file()))
    assert lying is not None
    (data / "b.parquet").write_bytes(lying)
    columns = {name: name for name in ("sample_id", "image", "caption")}
    dataset = {
        "path": "data",
        "prepare": {"source": "parquet", "columns": columns},
        "validate": {"views": {"pair": ["image", "caption"]}},
        "detect_shapes": {},
        "tokenize": {},
    }
    params = yaml.safe_dump({"datasets": {"lying": dataset}})
    (project / "params.yaml").write_text(params, encoding="utf-8")
