"""Rows are judged in shards: by any number of processes, once each, and never anew without need."""

import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from plumbline.data import parquet_writer
from plumbline.engines import base
from plumbline.engines.local import WORKERS, count_workers
from plumbline.errors import ConfigError, DataError
from plumbline.validation import image_check, judging, memo, pass_one, shards
from plumbline.validation.filing import RowFiler
from plumbline.validation.judging import RowJudge
from plumbline.validation.kept import Kept
from plumbline.validation.pass_one import MEMO
from plumbline.validation.shards import cut_shards
from tests.validation.validation_run import Row, Run, good

ROWS = 24
GROUP = 3


def mixed(count: int = ROWS) -> list[Row]:
    """Rows with every way to go, and images that many of them share."""
    rows = [good(n, image=good(n % 7)["image"], group=f"g{n % 5}") for n in range(count)]
    rows[4] |= {"image": b"no image"}
    rows[5] |= {"sample_id": rows[1]["sample_id"]}
    rows[8] |= {"split": "test"}
    rows[10] |= {"split": "val", "image": good(99)["image"]}
    rows[11] |= {"split": "val", "caption": None}
    rows[17] |= {"caption": b"\xff"}
    rows[20] |= {"image": b"no image"}
    return rows


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of each row group."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 1)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each batch that this process judges."""
    batches: list[int] = []
    plain = RowJudge.judge

    def judge(self: RowJudge, batch: Any) -> None:
        batches.append(batch.num_rows)
        plain(self, batch)

    monkeypatch.setattr(RowJudge, "judge", judge)
    return batches


def run(folder: Path, rows: list[Row] | None = None, **options: Any) -> Run:
    made = Run(folder).write(rows or mixed(), row_group_size=GROUP)
    return made.validate(**{"workers": 1, **options})


@pytest.mark.parametrize("near", [{}, {"near_images": "report", "near_texts": "report"}])
def test_any_number_of_processes_writes_the_same_bytes(
    tmp_path: Path, near: dict[str, str]
) -> None:
    one, two, four = (
        run(tmp_path / str(workers), workers=workers, leaks=near) for workers in (1, 2, 4)
    )
    assert two.files() == four.files() == one.files()
    assert two.report == four.report == one.report
    assert one.report["rows_quarantined"] >= 4


def test_shards_follow_the_file_and_cover_it(tmp_path: Path) -> None:
    made = Run(tmp_path).write(mixed(), row_group_size=GROUP)
    (path,) = made.raw.iterdir()
    found = cut_shards(path)
    assert [list(shard.groups) for shard in found] == [[at] for at in range(ROWS // GROUP)]
    assert sum(shard.rows for shard in found) == ROWS


def test_another_split_into_files_gives_the_same_clean_tables(tmp_path: Path) -> None:
    rows = mixed()
    whole = run(tmp_path / "whole", rows)
    parts = Run(tmp_path / "parts")
    for at, start in enumerate(range(0, ROWS, 9)):
        parts.write(rows[start : start + 9], f"part-{at}", row_group_size=4)
    parts.validate(workers=2)
    for path in whole.clean.iterdir():
        assert (parts.clean / path.name).read_bytes() == path.read_bytes()
    assert parts.lost() == whole.lost()


def test_a_validation_that_was_ended_judges_only_what_is_left(
    tmp_path: Path, judged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "kept", "code")
    plain = run(tmp_path / "plain")
    judged.clear()
    counting = RowJudge.judge

    def stopped(self: RowJudge, batch: Any) -> None:
        if len(judged) == 5:
            raise KeyboardInterrupt
        counting(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RowJudge, "judge", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", kept=kept)
    judged.clear()
    again = run(tmp_path / "again", kept=kept)
    assert judged == [GROUP] * (ROWS // GROUP - 5)
    assert again.files() == plain.files()
    judged.clear()
    assert run(tmp_path / "once more", kept=kept).files() == plain.files()
    assert judged == []


def test_a_grown_table_costs_its_growth_and_what_is_gone_is_forgotten(
    tmp_path: Path, judged: list[int]
) -> None:
    kept = Kept(tmp_path / "kept", "code")
    run(tmp_path / "before", kept=kept)
    judged.clear()
    more = [good(n, group="new") for n in range(100, 102)]
    grown = Run(tmp_path / "grown").write(mixed(), row_group_size=GROUP).write(more, "part-1")
    grown.validate(kept=kept, workers=1)
    assert judged == [2]
    assert len(list(kept.folder.glob("*/*.arrow"))) == ROWS // GROUP + 1
    run(tmp_path / "less", mixed()[:6], kept=kept)
    assert len(list(kept.folder.glob("*/*.arrow"))) == 2


@pytest.mark.parametrize(
    ("code", "settings", "anew"),
    [
        ("code", {}, False),
        ("other code", {}, True),
        ("code", {"min_side_px": 5}, True),
        ("code", {"split": {"seed": 3}}, True),
        ("code", {"split": {"val": 0.3}}, False),
        ("code", {"max_dropped_share": 0.9}, False),
        ("code", {"leaks": {"texts": "drop"}}, False),
        ("code", {"leaks": {"near_texts": "report"}}, True),
    ],
)
def test_what_was_judged_counts_for_the_same_code_and_rules(
    tmp_path: Path, judged: list[int], code: str, settings: dict[str, Any], *, anew: bool
) -> None:
    run(tmp_path / "before", kept=Kept(tmp_path / "kept", "code"))
    judged.clear()
    options = {"max_dropped_share": 1.0, **settings}
    try:
        run(tmp_path / "after", kept=Kept(tmp_path / "kept", code), **options)
    except DataError:
        assert "min_side_px" in settings  # all images are smaller
    assert bool(judged) == anew
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize("what", ["*.arrow", MEMO])
def test_what_is_kept_and_cannot_be_read_is_made_anew(tmp_path: Path, what: str) -> None:
    kept = Kept(tmp_path / "kept", "code")
    plain = run(tmp_path / "before", kept=kept)
    for path in kept.folder.glob(f"*/{what}"):
        path.write_bytes(b"0" * 999)
    for path in kept.folder.glob("*/*-wal"):
        path.unlink()
    assert run(tmp_path / "after", kept=kept).files() == plain.files()


def test_a_memo_that_is_in_use_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo, "_WAIT_S", 0.1)
    path = tmp_path / MEMO
    with closing(memo.MediaMemo(path)) as first:
        first.add(b"digest", memo.JudgedMedium(None, 2, b"print"))
        first.save()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            memo.MediaMemo(path).connect()
    with closing(memo.MediaMemo(path)) as again:
        assert again.find(b"digest") == memo.JudgedMedium(None, 2, b"print")


def test_a_medium_is_decoded_once_over_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    plain = image_check.check_image_cost

    def check(data: bytes, **limits: Any) -> Any:
        seen.append(data)
        return plain(data, **limits)

    monkeypatch.setattr(image_check, "check_image_cost", check)
    run(tmp_path)
    assert len(seen) == len(set(seen)) == 9  # eight images, and what is none


@pytest.mark.parametrize("rows", [1, 1000])
def test_lines_of_decoders_count_once_a_medium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    lines = 0
    plain = image_check.check_image_cost

    def check(data: bytes, **limits: Any) -> Any:
        nonlocal lines
        lines += 3 * (data == b"no image")
        return plain(data, **limits)

    monkeypatch.setattr(image_check, "check_image_cost", check)
    monkeypatch.setattr(judging, "library_lines", lambda: lines)
    monkeypatch.setattr(shards, "SHARD_ROWS", rows)
    kept = Kept(tmp_path / "kept", "code")
    said = "decoders wrote 3 lines about media to stderr, not shown here"
    for again in ("first", "again"):
        assert said in run(tmp_path / again, kept=kept).report["warnings"]


def npy(channels: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((3, channels), np.float32))
    return file.getvalue()


def test_features_of_all_shards_are_held_to_the_first_good_ones(tmp_path: Path) -> None:
    cells = [b"none", b"none", b"none", b"none", npy(2), npy(3), npy(3), npy(2), npy(3)]
    rows = [
        {"sample_id": f"row-{n}", "split": "train", "features": cell, "label": "a"}
        for n, cell in enumerate(cells)
    ]
    views = {"all": ["features", "label"]}
    found = [run(tmp_path / str(workers), rows, views=views, workers=workers) for workers in (1, 2)]
    assert found[0].files() == found[1].files()
    assert {*found[0].ids("train"), *found[0].ids("val")} == {"row-4", "row-7"}


def test_processes_are_as_many_as_pay_or_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(WORKERS, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [count_workers(n) for n in (0, 1, 7, 8, 20, 100)] == [1, 1, 1, 2, 5, 8]
    monkeypatch.setenv(WORKERS, "3")
    assert [count_workers(n) for n in (0, 2, 100)] == [1, 2, 3]
    for wrong in ("0", "-1", "two", ""):
        monkeypatch.setenv(WORKERS, wrong)
        with pytest.raises(ConfigError, match=f"{WORKERS} = '{wrong}'"):
            count_workers(9)


def test_a_damaged_file_is_named_by_whichever_process_meets_it(tmp_path: Path) -> None:
    made = Run(tmp_path).write(mixed(), row_group_size=GROUP)
    (path,) = made.raw.iterdir()
    place = pq.read_metadata(path).row_group(4).column(2).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 30 : place + 40] = b"\xff" * 10
    path.write_bytes(data)
    said = []
    for workers in (1, 2):
        with pytest.raises(DataError) as error:
            made.validate(workers=workers)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "row group 4" in said[0]


def workers_of(pid: int) -> list[psutil.Process]:
    """Processes that judge rows, below the server that makes them."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if child.parent() not in (None, psutil.Process(pid))]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


def test_a_process_that_is_killed_gives_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "kept", "code")
    rows = mixed(240)

    def kill() -> None:
        eventually(lambda: bool(list(kept.folder.glob("*/*.arrow"))))
        workers_of(os.getpid())[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DataError, match="ended from outside") as error:
        run(tmp_path / "killed", rows, kept=kept, workers=2)
    killer.join()
    assert "\n" not in str(error.value)
    done = len(list(kept.folder.glob("*/*.arrow")))
    assert done >= 1
    judged: list[int] = []
    plain = pass_one.PassOne._judge
    monkeypatch.setattr(
        pass_one.PassOne, "_judge", lambda self, shard: judged.append(1) or plain(self, shard)
    )
    again = run(tmp_path / "again", rows, kept=kept, workers=1)
    assert len(judged) == 80 - done
    assert again.files() == run(tmp_path / "plain", rows).files()


def test_a_process_that_is_stopped_is_waited_for_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ITEM_S", 3.0)
    kept = Kept(tmp_path / "kept", "code")

    def stop() -> None:
        eventually(lambda: bool(list(kept.folder.glob("*/*.arrow"))))
        for worker in workers_of(os.getpid()):
            worker.suspend()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(DataError, match="no rows were judged for 3 s"):
        run(tmp_path / "stopped", mixed(240), kept=kept, workers=2)
    stopper.join()
    eventually(lambda: not workers_of(os.getpid()))


def test_no_process_outlives_the_one_that_it_works_for(tmp_path: Path) -> None:
    made = Run(tmp_path).write(mixed(240), row_group_size=GROUP)
    code = f"""
from pathlib import Path
from plumbline.engines.local import LocalEngine
from plumbline.validation import shards
from plumbline.validation.kept import Kept
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import validate
if __name__ == "__main__":
    shards.SHARD_ROWS = 1
    config = ValidationConfig(views={{"all": ["image", "caption"]}})
    kept = Kept(Path({str(tmp_path / "kept")!r}), "code")
    validate(Path({str(made.raw)!r}), Path({str(made.clean)!r}), Path({str(made.quarantine)!r}),
             config, engine=LocalEngine(2), kept=kept)
"""
    (tmp_path / "script.py").write_text(code)
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py")]) as process:
        eventually(lambda: bool(list((tmp_path / "kept").glob("*/*.arrow"))))
        there = workers_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert there
    psutil.wait_procs(there, timeout=30)
    assert not any(child.is_running() for child in there)


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each batch that pass two writes, in row groups of a few rows."""
    batches: list[int] = []
    plain = RowFiler.file_rows

    def file_rows(self: RowFiler, file: str, row: int, batch: Any, *facts: Any) -> None:
        batches.append(batch.num_rows)
        plain(self, file, row, batch, *facts)

    monkeypatch.setattr(RowFiler, "file_rows", file_rows)
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_ROWS", 5)
    return batches


def new(number: int, **changes: Any) -> Row:
    return good(number, **{"group": "new", **changes})


MORE: dict[str, tuple[list[Row], str, int]] = {
    "rows behind the others": ([new(n) for n in range(100, 107)], "part-1", 7),
    "bad rows": ([new(100, caption=b"\xff"), new(101, image=b"none")], "part-1", 2),
    "a repeated id": ([new(1), new(102)], "part-1", 2),
    "a split that there was not": ([new(100, split="test")], "part-1", 1),
    "rows in front of the others": ([new(100), new(101)], "a-part", ROWS + 2),
    "a row for which others go": ([new(3, sample_id="new", split="test")], "part-1", ROWS + 1),
    "a part that there was not": ([new(100, part="A")], "part-1", ROWS + 1),
}


@pytest.mark.parametrize("name", MORE)
def test_a_table_that_has_grown_is_written_on_and_has_the_bytes_of_one_written_at_once(
    tmp_path: Path, filed: list[int], name: str
) -> None:
    more, file, expected = MORE[name]
    kept = Kept(tmp_path / "kept", "code")
    before = mixed()
    if "part" in more[0]:
        before = [{**row, "part": ""} for row in before]
    first = Run(tmp_path / "before").write(before, row_group_size=GROUP)
    first.validate(kept=kept, workers=1)
    filed.clear()
    again = Run(tmp_path / "again").write(before, row_group_size=GROUP)
    again.write(more, file, row_group_size=GROUP).validate(kept=kept, workers=1)
    assert sum(filed) == expected
    plain = Run(tmp_path / "plain").write(before, row_group_size=GROUP)
    plain.write(more, file, row_group_size=GROUP).validate(workers=1)
    assert again.files() == plain.files()
    assert again.report == plain.report


def test_what_was_filed_counts_for_rules_that_decide_alike(
    tmp_path: Path, filed: list[int]
) -> None:
    kept = Kept(tmp_path / "kept", "code")
    run(tmp_path / "before", kept=kept)
    filed.clear()
    for at, (settings, anew) in enumerate(
        [({}, False), ({"max_dropped_share": 0.9}, False), ({"leaks": {"media": "report"}}, True)]
    ):
        found = run(tmp_path / f"after {at}", kept=kept, **settings)
        assert bool(filed) == anew
        assert found.files() == run(tmp_path / f"plain {at}", **settings).files()
        filed.clear()


@pytest.mark.parametrize("name", ["train.parquet", "rows.parquet", "counts.json", "marks.json"])
@pytest.mark.parametrize("damage", ["cut off", "changed", "gone"])
def test_what_was_filed_and_is_damaged_is_written_anew(
    tmp_path: Path, filed: list[int], name: str, damage: str
) -> None:
    kept = Kept(tmp_path / "kept", "code")
    plain = run(tmp_path / "before", kept=kept).files()
    (path,) = kept.folder.glob(f"*/filed/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"cut off": data[:-9], "changed": data, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    filed.clear()
    assert run(tmp_path / "after", kept=kept).files() == plain
    assert sum(filed) == ROWS
    filed.clear()
    assert run(tmp_path / "once more", kept=kept).files() == plain
    assert filed == []
