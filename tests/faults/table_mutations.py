"""Damaged tables by the thousand through prepare, validate, detect_shapes and tokenize_text.

python -m tests.faults.table_mutations [--count 4000] [--seed 0] [--keep FOLDER]

Mutation number n is the same for the same seed. Each may end in one of three ways: refused in one
line by an error of ours, judged so that every row is accounted for and what is clean becomes a
cache, or as a failure: a traceback, a process that dies, a row that is clean and that a later
stage refuses, or rows that do not add up. Mutations run within a child, which is started anew
where one kills it. Prints one JSON line; the exit code is 1 if there is a failure.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plumbline.data.arrays import encode_array
from plumbline.errors import DataError, PlumblineError
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.sources.registry import SOURCES, write_raw
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import ValidationFailed, validate
from tests.peak import ROOT, peak_mb
from tests.tiny import DIGITS, WORDS, picture

ROWS = 24
SECONDS = 60
"""The most that a mutation may take before it counts as a hang, far above any that was seen."""
Draw = random.Random


def sentence(draw: Draw) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 8)))


def _image_rows(draw: Draw) -> dict[str, Any]:
    return {
        "sample_id": [f"row-{row}" for row in range(ROWS)],
        "image": [picture(row, 8, 8) for row in range(ROWS)],
        "caption": [sentence(draw) for _ in range(ROWS)],
    }


def _parquet(draw: Draw, folder: Path) -> None:
    columns = _image_rows(draw)
    table = pa.table(columns)
    if draw.random() < 0.3:
        image = pa.StructArray.from_arrays([table["image"].combine_chunks()], ["bytes"])
        table = table.set_column(1, "image", image)
    pq.write_table(
        table,
        folder / "rows.parquet",
        row_group_size=draw.choice([4, 10, 100]),
        compression=draw.choice(["none", "snappy", "zstd", "gzip", "lz4"]),
        use_dictionary=draw.random() < 0.5,
        data_page_version=draw.choice(["1.0", "2.0"]),
        write_page_checksum=draw.random() < 0.3,
        store_schema=draw.random() < 0.5,
    )


def _arrays(draw: Draw, folder: Path) -> None:
    """Cells of .npy bytes, each mutated on its own: the table itself is whole."""
    cells = []
    for row in range(ROWS):
        values = np.random.default_rng(row).standard_normal((draw.randint(1, 9), 3))
        cell = encode_array(values.astype(np.float32))
        cells.append(mutate(draw, cell) if draw.random() < 0.5 else cell)
    table = pa.table(
        {
            "sample_id": [f"row-{row}" for row in range(ROWS)],
            "features": pa.array(cells, pa.binary()),
            "label": [DIGITS[row % 3] for row in range(ROWS)],
        }
    )
    pq.write_table(table, folder / "rows.parquet")


def _lists(draw: Draw, folder: Path) -> None:
    values = [
        [[draw.random() for _ in range(3)] for _ in range(draw.randint(1, 5))] for _ in range(ROWS)
    ]
    table = pa.table(
        {
            "sample_id": list(range(ROWS)),
            "features": pa.array(values, pa.list_(pa.list_(pa.float32()))),
            "label": [row % 3 for row in range(ROWS)],
        }
    )
    pq.write_table(table, folder / "rows.parquet", compression=draw.choice(["none", "zstd"]))


def _csv(draw: Draw, folder: Path) -> None:
    lines = [f'"{sentence(draw)}, {row}",{DIGITS[row % 3]}\n' for row in range(ROWS)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")


def _jsonl(draw: Draw, folder: Path) -> None:
    lines = [
        json.dumps({"text": f"{sentence(draw)} {row}", "label": DIGITS[row % 3], "n": [1, {}]})
        for row in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")


def _text(draw: Draw, folder: Path) -> None:
    lines = [f"{sentence(draw)} {row} caf\u00e9 \u4e2d" for row in range(ROWS)]
    (folder / "rows.txt").write_text("\n".join(lines), encoding="utf-8")


def _folder(draw: Draw, folder: Path) -> None:
    for row in range(ROWS):
        (folder / DIGITS[row % 3]).mkdir(exist_ok=True)
        (folder / DIGITS[row % 3] / f"{row}.png").write_bytes(picture(row, 8, 8))


TARGETS = {"text": "text", "label": "label"}
SIGNALS = {"sample_id": "sample_id", "features": "features", "label": "label"}
PAIRS = {"sample_id": "sample_id", "image": "image", "caption": "caption"}
Kind = tuple[Callable[[Draw, Path], None], dict[str, Any], list[str]]
KINDS: dict[str, Kind] = {
    "parquet": (_parquet, {"source": "parquet", "columns": PAIRS}, ["image", "caption"]),
    "arrays": (_arrays, {"source": "parquet", "columns": SIGNALS}, ["features", "label"]),
    "lists": (_lists, {"source": "parquet", "columns": SIGNALS}, ["features", "label"]),
    "csv": (_csv, {"source": "csv", "columns": TARGETS}, ["text", "label"]),
    "jsonl": (_jsonl, {"source": "jsonl", "columns": TARGETS}, ["text", "label"]),
    "text": (_text, {"source": "text", "unit": "line"}, ["text"]),
    "imagefolder": (_folder, {"source": "imagefolder"}, ["image", "label"]),
}
WEIGHTS = (6, 2, 2, 2, 2, 1, 2)
SCRAPS = (
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{",
    b"[" * 3000,
    b"\\ud800",
)


def mutate(draw: Draw, data: bytes) -> bytes:
    """Damage bytes in one of seven ways, some of them several times."""
    if not data:
        return draw.randbytes(8)
    made, size = bytearray(data), len(data)
    start, length = draw.randrange(size), draw.randint(1, max(1, min(200, size // 4)))
    way = draw.randrange(7)
    if way == 0:
        for _ in range(draw.choice([1, 1, 2, 8])):
            made[draw.randrange(size)] ^= 1 << draw.randrange(8)
    elif way == 1:
        del made[start:]
    elif way == 2:
        del made[start : start + length]
    elif way == 3:
        made[start : start + length] = bytes(min(length, size - start))
    elif way == 4:
        made[start:start] = made[draw.randrange(size) :][:length]
    elif way == 5:  # two pieces change places, as row groups might
        other = draw.randrange(size)
        made[start : start + length], made[other : other + length] = (
            made[other : other + length],
            made[start : start + length],
        )
    else:
        made[start:start] = draw.choice(SCRAPS)
    return bytes(made)


class Failure(Exception):
    """What must not happen."""


def run(kind: Kind, folder: Path) -> str:
    """Take one dataset through the stages; says how it ended.

    Raises:
        Failure: it ended as it must not.
    """
    _, source, view = kind
    for name in ("raw", "clean", "quarantine", "cache"):
        (folder / name).mkdir()
    made = SOURCES[source["source"]].model_validate(source)
    try:
        rows = write_raw(made.read(folder / "data"), made.given_splits, folder / "raw")
    except PlumblineError as error:
        return _refused("prepare", error)
    config = ValidationConfig(views={"all": view}, max_dropped_share=1.0, split={"min_rows": 2})
    try:
        report = validate(folder / "raw", folder / "clean", folder / "quarantine", config)
    except ValidationFailed as error:
        report = error.report
        _check_sums(rows, report)
        return _refused("validate", error)
    except PlumblineError as error:
        raise Failure(f"validate refuses what prepare wrote: {error}") from None
    _check_sums(rows, report)
    try:
        shapes = detect_shapes(folder / "clean", ShapesConfig())
        build_cache(folder / "clean", folder / "cache", TokenizeConfig(image_size=[8, 8]), shapes)
    except DataError as error:
        text = str(error).replace(str(folder), "")
        if any(word in text for word in ("decode", "damaged", "readable")):
            raise Failure(f"clean, and refused by the cache: {error}") from None
        return _refused("detect_shapes", error)
    cached = json.loads((folder / "cache/cache.json").read_text(encoding="utf-8"))["rows"]
    if cached != report["rows_clean"]:
        raise Failure(f"{cached} rows in the cache of {report['rows_clean']}")
    return "cached"


def _refused(stage: str, error: PlumblineError) -> str:
    if "\n" in str(error):
        raise Failure(f"more than one line: {error}")
    return f"refused by {stage}"


def _check_sums(rows: int, report: dict[str, Any]) -> None:
    kept, lost = sum(report["rows_clean"].values()), report["rows_quarantined"]
    if not rows == report["rows_in"] == kept + lost == kept + sum(report["reasons"].values()):
        raise Failure(f"{rows} rows, {report['rows_in']} read, {kept} clean, {lost} quarantined")


def make(seed: int, number: int, data: Path) -> str:
    """Write the dataset of a mutation into an empty folder, and name its kind."""
    draw = random.Random(f"{seed}/{number}")
    (name,) = draw.choices(list(KINDS), WEIGHTS)
    KINDS[name][0](draw, data)
    if name != "arrays":
        files = sorted(path for path in data.rglob("*") if path.is_file())
        for path in draw.sample(files, min(len(files), draw.randint(1, 6))):
            path.write_bytes(mutate(draw, path.read_bytes()))
    return name


def _hang(number: int, frame: object) -> None:
    raise Failure(f"not done within {SECONDS} s")


def one(seed: int, number: int, work: Path) -> tuple[str, str, str]:
    """Run a mutation: its kind, how it ended, and what went wrong, if anything."""
    folder = work / str(number)
    (folder / "data").mkdir(parents=True)
    name = make(seed, number, folder / "data")
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        end, wrong = run(KINDS[name], folder), ""
        shutil.rmtree(folder)
    except Failure as error:
        end, wrong = "failure", str(error)
    except Exception:
        end, wrong = "failure", traceback.format_exc()
    finally:
        signal.alarm(0)
    return name, end, wrong


def child(seed: int, numbers: range, work: Path) -> None:
    """Run mutations, a line of JSON for each."""
    for number in numbers:
        print(json.dumps([number, None, None, "", 0]), flush=True)
        print(json.dumps([number, *one(seed, number, work), peak_mb()]), flush=True)


def campaign(seed: int, count: int, work: Path) -> tuple[Counter[str], list[str], int]:
    """Run mutations 0, 1, ...: how they ended by kind, the failures, and the largest peak in MB."""
    ends: Counter[str] = Counter()
    failures: list[str] = []
    at = peak = 0
    while at < count:
        command = [sys.executable, "-m", "tests.faults.table_mutations", "--child"]
        command += ["--seed", str(seed), "--first", str(at), "--count", str(count)]
        done = subprocess.run(
            [*command, "--keep", str(work)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        for number, name, end, wrong, mb in lines:
            at = number + 1
            if name is not None:
                ends[f"{name}: {end}"] += 1
                peak = max(peak, mb)
                failures += [f"{number} ({name}): {wrong}"] if wrong else []
        if not lines or lines[-1][1] is None:
            failures.append(f"{at - 1}: died with {done.returncode}: {done.stderr[-300:]}")
            ends["died"] += 1
            at += not lines
    return ends, failures, peak


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="mutations-"))
    if options.child:
        child(options.seed, range(options.first, options.count), work)
        return 0
    ends, failures, peak = campaign(options.seed, options.count, work)
    for failure in failures:
        print(failure, file=sys.stderr)
    found = {"mutations": options.count, "ends": dict(sorted(ends.items())), "peak_mb": peak}
    print(json.dumps({**found, "failures": len(failures), "seed": options.seed}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
