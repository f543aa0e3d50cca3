"""A stand-in for a data set with known faults: good rows of drawings, and some of each fault."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, Any]
ROWS, OF_EACH = 400, 6
SCHEMA = pa.schema(
    [(name, pa.binary() if name == "image_bytes" else pa.string())
     for name in ("sample_id", "image_bytes", "caption", "question", "answer")]
)  # fmt: skip


def picture(seed: int, form: str = "PNG", side: int = 24) -> bytes:
    """An image with some structure; no two are alike."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


FAULTS: dict[str, tuple[str, str, Callable[[Row], object]]] = {
    "null_image": ("null_image", "image_bytes", lambda row: None),
    "empty_image": ("null_image", "image_bytes", lambda row: b""),
    "truncated_png": ("bad_image", "image_bytes", lambda row: row["image_bytes"][:-40]),
    "truncated_jpeg": (
        "bad_image",
        "image_bytes",
        lambda row: picture(int(row["sample_id"][1:]), "JPEG", 64)[:-300],
    ),
    "garbage": ("bad_image", "image_bytes", lambda row: row["image_bytes"][::-1]),
    "html": ("bad_image", "image_bytes", lambda row: b"<!DOCTYPE html><html>404</html>"),
    "null_caption": ("null_text", "caption", lambda row: None),
    "blank_caption": ("empty_text", "caption", lambda row: " \t\u3000\n"),
    "null_question": ("null_text", "question", lambda row: None),
    "empty_answer": ("empty_text", "answer", lambda row: ""),
    "null_id": ("missing_id", "sample_id", lambda row: None),
    "empty_id": ("missing_id", "sample_id", lambda row: ""),
}
"""Fault -> the reason that validation has to give, the column, and what stands there."""


def write_set(folder: Path) -> None:
    """Write `train/`, `val/` and `manifest.json` in the form that `bench.dirty` reads."""
    samples = []
    number = 0
    for split, share in (("train", 0.8), ("val", 0.2)):
        (folder / split).mkdir(parents=True)
        rows: list[Row] = []
        chosen = [fault for fault in (None, *FAULTS) for _ in range(_count(fault, share))]
        for place, fault in enumerate(np.random.default_rng(1).permutation(np.array(chosen))):
            row = _row(number)
            number += 1
            verdict: Row = {"file": f"{split}/part-0.parquet", "row": place, "fault": fault}
            if fault is None:
                verdict |= {"verdict": "keep"}
            else:
                reason, column, damage = FAULTS[fault]
                row[column] = damage(row)
                verdict |= {"verdict": "drop", "reason": reason, **_by_view(column)}
            rows.append(row)
            samples.append(verdict)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / split / "part-0.parquet")
    manifest = {"samples": samples, "constraints": [], "cases": []}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _count(fault: str | None, share: float) -> int:
    return round((ROWS if fault is None else OF_EACH) * share)


def _row(number: int) -> Row:
    return {
        "sample_id": f"s{number}",
        "image_bytes": picture(number),
        "caption": f"drawing {number} of its kind",
        "question": f"what is number {number}?",
        "answer": f"drawing {number}",
    }


def _by_view(column: str) -> Row:
    """A fault of a column that a view does not read is none there."""
    views = {"caption": ("caption",), "qa": ("question", "answer")}
    everywhere = ("sample_id", "image_bytes")
    return {
        f"verdict_{view}": "drop" if column in (*everywhere, *columns) else "keep"
        for view, columns in views.items()
    }
