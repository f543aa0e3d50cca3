"""A validation in a folder of its own, and rows to put into it."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from plumbline.data.columns import CANONICAL
from plumbline.engines.base import Engine
from plumbline.engines.local import LocalEngine
from plumbline.validation.kept import Kept
from plumbline.validation.report import Report
from plumbline.validation.settings import SplitConfig, ValidationConfig
from plumbline.validation.validate import ValidationFailed, validate

Row = dict[str, Any]

ALL_VIEW = {"all": ["image", "caption", "question", "answer"]}
TWO_VIEWS = {"caption": ["image", "caption"], "qa": ["image", "question", "answer"]}


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def good(number: int, **changes: Any) -> Row:
    row = {
        "sample_id": f"row-{number}",
        "split": "train",
        "image": png(number),
        "caption": f"caption {number}",
        "question": "what is it?",
        "answer": "a thing",
    }
    return {**row, **changes}


def as_column(name: str, values: list[Any]) -> pa.Array:
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return pa.array(raw, pa.binary()).view(CANONICAL[name])


class Run:
    """One validation in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.clean, self.quarantine = (
            folder / name for name in ("raw", "clean", "quarantine")
        )
        for path in (self.raw, self.clean, self.quarantine):
            path.mkdir(parents=True)
        self.report: Report = {}

    def write(self, rows: list[Row], file: str = "part-0", **options: Any) -> "Run":
        names = [name for name in CANONICAL if any(name in row for row in rows)]
        columns = {name: as_column(name, [row.get(name) for row in rows]) for name in names}
        pq.write_table(pa.table(columns), self.raw / f"{file}.parquet", **options)
        return self

    def validate(
        self,
        batch_rows: int = 100,
        workers: int | None = None,
        engine: Engine | None = None,
        kept: Kept | None = None,
        **settings: Any,
    ) -> "Run":
        settings = {"views": ALL_VIEW, "max_dropped_share": 1.0, **settings}
        config = ValidationConfig(**settings)
        self.report = validate(
            *(self.raw, self.clean, self.quarantine, config),
            batch_rows=batch_rows,
            engine=engine or LocalEngine(workers),
            kept=kept,
        )
        return self

    def rows(self, split: str) -> list[Row]:
        path = self.clean / f"{split}.parquet"
        return pq.read_table(path).to_pylist() if path.exists() else []

    def ids(self, split: str) -> list[str]:
        return [row["sample_id"] for row in self.rows(split)]

    def lost(self) -> dict[str, str]:
        rows = pq.read_table(self.quarantine / "rows.parquet").to_pylist()
        return {row["sample_id"]: row["reason"] for row in rows}

    def files(self) -> dict[str, bytes]:
        """All that validation has written."""
        folders = (self.clean, self.quarantine)
        return {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()}


NO_VAL = SplitConfig(val=0.0)


def failure(run: Run, **settings: Any) -> ValidationFailed:
    """Validate, and return the error that must come."""
    with pytest.raises(ValidationFailed) as error:
        run.validate(**settings)
    assert "\n" not in str(error.value)
    return error.value
