"""What validation costs beside a loop of pandas and Pillow, in two processes, ended and grown.

    python -m bench.validation [--rows N] [--images FILE.parquet] [--peers N] [--levels L ...]

Images are those of a Parquet file (column `image_bytes`), or drawn ones of 32 px: 20,000 of them,
which repeat under new ids up to `--rows`. Each measurement is a process of its own, and both sides
are measured in turn; what a side imports and its raw table are there before the clock starts.
Prints a JSON line per level: CPU seconds of the whole stage, reading and writing included, and of
the loop over `--peers` of the rows, per row; beside them those of the verdicts alone, without what
either writes. Then one line for twice the rows, one for two processes, and one for a run that was
killed at 60 % and for 1 % of new files.
"""

import argparse
import io
import json
import multiprocessing.forkserver
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from plumbline.data.columns import CANONICAL
from plumbline.data.parquet import iter_batches
from plumbline.data.parquet_writer import ROW_GROUP_ROWS, RowGroupWriter
from plumbline.engines.local import LocalEngine
from plumbline.validation.kept import Kept
from plumbline.validation.near import NearRows
from plumbline.validation.pass_one import NOTES, PassOne
from plumbline.validation.raw_table import RawTable
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.settling import settle
from plumbline.validation.validate import validate

NAMES = ("sample_id", "image", "caption", "split")
DISTINCT, SIDE, FILES = 20_000, 32, 100


def drawn() -> Iterator[list[bytes]]:
    """Images of smooth colours with noise, as a PNG of a photograph has it."""
    draw = np.random.default_rng(0)
    for _ in range(DISTINCT // 1000):
        coarse = draw.integers(0, 256, (1000, 4, 4, 3), dtype=np.uint8)
        pixels = coarse.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
        pixels = (pixels // 2) + draw.integers(0, 64, pixels.shape, dtype=np.uint8)
        yield [_png(each) for each in pixels]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images_of(path: Path | None) -> list[bytes]:
    """All images, in memory."""
    if path is None:
        return [image for block in drawn() for image in block]
    return [
        image
        for batch in iter_batches(path, ["image_bytes"])
        for image in batch.column(0).to_pylist()
    ]


def write_file(path: Path, images: list[bytes], rows: range) -> None:
    """Rows of a raw table; images repeat, under ids and texts of their own."""
    schema = pa.schema([(name, CANONICAL[name]) for name in NAMES])
    with RowGroupWriter(path, schema) as writer:
        for start in range(rows.start, rows.stop, 4096):
            batch = range(start, min(start + 4096, rows.stop))
            columns = {
                "sample_id": [b"row-%d" % row for row in batch],
                "image": [images[row % len(images)] for row in batch],
                "caption": [b"a picture, number %d" % row for row in batch],
                "split": [b"train"] * len(batch),
            }
            arrays = {name: pa.array(values, pa.binary()) for name, values in columns.items()}
            writer.write(pa.RecordBatch.from_pydict(arrays))


def write_raw(folder: Path, images: list[bytes], rows: int) -> None:
    """A raw table of `FILES` files."""
    folder.mkdir()
    for file in range(FILES):
        part = range(rows * file // FILES, rows * (file + 1) // FILES)
        write_file(folder / f"part-{file:03}.parquet", images, part)


def ours(raw: Path, out: Path, level: str, workers: int, kept: Path | None) -> None:
    """The whole stage."""
    clean, quarantine = out / "clean", out / "quarantine"
    clean.mkdir()
    quarantine.mkdir()
    config = ValidationConfig.model_validate(
        {"views": {"all": ["image", "caption"]}, "level": level}
    )
    place = Kept(kept, "code") if kept else None
    report = validate(raw, clean, quarantine, config, engine=LocalEngine(workers), kept=place)
    assert report["rows_quarantined"] == 0, "all images are good"


def verdicts(raw: Path, out: Path, level: str) -> None:
    """Pass one and what is settled between all rows, and no table."""
    columns = ["image", "caption"]
    config = ValidationConfig.model_validate({"views": {"all": columns}, "level": level})
    notes = out / "notes"
    notes.mkdir()
    near = NearRows(out, config.leaks)
    table = RawTable(sorted(raw.iterdir()), out, columns[1:])
    judging = PassOne(["sample_id", "split", *columns], columns, config, notes, ROW_GROUP_ROWS)
    seen = table.judge(judging, LocalEngine(1), near)
    settle(table.verdicts, near, config, seen.splits)
    assert table.verdicts.good.all(), "all images are good"


def peer(raw: Path, out: Path, level: str, rows: int, *, writes: bool) -> None:
    """What one writes by hand: rows of a frame, each image verified or decoded."""
    import pandas as pd

    seen, good = set(), []
    for path in sorted(raw.iterdir()):
        frame = pd.read_parquet(path)
        for row in frame.itertuples(index=False):
            if len(seen) == rows:
                break
            if row.sample_id in seen or not row.caption.strip() or row.image is None:
                continue
            with Image.open(io.BytesIO(row.image)) as image:
                if level == "full":
                    image.convert("RGB").load()
                else:
                    image.verify()
            seen.add(row.sample_id)
            good.append(row)
    if writes:
        pd.DataFrame(good).to_parquet(out / "clean.parquet")


def measured(arguments: argparse.Namespace) -> None:
    """Run one side and print its CPU seconds, those of its processes included."""
    import pandas as pd

    assert pd is not None, "imported before the clock starts"
    out = Path(arguments.out)
    before, began = _cpu(), time.monotonic()
    if arguments.one.startswith("peer"):
        writes = arguments.one == "peer"
        peer(arguments.raw, out, arguments.level, arguments.rows, writes=writes)
    elif arguments.one == "verdicts":
        verdicts(arguments.raw, out, arguments.level)
    else:
        ours(arguments.raw, out, arguments.level, arguments.workers, arguments.kept)
    wall = time.monotonic() - began
    server = multiprocessing.forkserver._forkserver
    server._stop()  # has waited for its processes, whose time counts once it has ended
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"cpu_s": round(_cpu() - before, 3), "wall_s": round(wall, 2), "peak_mb": peak // 1024}
    print(json.dumps(facts))


def _cpu() -> float:
    spent = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in spent)


def command(one: str, raw: Path, out: Path, **options: object) -> list[str]:
    """The command of one measurement."""
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "bench.validation", f"--one={one}", *given, str(raw), str(out)]


def measure(one: str, raw: Path, **options: object) -> dict[str, float]:
    """A measurement in a process and a folder of its own."""
    with TemporaryDirectory(dir=raw.parent) as out:
        done = subprocess.run(
            command(one, raw, Path(out), **options), capture_output=True, text=True, check=True
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def killed(raw: Path, kept: Path, share: float) -> None:
    """A run that is killed when it has judged a share of its shards."""
    with TemporaryDirectory(dir=raw.parent) as out:
        options = {"level": "full", "workers": 1, "kept": kept}
        with subprocess.Popen(command("ours", raw, Path(out), **options)) as process:
            while len(list(kept.glob(f"*/*{NOTES}"))) < share * FILES:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)


def level_line(raw: Path, level: str, rows: int, peers: int) -> dict[str, Any]:
    """Both sides at a level, in turn."""
    facts: dict[str, Any] = {"level": level, "rows": rows}
    alone = [("verdicts", "peer-verdicts", "verdicts_")] if level != "full" else []
    for one, other, name in (("ours", "peer", ""), *alone):
        found = measure(one, raw, level=level, workers=1)
        loop = measure(other, raw, level=level, rows=peers)
        per_row = found["cpu_s"] / rows * 1e6, loop["cpu_s"] / peers * 1e6
        facts |= {} if name else found
        facts |= {
            f"{name}us_a_row": round(per_row[0], 2),
            f"{name}peer_us_a_row": round(per_row[1], 2),
            f"{name}ratio": round(per_row[1] / per_row[0], 2),
        }
    return facts


def grown_line(folder: Path, images: list[bytes], rows: int, level: str) -> dict[str, Any]:
    """Ten times the rows: seconds and memory beside those of a tenth."""
    found = []
    for count in (rows // 10, rows):
        raw = folder / f"raw-{count}"
        write_raw(raw, images, count)
        found.append(measure("ours", raw, level=level, workers=1))
        shutil.rmtree(raw)
    return {
        **{"rows": rows, "level": level, **found[1]},
        "us_a_row": round(found[1]["cpu_s"] / rows * 1e6, 2),
        "cpu_growth": round(found[1]["cpu_s"] / found[0]["cpu_s"], 2),
        "peak_growth": round(found[1]["peak_mb"] / found[0]["peak_mb"], 3),
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure all, with one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as folder:
        raw, kept = Path(folder, "raw"), Path(folder, "kept")
        images = images_of(arguments.images)
        fresh = max(1, len(images) // (FILES + 1))  # of those that come later
        rows = arguments.rows
        write_raw(raw, images[fresh:], rows)
        one: dict[str, Any] = {}
        for level in arguments.levels:
            one = level_line(raw, level, rows, min(arguments.peers, rows))
            print(json.dumps(one), flush=True)
        if arguments.grown:
            line = grown_line(Path(folder), images[fresh:], arguments.grown, "cheap")
            print(json.dumps(line), flush=True)
        if "full" not in arguments.levels:
            return
        two = measure("ours", raw, level="full", workers=2)
        facts = {
            **{"workers": 2, **two, "cpu_ratio": round(two["cpu_s"] / one["cpu_s"], 3)},
            "wall_ratio": round(two["wall_s"] / one["wall_s"], 3),
        }
        print(json.dumps(facts), flush=True)
        killed(raw, kept, 0.6)
        again = measure("ours", raw, level="full", workers=1, kept=kept)
        write_file(raw / "part-new.parquet", images[:fresh], range(rows, rows + rows // FILES))
        grown = measure("ours", raw, level="full", workers=1, kept=kept)
        print(json.dumps({"after_kill": round(again["cpu_s"] / one["cpu_s"], 3),
                          "after_growth": round(grown["cpu_s"] / one["cpu_s"], 4),
                          "growth_cpu_s": grown["cpu_s"]}), flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=20_000)
    parser.add_argument("--images", type=Path)
    parser.add_argument(
        "--levels", nargs="*", default=["cheap", "header", "full"], help="full last"
    )
    parser.add_argument("--grown", type=int, default=0, help="rows of the line for ten times them")
    parser.add_argument("--one")
    parser.add_argument("--level", default="full")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("raw", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parsed = parser.parse_args()
    (measured if parsed.one else main)(parsed)
