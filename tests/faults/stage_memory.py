"""Data of any size for the data stages, and each stage in a process of its own with its peak.

python -m tests.faults.stage_memory STAGE IN OUT prints the peak of resident memory in MB. VmHWM
belongs to the memory of one program, so that what the parent holds does not count.
"""

import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.peak import ROOT, peak_mb

CELL_BYTES = 10_000
ROWS_PER_GROUP = 400


def png(noise: bytes) -> bytes:
    """An image of 8 x 8 pixels and as many more bytes as there is noise; the noise decides them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    header = (8).to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    pixels = b"".join(b"\0" + noise[8 * row : 8 * row + 8] for row in range(8))
    chunks = (
        chunk(b"IHDR", header),
        chunk(b"teSt", noise),
        chunk(b"IDAT", zlib.compress(pixels)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def text(draw: random.Random) -> str:
    """A text of `CELL_BYTES` that no other row has."""
    return draw.randbytes(CELL_BYTES // 2).hex()


def write_inputs(folder: Path, rows: int) -> None:
    """Write `rows` rows for every source: Parquet, a folder of images, CSV, JSON lines, texts."""
    draw = random.Random(rows)
    names = ("parquet", "imagefolder/a", "imagefolder/b", "csv", "jsonl", "text")
    for name in names:
        (folder / name).mkdir(parents=True)
    with (
        pq.ParquetWriter(
            folder / "parquet/rows.parquet",
            pa.schema(
                [("sample_id", pa.string()), ("image", pa.binary()), ("caption", pa.string())]
            ),
        ) as parquet,
        (folder / "csv/rows.csv").open("w", encoding="utf-8") as csv,
        (folder / "jsonl/rows.jsonl").open("w", encoding="utf-8") as jsonl,
        (folder / "text/rows.txt").open("w", encoding="utf-8") as plain,
    ):
        csv.write("text\n")
        for start in range(0, rows, ROWS_PER_GROUP):
            group = range(start, min(start + ROWS_PER_GROUP, rows))
            images = [png(draw.randbytes(CELL_BYTES)) for _ in group]
            columns = [
                [f"row-{row}" for row in group],
                images,
                [f"picture {row}" for row in group],
            ]
            parquet.write(pa.table(columns, parquet.schema))
            for row, image in zip(group, images, strict=True):
                (folder / "imagefolder" / "ab"[row % 2] / f"{row}.png").write_bytes(image)
                line = text(draw)
                csv.write(f"{line}\n")
                jsonl.write(f'{{"text": "{line}"}}\n')
                plain.write(f"{line}\n")


def _prepare(source: dict[str, object]) -> Callable[[Path, Path], None]:
    def run(folder: Path, out: Path) -> None:
        from plumbline.sources.registry import SOURCES, write_raw

        made = SOURCES[str(source["source"])].model_validate(source)
        write_raw(made.read(folder), made.given_splits, out)

    return run


def _validate(raw: Path, out: Path) -> None:
    from plumbline.validation.settings import ValidationConfig
    from plumbline.validation.validate import validate

    for name in ("clean", "quarantine"):
        (out / name).mkdir()
    views = {"pair": ["image", "caption"]}
    validate(raw, out / "clean", out / "quarantine", ValidationConfig(views=views))


def _detect_shapes(clean: Path, out: Path) -> None:
    from plumbline.files import write_json
    from plumbline.shapes.detect import ShapesConfig, look_at

    found = look_at(clean, ShapesConfig(), {"pair": ["image", "caption"]})
    write_json(out / "shapes.json", found.shapes)
    write_json(out / "distributions.json", found.distributions)


def _tokenize_text(clean: Path, out: Path) -> None:
    from plumbline.files import read_json
    from plumbline.tokenization.cache import build_cache
    from plumbline.tokenization.settings import TokenizeConfig

    shapes = read_json(clean.parents[1] / "detect_shapes/shapes.json")
    build_cache(clean, out, TokenizeConfig(max_tokens=64), shapes)


def _report(predictions: Path, out: Path) -> None:
    from plumbline.report.blocks import Scene
    from plumbline.report.predictions import prediction_blocks
    from plumbline.report.samples import Samples

    scene = Scene("a", predictions, Samples(out, "test"), {})
    prediction_blocks(predictions / "rows.parquet", scene)


PAIRS = {"sample_id": "sample_id", "image": "image", "caption": "caption"}
TEXT = {"text": "text"}
SOURCES: dict[str, dict[str, object]] = {
    "parquet": {"source": "parquet", "columns": PAIRS},
    "imagefolder": {"source": "imagefolder"},
    "csv": {"source": "csv", "columns": TEXT},
    "jsonl": {"source": "jsonl", "columns": TEXT},
    "text": {"source": "text", "unit": "line"},
}
STAGES: dict[str, Callable[[Path, Path], None]] = {
    **{f"prepare-{name}": _prepare(source) for name, source in SOURCES.items()},
    "prepare-parts": _prepare({"source": "parts", "parts": {"one": SOURCES["csv"]}}),
    "validate": _validate,
    "detect_shapes": _detect_shapes,
    "tokenize_text": _tokenize_text,
    "report": _report,
}
INPUTS = {
    **{f"prepare-{name}": name for name in SOURCES},
    "prepare-parts": "csv",
    "validate": "out/prepare-parquet",
    "detect_shapes": "out/validate/clean",
    "tokenize_text": "out/validate/clean",
    "report": "parquet",
}
"""Stage -> the folder that it reads: an input, or what a stage before has written."""


def run_stage(stage: str, folder: Path) -> int:
    """Run a stage on what lies in `folder` in a fresh process, and return its peak in MB."""
    out = folder / "out" / stage
    out.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.stage_memory", stage, folder / INPUTS[stage], out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


if __name__ == "__main__":
    STAGES[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(peak_mb())
