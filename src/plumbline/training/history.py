"""What training measured, row by row; it travels in the checkpoint and ends in the outputs."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, float | int]


@dataclass
class History:
    """Three tables: optimiser steps, micro-batches, validations. None holds a time."""

    steps: list[Row] = field(default_factory=list)
    """global_step, micro_step, epoch, samples, loss, lr, grad_norm."""
    micro: list[Row] = field(default_factory=list)
    """micro_step, global_step (the step that it belongs to), loss, count."""
    validations: list[Row] = field(default_factory=list)
    """global_step, epoch and the validation metrics."""

    def state(self) -> dict[str, list[Row]]:
        """The tables as plain data, for a checkpoint."""
        return {"steps": self.steps, "micro": self.micro, "validations": self.validations}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "History":
        """The inverse of `state`."""
        return cls(**state)

    def write(self, folder: Path) -> None:
        """Write `train.csv`, `micro.csv` and, where there is any, `val.csv`; floats exactly."""
        for name, rows in (
            ("train", self.steps),
            ("micro", self.micro),
            ("val", self.validations),
        ):
            if rows:
                (folder / f"{name}.csv").write_text(_as_csv(rows))


def _as_csv(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
