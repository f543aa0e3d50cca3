"""What the library `datasets` reads becomes rows: by its own choice, by a builder, by a hub id."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from plumbline.errors import ConfigError, DataError
from plumbline.sources.hub import HubSource
from tests.sources.test_hub_tables import HELD, with_classes
from tests.tiny import picture

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COLUMNS = {"image": "image", "caption": "captions", "label": "label"}


def read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    source = HubSource.model_validate({"source": "hub", **settings})
    return [row for batch in source.read(path) for row in batch.to_pylist()]


def put_tables(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    for at, split in enumerate(("train", "test")):
        images = [{"bytes": picture(3 * at + n), "path": f"{n}.png"} for n in range(3)]
        captions = [[f"{split} {n}", f"again {n}"] for n in range(3)]
        table = pa.table(
            {"image": pa.array(images, HELD), "captions": captions, "label": [0, 1, 0]}
        )
        table = with_classes(table, label=["cat", "dog"])
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")


def test_the_splits_of_a_folder_of_the_hub_are_found_and_named(tmp_path: Path) -> None:
    put_tables(tmp_path)
    rows = read(tmp_path, columns=COLUMNS, splits={"test": "test", "train": "train"})
    assert [
        (r["sample_id"], r["group"], r["split"], r["caption"], r["label"]) for r in rows[:3]
    ] == [
        ("train:1:1", "train:1", "train", "train 0", "cat"),
        ("train:1:2", "train:1", "train", "again 0", "cat"),
        ("train:2:1", "train:2", "train", "train 1", "dog"),
    ]
    assert [row["image"] for row in rows[::2]] == [picture(number) for number in range(6)]
    assert [row["split"] for row in rows] == ["train"] * 6 + ["test"] * 6
    all_of_it = read(tmp_path, columns=COLUMNS)
    assert len(all_of_it) == 12
    assert "split" not in all_of_it[0]


def test_rows_are_the_same_bytes_every_time_and_as_parquet_gives_them(tmp_path: Path) -> None:
    from plumbline.sources.parquet import ParquetSource

    put_tables(tmp_path)
    splits = {"train": "data/train-*.parquet", "test": "data/test-*.parquet"}
    source = ParquetSource(source="parquet", columns=COLUMNS, splits=splits)
    theirs = [row for batch in source.read(tmp_path) for row in batch.to_pylist()]
    once, again = (
        read(tmp_path, columns=COLUMNS, splits={"train": "train", "test": "test"}) for _ in "12"
    )
    assert once == again
    without = {"sample_id", "group"}
    for one, other in zip(once, theirs, strict=True):
        assert {k: one[k] for k in one.keys() - without} == {
            k: other[k] for k in other.keys() - without
        }


def test_a_builder_reads_its_own_format(tmp_path: Path) -> None:
    lines = [{"q": f"what is {n}?", "a": n} for n in range(100)]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    columns = {"question": "q", "answer": "a"}
    rows = read(tmp_path, builder="json", columns=columns, splits={"train": "train"})
    assert [(row["question"], row["answer"]) for row in rows] == [
        (f"what is {n}?", str(n)) for n in range(100)
    ]
    assert rows[99]["sample_id"] == "train:100"


def test_image_folders_of_the_library_give_their_files(tmp_path: Path) -> None:
    for at, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.png").write_bytes(picture(at))
    rows = read(tmp_path, builder="imagefolder", columns={"image": "image", "label": "label"})
    assert [(row["image"], row["label"]) for row in rows] == [
        (picture(0), "cat"),
        (picture(1), "dog"),
    ]


def test_an_id_is_read_from_what_was_fetched_at_that_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    from huggingface_hub import constants

    # The layout in which the hub's library keeps what it has fetched.
    put_tables(tmp_path / f"datasets--us--shapes/snapshots/{COMMIT}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "none").touch()
    dataset = {"id": "us/shapes", "revision": COMMIT}
    rows = read(tmp_path / "none", dataset=dataset, columns=COLUMNS, splits={"test": "test"})
    assert [row["label"] for row in rows] == ["cat", "cat", "dog", "dog", "cat", "cat"]
    gone = {"id": "us/nowhere", "revision": COMMIT}
    with pytest.raises(ConfigError, match=r"us/nowhere at 0123456789ab: not on this machine"):
        read(tmp_path / "none", dataset=gone, columns=COLUMNS, splits={"test": "test"})


def test_a_split_a_column_or_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    put_tables(tmp_path)
    with pytest.raises(DataError, match="no split dev; there is train, test"):
        read(tmp_path, columns=COLUMNS, splits={"val": "dev"})
    with pytest.raises(DataError, match="wrong columns: title is missing"):
        read(tmp_path, columns={"text": "title"}, splits={"train": "train"})
    with pytest.raises(ConfigError, match="no such file or folder"):
        read(tmp_path / "nowhere", columns=COLUMNS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        read(tmp_path / "empty", columns=COLUMNS)


def test_a_branch_is_no_revision() -> None:
    with pytest.raises(ValidationError, match="'main' is not a commit"):
        HubSource.model_validate(
            {"source": "hub", "columns": COLUMNS, "dataset": {"id": "us/x", "revision": "main"}}
        )


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    source = HubSource(source="hub", columns={"text": "t"})
    with pytest.raises(ConfigError, match=r"pip install 'plumbline\[hub\]'"):
        list(source.read(tmp_path))
