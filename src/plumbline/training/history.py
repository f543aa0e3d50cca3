"""What training measured, row by row; it lies beside the checkpoints and ends in the outputs."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.training.clock import Best, Clock

Row = dict[str, float | int]

Skipped = dict[str, int | str]

MICRO_STEPS = ("micro_step", "global_step")


@dataclass
class History:
    """What was measured, as tables of plain numbers; none holds a time."""

    steps: list[Row] = field(default_factory=list)
    """global_step, micro_step, epoch, samples, loss, lr, grad_norm."""
    micro: list[Row] = field(default_factory=list)
    """Of each batch micro_step, global_step (the step that it belongs to), loss, count; written as
    rows of micro_step, global_step, name, value."""
    validations: list[Row] = field(default_factory=list)
    """global_step, epoch and the validation metrics."""
    skipped: list[Skipped] = field(default_factory=list)
    """Steps left out: global_step, micro_step, epoch, reason, samples (their numbers)."""
    splits: list[Skipped] = field(default_factory=list)
    """Steps made again in smaller micro-batches: global_step, micro_step, epoch, micro_batch_size
    (from here on), reason."""

    def tables(self) -> dict[str, list[Row] | list[Skipped]]:
        """The tables themselves by their names, to be read or filled."""
        return {
            "steps": self.steps,
            "micro": self.micro,
            "validations": self.validations,
            "skipped": self.skipped,
            "splits": self.splits,
        }

    def write(self, folder: Path) -> None:
        """Write `train.csv`, `micro.csv`, `val.csv`, `skipped.csv`, `splits.csv`, floats exactly.

        A table without rows is not written. When a step was, the run record says: outputs hold no
        times.
        """
        tables: dict[str, Sequence[Mapping[str, float | int | str]]] = {
            "train": self.steps,
            "micro": [named for row in self.micro for named in _by_name(row)],
            "val": self.validations,
            "skipped": self.skipped,
            "splits": self.splits,
        }
        for name, rows in tables.items():
            if rows:
                (folder / f"{name}.csv").write_text(_as_csv(rows), encoding="utf-8")


def _by_name(row: Row) -> Iterator[dict[str, float | int | str]]:
    """The values of a batch, each as a row of its own."""
    steps = {name: row[name] for name in MICRO_STEPS}
    for name, value in row.items():
        if name not in steps:
            yield {**steps, "name": name, "value": value}


def _as_csv(rows: Sequence[Mapping[str, float | int | str]]) -> str:
    # Of all rows: a metric may have no value in the first validation, or in the last.
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    # csv writes a float as the shortest text that reads back as the same one.
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@dataclass(frozen=True)
class FitResult:
    """What a finished training has to say; the model itself holds the best weights."""

    history: History
    clock: Clock
    best: Best
    frozen_tensors: int
    facts: Mapping[str, object] = field(default_factory=dict)
    """Device, precision and the like: for the run record, not for outputs."""
