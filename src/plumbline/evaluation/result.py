"""What every evaluation of a model gives, whatever its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from plumbline.config import Config
from plumbline.data.csv_writer import write_csv
from plumbline.files import dump_json
from plumbline.loading.cache_reader import TrainingCache
from plumbline.metrics.known import leave_out_undefined, say_left_out
from plumbline.models.stored import Stored

Row = Mapping[str, object]


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model on one split, and what they were computed from."""

    metrics: Mapping[str, float | None]
    """Every figure, None where one means nothing for the data; the first of them are what DVC
    compares from run to run."""
    predictions: Sequence[Row] | None = None
    """One row per sample, all with the same keys; `sample_id` or `image` tells which. None: what is
    measured is no answer to a sample."""
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Name -> rows of a CSV, such as a confusion matrix."""
    details: Mapping[str, object] = field(default_factory=dict)
    """What a reader should know of the figures, such as the signature of a metric."""
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Name -> what is stored as .npy, such as embeddings."""
    examples: Sequence[Row] | None = None
    """What the report shows; None: nothing."""


def settle(result: Evaluation) -> tuple[dict[str, float], Evaluation]:
    """The figures that have a value, and the result with the others told in a line and in details.

    Returns:
        What is written as metrics, and the result, whose details say why a figure is `left_out`.
    """
    defined, reasons = leave_out_undefined(result.metrics)
    say_left_out(reasons)
    details = {**result.details, "left_out": reasons} if reasons else result.details
    return defined, replace(result, metrics=defined, details=details)


@dataclass(frozen=True)
class EvaluationJob:
    """A model and what it is to be measured on."""

    stored: Stored[Any, Any]
    """Of the classes of its kind, whose evaluation takes them as such."""
    cache: TrainingCache
    config: Config
    """Section `evaluate`, of the class that its kind names."""
    device: torch.device


def write_evaluation(result: Evaluation, out: Path) -> None:
    """Write predictions, tables, arrays and examples, those that there are, into a folder."""
    if result.predictions is not None:
        table = pa.Table.from_pylist(result.predictions)
        pq.write_table(table, out / "predictions.parquet", compression="zstd")
    for name, array in result.arrays.items():
        with (out / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
    if result.examples is not None:
        (out / "examples.json").write_text(dump_json(result.examples), encoding="utf-8")
    for name, rows in result.tables.items():
        if rows:
            write_csv(pa.Table.from_pylist(rows), out / f"{name}.csv")
