"""Data of any size for the data stages, and each stage in a process of its own with its peak.

python -m tests.faults.stage_memory STAGE IN OUT prints the peak of resident memory in MB. VmHWM
belongs to the memory of one program, so that what the parent holds does not count.
"""

import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
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


CLIP_FRAMES = 10_000_000
"""Of 16 bits at 48,000 Hz: 208 s in 20 MB, of which a fifth differs from clip to clip."""
HOSTILE_BYTES = 2**26 - 2**20
"""Of a cell that is within what a cell may have, and beyond what a clip may."""


def clip(number: int, frames: int, rate: int) -> bytes:
    """A WAV of noise."""
    noise = random.Random(number).randbytes(frames * 2 // 5)
    body = (noise * 6)[: 2 * frames]
    facts = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    size = struct.pack("<I", 36 + len(body)), struct.pack("<I", len(body))
    return b"RIFF" + size[0] + b"WAVEfmt " + facts + b"data" + size[1] + body


def write_clips(folder: Path, large: int) -> None:
    """Write a folder of so many large clips, a hostile one and 200 small ones, of two labels."""
    for label in "ab":
        (folder / "audiofolder" / label).mkdir(parents=True)
    clips = (
        [(CLIP_FRAMES, 48_000)] * large + [(HOSTILE_BYTES // 2, 48_000)] + [(1600, 16_000)] * 200
    )
    for number, (frames, rate) in enumerate(clips):
        path = folder / "audiofolder" / "ab"[number % 2] / f"{number:04d}.wav"
        path.write_bytes(clip(number, frames, rate))


def _prepare(source: dict[str, object]) -> Callable[[Path, Path], None]:
    def run(folder: Path, out: Path) -> None:
        from plumbline.sources.registry import SOURCES, write_raw

        made = SOURCES[str(source["source"])].model_validate(source)
        write_raw(made.read(folder), made.given_splits, out)

    return run


def _validate(view: list[str], level: str, workers: int, raw: Path, out: Path) -> None:
    from plumbline.engines.local import LocalEngine
    from plumbline.validation.settings import ValidationConfig
    from plumbline.validation.validate import validate

    for name in ("clean", "quarantine"):
        (out / name).mkdir()
    config = ValidationConfig.model_validate({"views": {"pair": view}, "level": level})
    validate(raw, out / "clean", out / "quarantine", config, engine=LocalEngine(workers))


def _detect_shapes(view: list[str], clean: Path, out: Path) -> None:
    from plumbline.files import write_json
    from plumbline.shapes.detect import ShapesConfig, look_at

    found = look_at(clean, ShapesConfig(), {"pair": view})
    write_json(out / "shapes.json", found.shapes)
    write_json(out / "distributions.json", found.distributions)


def _tokenize_text(shapes: str, workers: int, clean: Path, out: Path) -> None:
    from plumbline.engines.local import LocalEngine
    from plumbline.files import read_json
    from plumbline.tokenization.cache import build_cache
    from plumbline.tokenization.settings import TokenizeConfig

    found = read_json(clean.parents[1] / shapes / "shapes.json")
    config = TokenizeConfig(max_tokens=64)
    build_cache(clean, out, config, found, engine=LocalEngine(workers))


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
    "validate": partial(_validate, ["image", "caption"], "full", 1),
    "detect_shapes": partial(_detect_shapes, ["image", "caption"]),
    "tokenize_text": partial(_tokenize_text, "detect_shapes", 1),
    "report": _report,
}
CLIPS = ["audio", "label"]
CLIP_STAGES: dict[str, Callable[[Path, Path], None]] = {
    "prepare-clips": _prepare({"source": "audiofolder"}),
    "validate-clips-cheap": partial(_validate, CLIPS, "cheap", 1),
    "validate-clips-header": partial(_validate, CLIPS, "header", 1),
    "validate-clips": partial(_validate, CLIPS, "full", 1),
    "validate-clips-2": partial(_validate, CLIPS, "full", 2),
    "detect_shapes-clips": partial(_detect_shapes, CLIPS),
    "tokenize_text-clips": partial(_tokenize_text, "detect_shapes-clips", 1),
    "tokenize_text-clips-2": partial(_tokenize_text, "detect_shapes-clips", 2),
}
INPUTS = {
    **{f"prepare-{name}": name for name in SOURCES},
    "prepare-parts": "csv",
    "validate": "out/prepare-parquet",
    "detect_shapes": "out/validate/clean",
    "tokenize_text": "out/validate/clean",
    "report": "parquet",
    "prepare-clips": "audiofolder",
    **{name: "out/prepare-clips" for name in CLIP_STAGES if name.startswith("validate")},
    **{
        name: "out/validate-clips/clean"
        for name in CLIP_STAGES
        if name.startswith(("detect", "tokenize"))
    },
}
"""Stage -> the folder that it reads: an input, or what a stage before has written."""


def run_stage(stage: str, folder: Path) -> int:
    """Run a stage on what lies in `folder` in a fresh process, and return its peak in MB.

    Where it starts processes, it is what all of them held together at one moment.
    """
    out = folder / "out" / stage
    out.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "tests.faults.stage_memory",
        stage,
        folder / INPUTS[stage],
        out,
    ]
    together = 0
    with (
        (out / "log").open("w+") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as run,
    ):
        while run.poll() is None:
            together = max(together, _held_mb(run.pid))
            time.sleep(0.02)
        log.seek(0)
        assert run.returncode == 0, log.read()[-2000:]
        assert run.stdout is not None
        return max(together, int(run.stdout.read()))


def _held_mb(pid: int) -> int:
    """Resident memory of a process and all below it, in MB."""
    parents, held = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = status.read_text(encoding="utf-8").splitlines()
        except OSError:  # it has just ended
            continue
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        number = int(status.parent.name)
        parents[number] = int(facts["PPid"])
        held[number] = int(facts.get("VmRSS", "0 kB").split()[0])
    below = {pid}
    while more := {one for one, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(held.get(one, 0) for one in below) // 1000


if __name__ == "__main__":
    {**STAGES, **CLIP_STAGES}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(peak_mb())
