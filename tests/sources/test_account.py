"""Files and rows that a source makes nothing of are counted before the account of rows begins."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plumbline.paths import ACCOUNT
from plumbline.sources.account import Account, make_account, write_account
from plumbline.sources.registry import SOURCES
from plumbline.sources.tally import MAX_KINDS, Tally


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"t,f\nx,a.png\n" if name.endswith(".csv") else b"x")


def account_of(root: Path, **settings: Any) -> Account:
    source = SOURCES[settings["source"]].model_validate(settings)
    rows = sum(batch.num_rows for batch in source.read(root))
    return make_account(root, source, rows)


def passed_over(account: Account) -> dict[str, tuple[int, str]]:
    return {what: (seen.count, seen.first) for (_, what), seen in account.files.kinds.items()}


IMAGES = ".avif, .bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"


def test_every_file_of_class_folders_is_a_row_or_counted(tmp_path: Path) -> None:
    endings = [".JPG", ".jpe", ".jfif", ".jpeg", "", ".webp", ".avif", ".heic"]
    names = [f"{['cat', 'dog'][i % 2]}/{i}{endings[i % 8]}" for i in range(40)]
    put(tmp_path, *names, "stray.jpg", "README.md", "cat/._0.JPG", "__MACOSX/cat/0.JPG", "cat/.git")
    account = account_of(tmp_path, source="imagefolder")
    assert account.rows == 30
    assert passed_over(account) == {
        f"passed over: ending .md is none of {IMAGES}": (1, "README.md"),
        "passed over: in no folder named for a label": (1, "stray.jpg"),
        f"passed over: ending none is none of {IMAGES}": (5, "cat/12"),
        f"passed over: ending .heic is none of {IMAGES}": (5, "dog/15.heic"),
        "passed over: hidden, since a name in their path begins with . or _": (
            2,
            "__MACOSX/cat/0.JPG",
        ),
    }
    assert account.rows + account.files.count("files") == 44  # all but cat/.git, which is no image
    assert account.counts == [(14, "files", "passed over")]
    assert account.facts() == {"rows": 30, "files_passed_over": 14}


def test_a_folder_that_no_split_names_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "test/cat/b.png", "val/cat/c.png", "val/cat/d.png")
    splits = {"train": "train", "test": "test"}
    account = account_of(tmp_path, source="imagefolder", splits=splits)
    assert passed_over(account) == {
        "passed over: in no place that splits name": (2, "val/cat/c.png")
    }


def test_the_table_about_files_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "captions.csv")
    table = {"file": "captions.csv", "key": "f", "columns": {"caption": "t"}}
    account = account_of(tmp_path, source="imagefolder", table=table)
    assert passed_over(account) == {}


def test_other_names_than_the_pattern_are_counted_but_not_files_that_rows_name(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a.csv", "more/b.csv", "c.CSV", "a.png", "_d.csv")
    account = account_of(tmp_path, source="csv", columns={"text": "t"})
    assert account.rows == 2
    assert passed_over(account) == {
        "passed over: not named *.csv": (2, "a.png"),
        "passed over: hidden, since a name in their path begins with . or _": (1, "_d.csv"),
    }
    account = account_of(tmp_path, source="csv", columns={"image": "f", "label": "t"})
    assert list(passed_over(account)) == [
        "passed over: hidden, since a name in their path begins with . or _"
    ]


def test_nested_parquet_is_read_and_other_files_are_counted(tmp_path: Path) -> None:
    for name in ("a.parquet", "more/b.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        ids = [f"{name}-{i}" for i in range(20)]
        pq.write_table(pa.table({"id": ids, "t": ids}), tmp_path / name)
    put(tmp_path, "c.pq", "_SUCCESS", "more/notes.txt")
    account = account_of(tmp_path, source="parquet", columns={"sample_id": "id", "text": "t"})
    assert account.rows == 40
    assert passed_over(account) == {"passed over: not named *.parquet": (2, "c.pq")}


def test_of_parts_what_none_of_them_reads_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "b.csv", "c.csv", "d.txt")
    parts = {
        name: {"source": "csv", "files": f"{name}.csv", "columns": {"text": "t"}} for name in "ab"
    }
    account = account_of(tmp_path, source="parts", parts=parts)
    assert passed_over(account) == {"passed over by every part": (2, "c.csv")}


def test_a_dataset_that_is_one_file_passes_nothing_over(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "b.txt")
    account = account_of(tmp_path / "a.csv", source="csv", columns={"text": "t"})
    assert (account.rows, account.counts) == (1, [])
    assert account.warnings == []


def test_the_account_holds_what_the_log_says(tmp_path: Path) -> None:
    put(tmp_path / "data", "a.csv", "b.txt")
    (tmp_path / "data/a.csv").write_text("t,f\nx\ny,z\n", encoding="utf-8")
    account = account_of(tmp_path / "data", source="csv", columns={"text": "t"})
    assert account.counts == [(1, "files", "passed over"), (1, "rows", "with faults")]
    write_account(account, tmp_path)
    assert json.loads((tmp_path / ACCOUNT).read_text(encoding="utf-8")) == {
        "rows": 2,
        "passed_over": [
            {
                "unit": "files",
                "what": "passed over: not named *.csv",
                "count": 1,
                "first": "b.txt",
                "remedy": "take them out, or change the source's settings",
            }
        ],
        "with_faults": [
            {
                "unit": "rows",
                "what": "are broken and reach validation empty",
                "count": 1,
                "first": "a.csv:1",
                "remedy": "",
            }
        ],
    }


def test_more_kinds_than_anyone_reads_are_counted_together() -> None:
    tally = Tally()
    for number in range(3 * MAX_KINDS):
        tally.add("files", f"ending .{number}", f"a.{number}")
    assert tally.count("files") == 3 * MAX_KINDS
    assert len(tally.kinds) == MAX_KINDS + 1


def test_a_name_that_is_no_text_is_written_out(tmp_path: Path) -> None:
    tally = Tally()
    tally.add("files", "passed over", "a\udcff\x1b.txt")
    assert tally.lines() == ["1 files passed over, the first: a\\udcff\\u001b.txt"]
