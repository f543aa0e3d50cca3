"""Score validation on a data set with known faults, and try it on damaged files.

Usage: python -m bench.dirty [FOLDER], where FOLDER, or that of BENCH_DIRTY, has `train/`, `val/`,
`cases/` and `manifest.json`; without one a stand-in of a few hundred rows is made. Prints one JSON
line per view (faults dropped, good rows lost, leaks left) and one for the file cases.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.dirty_set import write_set
from plumbline.data.columns import CANONICAL
from plumbline.data.parquet import check_schema, declare_splits, iter_batches, list_parquet
from plumbline.data.parquet_writer import RowGroupWriter
from plumbline.errors import DataError
from plumbline.validation.report import Report
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import ValidationFailed, validate

COLUMNS = {
    "sample_id": "sample_id",
    "image": "image_bytes",
    "caption": "caption",
    "question": "question",
    "answer": "answer",
}
VIEWS: dict[str, list[str]] = {
    "all": ["image", "caption", "question", "answer"],
    "caption": ["image", "caption"],
    "qa": ["image", "question", "answer"],
}
Place = tuple[str, int]


def prepare(places: Mapping[str, Path], raw: Path) -> None:
    """Bring files of the set into canonical columns, one raw file per input file."""
    wanted = {theirs: CANONICAL[ours] for ours, theirs in COLUMNS.items()}
    parts = [(split, path) for split, place in places.items() for path in list_parquet(place)]
    check_schema([path for _, path in parts], wanted)
    schema = pa.schema([(name, CANONICAL[name]) for name in (*COLUMNS, "split")])
    if "" not in places:
        schema = declare_splits(schema, places)
    for split, path in parts:
        name = f"{split or 'all'}-{path.name}"
        with RowGroupWriter(raw / name, schema) as writer:
            for batch in iter_batches(path, list(COLUMNS.values())):
                given = pa.array([split.encode()] * batch.num_rows, pa.binary())
                columns = {ours: batch.column(theirs) for ours, theirs in COLUMNS.items()}
                writer.write(pa.RecordBatch.from_pydict({**columns, "split": given}))


def run(
    places: Mapping[str, Path], view: str, work: Path, **settings: Any
) -> tuple[Report, Path, Path]:
    """Prepare and validate in new folders below `work`; returns report, clean and quarantine."""
    raw, clean, quarantine = (work / name for name in ("raw", "clean", "quarantine"))
    for folder in (raw, clean, quarantine):
        folder.mkdir()
    prepare(places, raw)
    # The sets are dirty on purpose; what is measured is which rows go.
    settings = {"max_dropped_share": 0.5, **settings}
    config = ValidationConfig(views={view: VIEWS[view]}, **settings)
    return validate(raw, clean, quarantine, config), clean, quarantine


def quarantined(folder: Path) -> dict[Place, str]:
    """Read the reason of every row in quarantine, by file of the set and row."""
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    return {(row["file"].replace("-", "/", 1), row["row"]): row["reason"] for row in rows}


def score(manifest: Mapping[str, Any], view: str, gone: Mapping[Place, str]) -> dict[str, Any]:
    """Compare with the right answers."""
    key = "verdict" if view == "all" else f"verdict_{view}"
    counts = {"faults": 0, "faults_dropped": 0, "good_rows": 0, "good_rows_lost": 0}
    reasons_wrong = []
    for sample in manifest["samples"]:
        verdict = sample.get(key, sample["verdict"])
        reason = gone.get((sample["file"], sample["row"]))
        if verdict == "drop":
            counts["faults"] += 1
            counts["faults_dropped"] += reason is not None
            if reason is not None and reason != sample["reason"]:
                reasons_wrong.append((sample["fault"], reason))
        elif verdict == "keep":
            counts["good_rows"] += 1
            counts["good_rows_lost"] += reason is not None
    left = leaks_left(manifest["samples"], manifest["constraints"], gone)
    missed = counts["faults"] - counts["faults_dropped"]
    sums = {"missed": missed, "lost": counts["good_rows_lost"], "rows": len(manifest["samples"])}
    return {"view": view, **counts, **sums, "leaks_left": left, "other_reasons": reasons_wrong}


def leaks_left(
    samples: Sequence[Mapping[str, Any]],
    constraints: Sequence[Mapping[str, Any]],
    gone: Mapping[Place, str],
) -> int:
    """Count the groups that live in both splits after validation, though they may not."""
    count = 0
    for constraint in constraints:
        if constraint["type"] == "one_split_only":
            places = [
                (sample["file"], sample["row"])
                for sample in samples
                if sample.get("group") == constraint["group"]
            ]
            folders = {file.split("/")[0] for file, row in places if (file, row) not in gone}
            count += len(folders) > 1
    return count


def try_case(case: Mapping[str, Any], folder: Path, work: Path) -> dict[str, Any]:
    """Run one file case; an error must be one line of ours, and anything else is a crash."""
    places = {"": folder}
    if (folder / "train").is_dir():
        places = {"train": folder / "train", "val": folder / "val"}
    found: dict[str, Any] = {"case": case["case"], "expected": case["expect"]}
    try:
        report, _, _ = run(places, "all", work)
    except ValidationFailed as error:
        found |= {"found": "error", "message": str(error), "listed": error.report["rows_in"]}
    except DataError as error:
        found |= {"found": "error", "message": str(error)}
    else:
        found |= {"found": "ok", "kept": sum(report["rows_clean"].values())}
    found["message"] = found.get("message", "").replace(str(work), "").replace(str(folder), "")
    found["right"] = case["expect"] in (found["found"], "either") and (
        found["found"] == "error" or found["kept"] == case["kept"]
    )
    return found


def main(arguments: Sequence[str]) -> None:
    """Score the folder named on the command line, or a stand-in."""
    if named := (arguments[0] if arguments else os.environ.get("BENCH_DIRTY")):
        measure(Path(named))
        return
    with TemporaryDirectory() as folder:
        write_set(Path(folder))
        measure(Path(folder))


def measure(folder: Path) -> None:
    """Print what is found of the set in a folder."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for view in VIEWS:
        with TemporaryDirectory() as work:
            places = {split: folder / split for split in ("train", "val")}
            report, _, quarantine = run(places, view, Path(work))
            result = score(manifest, view, quarantined(quarantine))
        print(json.dumps({**result, "reasons": report["reasons"]}))
    cases = []
    for case in manifest["cases"]:
        with TemporaryDirectory() as work:
            cases.append(try_case(case, folder / "cases" / case["case"], Path(work)))
    wrong = [case for case in cases if not case["right"]]
    messages = {case["case"]: case["message"] for case in cases if case["message"]}
    summary = {"cases": len(cases), "right": len(cases) - len(wrong), "wrong": wrong}
    print(json.dumps({**summary, "messages": messages}))


if __name__ == "__main__":
    main(sys.argv[1:])
