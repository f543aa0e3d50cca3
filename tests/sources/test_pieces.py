"""A source that is read in pieces on other machines gives the bytes and the account of one."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.engines.local import LocalEngine
from plumbline.sources import file_pieces, reading, registry, scenes, signals
from plumbline.sources.account import make_account
from plumbline.sources.reading import read_rows
from plumbline.sources.registry import SOURCES, write_raw
from plumbline.sources.tally import MAX_KINDS, Tally
from tests.engines.pickling import PicklingEngine

FILES = 7


def put_csv(folder: Path) -> None:
    for n in range(FILES):
        rows = [f"text {n} {row},label\n" for row in range(5)] + ["broken\n", "caf\xe9,x\n"]
        (folder / f"{n}.csv").write_bytes(("t,l\n" + "".join(rows)).encode("latin-1"))


def put_jsonl(folder: Path) -> None:
    for n in range(FILES):
        lines = [json.dumps({"t": f"text {n} {row}"}) for row in range(5)] + ["{"]
        (folder / f"{n}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def put_texts(folder: Path) -> None:
    for n in range(FILES):
        (folder / f"{n}.txt").write_text(f"one {n}\n\ntwo\nthree\n", encoding="utf-8")


def put_parquet(folder: Path) -> None:
    for n in range(FILES):
        pq.write_table(
            pa.table({"t": [f"text {n} {row}" for row in range(5)]}), folder / f"{n}.parquet"
        )


def put_folders(folder: Path) -> None:
    for n in range(FILES):
        (folder / "ab"[n % 2]).mkdir(exist_ok=True)
        (folder / "ab"[n % 2] / f"{n}.png").write_bytes(b"png %d" % n)


def put_tars(folder: Path) -> None:
    for n in range(FILES):
        with tarfile.open(folder / f"{n}.tar", "w") as tar:
            for row in range(4):
                for ending, data in (("txt", b"text %d" % row), ("bin", b"x")):
                    member = tarfile.TarInfo(f"{row}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


CSV = {"source": "csv", "columns": {"text": "t", "label": "l"}}
TEXT = {"source": "text", "unit": "paragraph"}
SETTINGS: dict[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "csv": (CSV, put_csv),
    "jsonl": ({"source": "jsonl", "columns": {"text": "t"}}, put_jsonl),
    "text": (TEXT, put_texts),
    "shares": ({**TEXT, "shares": {"train": 0.5, "test": 0.5}}, put_texts),
    "parquet": ({"source": "parquet", "columns": {"text": "t"}}, put_parquet),
    "folders": ({"source": "imagefolder"}, put_folders),
    "tars": ({"source": "webdataset", "columns": {"text": "txt"}}, put_tars),
    "scenes": ({"source": "scenes", "images": 20, "image_size": 32}, lambda folder: None),
    "signals": ({"source": "signals", "recordings": 20}, lambda folder: None),
}
SETTINGS["parts"] = (
    {"source": "parts", "parts": {"one": CSV, "two": {**TEXT, "files": "[0-4].csv"}}},
    put_csv,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files of rows, and pieces of two files, of three scenes or of nine recordings."""
    monkeypatch.setattr(registry, "ROWS_PER_FILE", 6)
    monkeypatch.setattr(file_pieces, "PIECE_FILES", 2)
    monkeypatch.setattr(scenes, "SCENES_PER_BATCH", 3)
    monkeypatch.setattr(signals, "RECORDINGS_PER_PIECE", 9)


def prepared(name: str, data: Path, out: Path, engine: Any) -> tuple[dict[str, bytes], Any]:
    """The bytes of the raw table, and the account."""
    source = SOURCES[SETTINGS[name][0]["source"]].model_validate(SETTINGS[name][0])
    out.mkdir()
    rows = write_raw(read_rows(source, data, engine), source.given_splits, out)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    return files, make_account(data, source, rows).plain()


@pytest.mark.parametrize("most_bytes", [reading.MOST_BYTES, 200])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_pieces_make_the_same_bytes_and_the_same_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, most_bytes: int
) -> None:
    """Also where some pieces are too large to be sent."""
    monkeypatch.setattr(reading, "MOST_BYTES", most_bytes)
    (tmp_path / "data").mkdir()
    SETTINGS[name][1](tmp_path / "data")
    whole = prepared(name, tmp_path / "data", tmp_path / "whole", LocalEngine())
    engine = PicklingEngine()
    assert prepared(name, tmp_path / "data", tmp_path / "pieces", engine) == whole
    assert engine.items > 3
    assert len(whole[0]) > 1


def test_what_is_in_no_piece_by_itself_is_read_as_a_whole(tmp_path: Path) -> None:
    put_folders(tmp_path)
    (tmp_path / "t.csv").write_text("f,c\na/0.png,one\nnone.png,two\n", encoding="utf-8")
    table = {"file": "t.csv", "key": "f", "columns": {"caption": "c"}}
    source = SOURCES["imagefolder"].model_validate({"source": "imagefolder", "table": table})
    engine = PicklingEngine()
    assert sum(len(batch) for batch in read_rows(source, tmp_path, engine)) == FILES + 1
    assert engine.items == 0


def test_tallies_that_follow_each_other_are_the_tally_of_all() -> None:
    whole, first, second = Tally(), Tally(), Tally()
    for at in range(MAX_KINDS + 20):
        for tally in (whole, first if at < 25 else second):
            tally.add("rows", f"kind {at % (MAX_KINDS + 9)}", f"row {at}")
    first.absorb(second)
    assert first.account() == whole.account()
