"""Waves: a source, an encoder, a loss, a schedule, and a kind of task that forecasts."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from plumbline.config import Config
from plumbline.data.arrays import encode_array
from plumbline.evaluation.config import TaskEvaluationConfig
from plumbline.evaluation.kinds import EVALUATIONS, EvaluationKind
from plumbline.export.config import ExportConfig
from plumbline.export.kinds import EXPORTS, ExportKind
from plumbline.loading.input_config import FeaturesInputConfig
from plumbline.losses.registry import CLASS_LOSSES
from plumbline.models.encoder_config import ENCODERS, AnyEncoder, EncoderConfig
from plumbline.models.spec import SPECS
from plumbline.sources.base import SOURCES, Source
from plumbline.sources.rows import make_batches
from plumbline.tasks.kinds import KINDS, TaskKind
from plumbline.training.schedule import SCHEDULES, ScheduleConfig, ScheduleCurve
from plumbline.training.task_config import TaskConfig


class WavesSource(Source):
    """Made-up waves, slow or fast."""

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
        return make_batches(rows, ["sample_id", "features", "label"])

    def _row(self, number: int) -> dict[str, bytes | None]:
        random = np.random.default_rng([self.seed, number])
        fast = bool(random.integers(2))
        time = np.arange(random.integers(20, 40)) * (0.9 if fast else 0.3) + random.random()
        steps = np.stack([np.sin(time), np.cos(time)], axis=1)
        noisy = steps + random.normal(0, 0.05, steps.shape)
        label = b"fast" if fast else b"slow"
        return {
            "sample_id": f"wave-{number}".encode(),
            "features": encode_array(noisy),
            "label": label,
        }


class RecurrentConfig(EncoderConfig):
    """A recurrent network over steps."""

    builder: ClassVar[str] = "plugins._waves:RecurrentEncoder"
    needs: ClassVar[tuple[str, ...]] = ("channels",)
    name: Literal["recurrent"]
    width: int = Field(ge=1)


class ForecastModelConfig(Config):
    """Section `train.model` of a forecast."""

    encoder: AnyEncoder


class ForecastTaskConfig(TaskConfig):
    """Section `train.task` of a forecast."""

    inputs: FeaturesInputConfig


def stairs(config: ScheduleConfig, step: int, warmup: int, total: int) -> float:
    """Down by `factor` every `steps` optimiser steps."""
    return config.option("factor") ** ((step - warmup) // int(config.option("steps")))


SOURCES.register("waves", WavesSource)
ENCODERS.register("recurrent", RecurrentConfig)
CLASS_LOSSES.register("brier", "plugins._waves:brier")
SCHEDULES.register("stairs", ScheduleCurve(stairs, options={"steps": 20.0, "factor": 0.5}))

KINDS.register(
    "forecast", TaskKind(ForecastModelConfig, ForecastTaskConfig, "plugins._waves:build")
)
SPECS.register("forecast", "plugins._waves:ForecastSpec")
EVALUATIONS.register("forecast", EvaluationKind(TaskEvaluationConfig, "plugins._waves:evaluate"))
EXPORTS.register("forecast", ExportKind(ExportConfig, "plugins._waves:ForecastPlan"))
