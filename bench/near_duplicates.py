"""How many planted near duplicates does validation find, and what else does it flag?

Changed copies of test images and texts are planted into train; `drop` then says which rows of train
went for which rows of test. Real data comes from two folders of Parquet files, one for each split,
with names that begin with it: `BENCH_IMAGES` (sample_id, image_bytes) and `BENCH_TEXTS`
(sample_id, source, target); without them it is made up. Prints one JSON line for each kind: recall
of each change, and rows flagged beyond the planted. `python -m bench.near_duplicates [FOLDER]`
keeps in FOLDER the tables that name the pairs.
"""

import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from plumbline.data.columns import CANONICAL
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import validate

PLANTED = 500
"""Rows of test of which each change plants a copy."""
TEXT = (
    "a the man woman child dog cat horse boat street river blue red green small large old young "
    "stands walks runs sits holds near under behind with from into two three some bright dark "
    "house bridge garden market window table ball bicycle hat coat rain snow sun night crowd"
)
WORDS = TEXT.split()

Row = dict[str, Any]


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scale(image: Image.Image, by: float) -> Image.Image:
    """Both sides times a factor."""
    size = (round(image.width * by), round(image.height * by))
    return image.resize(size, Image.Resampling.BICUBIC)


def crop(image: Image.Image, draw: random.Random) -> Image.Image:
    """Nine tenths of both sides, from anywhere."""
    width, height = round(image.width * 0.9), round(image.height * 0.9)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def mirror(image: Image.Image) -> Image.Image:
    """Left for right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


IMAGE_CHANGES: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "reencoded": lambda image, _: encode(image, "JPEG", quality=60),
    "mirrored": lambda image, _: encode(mirror(image)),
    "smaller": lambda image, _: encode(scale(image, 0.9)),
    "larger": lambda image, _: encode(scale(image, 1.1)),
    "mirrored_smaller_reencoded": lambda image, _: encode(
        mirror(scale(image, 0.9)), "JPEG", quality=60
    ),
    "cropped": lambda image, draw: encode(crop(image, draw)),
}


def punctuate(text: str, draw: random.Random) -> str:
    """Other case, punctuation and blanks."""
    return "".join(char + draw.choice(["", "", ",", "  "]) * (char == " ") for char in text.upper())


def replace_word(text: str, draw: random.Random) -> str:
    """The text with another word in the place of one."""
    words = text.split()
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return " ".join(words)


TEXT_CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "case_and_punctuation": punctuate,
    "one_word_replaced": replace_word,
}


def read(variable: str, split: str) -> Iterator[Row] | None:
    """Rows of a folder that an environment variable names; None where it names none."""
    folder = os.environ.get(variable)
    if not folder:
        return None
    paths = sorted(Path(folder).glob(f"{split}*.parquet"))
    return (row for path in paths for row in pq.read_table(path).to_pylist())


def image_rows(split: str, count: int) -> Iterator[Row]:
    """Images given, or made up of smooth random patches."""
    if (rows := read("BENCH_IMAGES", split)) is not None:
        yield from ({"sample_id": row["sample_id"], "image": row["image_bytes"]} for row in rows)
        return
    draw = np.random.default_rng(len(split))
    for number in range(count):
        patches = Image.fromarray(draw.integers(0, 256, (7, 7, 3), np.uint8))
        picture = patches.resize((64, 64), Image.Resampling.BICUBIC)
        yield {"sample_id": f"{number}", "image": encode(picture)}


def text_rows(split: str, count: int) -> Iterator[Row]:
    """Pairs of texts given, or made up of random words."""
    if (rows := read("BENCH_TEXTS", split)) is not None:
        yield from ({name: row[name] for name in ("sample_id", "source", "target")} for row in rows)
        return
    draw = random.Random(split)
    for number in range(count):
        source, target = (" ".join(draw.choices(WORDS, k=12)) for _ in range(2))
        yield {"sample_id": f"{number}", "source": source, "target": target}


def plant_images(rows: list[Row], change: str, draw: random.Random) -> Iterator[Row]:
    """Changed copies of images."""
    for row in rows:
        image = Image.open(io.BytesIO(row["image"])).convert("RGB")
        yield {"image": IMAGE_CHANGES[change](image, draw)}


def plant_texts(rows: list[Row], change: str, draw: random.Random) -> Iterator[Row]:
    """Changed copies of pairs of texts."""
    for row in rows:
        yield {name: TEXT_CHANGES[change](row[name], draw) for name in ("source", "target")}


def write(path: Path, rows: list[Row], split: str) -> None:
    """Write rows with ids and splits of their own."""
    filled = [
        {**row, "sample_id": f"{path.stem}-{at}", "split": split} for at, row in enumerate(rows)
    ]
    columns = {}
    for name in filled[0]:
        cells = [each[name] for each in filled]
        raw = [cell.encode() if isinstance(cell, str) else cell for cell in cells]
        columns[name] = pa.array(raw, pa.binary()).view(CANONICAL[name])
    pq.write_table(pa.table(columns), path)


def measure(kind: str, folder: Path) -> dict[str, Any]:
    """Plant, validate with `drop`, and count what went."""
    make, plant, changes, columns = KINDS[kind]
    for name in ("raw", "clean", "quarantine"):
        (folder / name).mkdir(parents=True)
    draw = random.Random(0)
    train, test = list(make("train", 2000)), list(make("test", 1000))
    write(folder / "raw" / "train.parquet", train, "train")
    write(folder / "raw" / "test.parquet", test, "test")
    chosen = draw.sample(test, min(PLANTED, len(test)))
    for change in changes:
        copies = list(plant(chosen, change, draw))
        write(folder / "raw" / f"planted-{change}.parquet", copies, "train")
    settings = {
        "views": {"all": columns},
        "max_dropped_share": 1.0,
        "leaks": {f"near_{kind}": "drop"},
        "split": {"val": 0.0},
    }
    config = ValidationConfig.model_validate(settings)
    began = time.monotonic()
    validate(folder / "raw", folder / "clean", folder / "quarantine", config)
    seconds = time.monotonic() - began
    lost = pq.read_table(folder / "quarantine" / "rows.parquet").to_pylist()
    near = Counter(row["file"] for row in lost if row["detail"].startswith("nearly"))
    recall = {c: near[f"planted-{c}.parquet"] / len(chosen) for c in changes}
    beyond = near["train.parquet"]
    given = bool(os.environ.get(f"BENCH_{kind.upper()}"))
    rows = {"train": len(train), "test": len(test), "planted": len(chosen)}
    found = {"recall": recall, "beyond": beyond, "beyond_share": beyond / len(train)}
    return {"kind": kind, "given": given, "rows": rows, **found, "seconds": round(seconds, 1)}


KINDS: dict[str, tuple[Any, Any, Any, list[str]]] = {
    "images": (image_rows, plant_images, IMAGE_CHANGES, ["image"]),
    "texts": (text_rows, plant_texts, TEXT_CHANGES, ["source", "target"]),
}


def main() -> None:
    """Measure both kinds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        for kind in KINDS:
            print(json.dumps(measure(kind, folder / kind)), flush=True)


if __name__ == "__main__":
    main()
