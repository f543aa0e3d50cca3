"""Waves: a source, an encoder, a loss, a metric and a schedule."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from plumbline.data.arrays import encode_array
from plumbline.kinds.classification.settings import CLASS_LOSSES
from plumbline.metrics.known import METRICS, Metric
from plumbline.models.encoder_config import ENCODERS, EncoderConfig
from plumbline.sources.base import SOURCES, Source
from plumbline.sources.rows import make_batches
from plumbline.training.schedule import SCHEDULES, ScheduleConfig, ScheduleCurve


class WavesSource(Source):
    """Made-up waves, slow or fast, and their heights as letters."""

    source: Literal["waves"]
    waves: int = Field(ge=1)
    seed: int = 0

    @property
    def given_splits(self) -> list[str]:
        """None: a hash splits them."""
        return []

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows; nothing is read from `path`."""
        rows = (self._row(number) for number in range(self.waves))
        return make_batches(rows, ["sample_id", "features", "label", "text"])

    def _row(self, number: int) -> dict[str, bytes | None]:
        random = np.random.default_rng([self.seed, number])
        fast = bool(random.integers(2))
        time = np.arange(random.integers(20, 40)) * (0.9 if fast else 0.3) + random.random()
        steps = np.stack([np.sin(time), np.cos(time)], axis=1)
        noisy = steps + random.normal(0, 0.05, steps.shape)
        heights = np.rint(3 * np.sin(time)).astype(int) + 3
        label = b"fast" if fast else b"slow"
        return {
            "sample_id": f"wave-{number}".encode(),
            "features": encode_array(noisy),
            "label": label,
            "text": "".join("abcdefg"[height] for height in heights).encode(),
        }


class CausalConfig(EncoderConfig):
    """Convolutions over the steps up to each one."""

    builder: ClassVar[str] = "plugins._waves:CausalEncoder"
    needs: ClassVar[tuple[str, ...]] = ("channels",)
    name: Literal["causal"]
    width: int = Field(ge=1)
    layers: int = Field(ge=1)


def stairs(config: ScheduleConfig, step: int, warmup: int, total: int) -> float:
    """Down by `factor` every `steps` optimiser steps."""
    return config.option("factor") ** ((step - warmup) // int(config.option("steps")))


SOURCES.register("waves", WavesSource)
ENCODERS.register("causal", CausalConfig)
CLASS_LOSSES.register("brier", "plugins._waves:brier")
SCHEDULES.register("stairs", ScheduleCurve(stairs, options={"steps": 20.0, "factor": 0.5}))
METRICS.register("unchanged_mse", Metric("min"))
