"""What `plugins/waves.py` names and what needs torch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.waves import ForecastModelConfig, ForecastTaskConfig, RecurrentConfig
from plumbline.batch import IGNORE_INDEX, Batch, LossSum, Sample
from plumbline.errors import DataError
from plumbline.evaluation.config import TaskEvaluationConfig
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.export.config import ExportConfig
from plumbline.export.plan import BundlePlan
from plumbline.kinds.headed.model import encoder_for
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import FeaturesInputConfig
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_seed
from plumbline.models.device import to_device
from plumbline.models.encoders import Encoded, Encoder
from plumbline.models.spec import ModelSpec
from plumbline.training.task import JobContext, Task, TrainingJob


class RecurrentEncoder(Encoder):
    """Its tokens know the steps up to their own; the last one stands for the sequence."""

    def __init__(self, config: RecurrentConfig, *, channels: int) -> None:
        """Build for inputs of `channels` features a step."""
        super().__init__()
        self.cells = nn.GRU(channels, config.width, batch_first=True)
        self.width = self.token_width = config.width

    def forward(self, steps: Tensor, mask: Tensor, **others: Any) -> Encoded:
        """Encode [batch, steps, channels] under mask [batch, steps]."""
        tokens, _ = self.cells(steps)
        last = mask.sum(dim=1) - 1
        rows = torch.arange(len(steps), device=steps.device)
        return Encoded(tokens * mask.unsqueeze(-1), tokens[rows, last], mask)


def brier(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Sum the squared errors of the probabilities: a `ClassLoss`.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    known = labels != IGNORE_INDEX
    truth = functional.one_hot(labels.where(known, 0), logits.shape[1]).float()
    truth = truth * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    errors = (logits.float().softmax(dim=1) - truth).square().sum(dim=1)
    if weights is not None:
        errors = errors * weights.to(errors)[labels.where(known, 0)]
    return LossSum((errors * known).sum(), known.sum())


class Forecaster(nn.Module):
    """An encoder whose tokens say what the next step will be."""

    def __init__(self, config: ForecastModelConfig, channels: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.encoder = encoder_for(config.encoder, channels, vocab_size=0)
        self.head = nn.Linear(self.encoder.token_width, channels)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, steps, channels] to the step after each."""
        out: Tensor = self.head(self.encoder(steps=steps, mask=mask).tokens)
        return out


class ForecastSpec(ModelSpec):
    """How to build and feed a forecaster: what is stored beside its weights."""

    kind: Literal["forecast"] = "forecast"
    model: ForecastModelConfig
    inputs: FeaturesInputConfig
    channels: int

    def build(self, architecture: Path | None) -> Forecaster:
        """See `ModelSpec`."""
        return Forecaster(self.model, self.channels)


class Sequences:
    """The feature sequences of a split."""

    def __init__(self, cache: TrainingCache, split: str, inputs: Input) -> None:
        """Find them.

        Raises:
            DataError: there is none.
        """
        numbers = cache.rows(split)["features"]
        self._numbers, self._inputs = np.unique(numbers[numbers >= 0]), inputs
        if not len(self._numbers):
            raise DataError(f"{cache.folder}: no features in split {split!r}")

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._numbers)

    def sample(self, index: int, epoch: int) -> Sample:
        """A sequence."""
        return {"index": index, "value": self._inputs.fetch(int(self._numbers[index]))}


def collate(samples: Sequence[Sample], *, inputs: Input) -> Batch:
    """Pad sequences: steps [batch, steps, channels], mask [batch, steps], sample_index [batch]."""
    numbers = [sample["index"] for sample in samples]
    batch = inputs.collate([sample["value"] for sample in samples], numbers, None)
    return {**batch, "sample_index": torch.tensor(numbers)}


def squared_error(predicted: Tensor, batch: Batch) -> LossSum:
    """Sum the squared errors of [batch, steps - 1, channels] from the steps after the first."""
    known = batch["mask"][:, 1:].unsqueeze(-1).expand_as(predicted)
    errors = (predicted.float() - batch["steps"][:, 1:]).square()
    return LossSum((errors * known).sum(), known.sum())


def loss(model: nn.Module, batch: Batch) -> LossSum:
    """Forecast every step from those before it."""
    return squared_error(model(batch["steps"][:, :-1], batch["mask"][:, :-1]), batch)


def build(
    context: JobContext, model_config: ForecastModelConfig, config: ForecastTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache: what `KINDS` names.

    Raises:
        DataError: a split has no features.
    """
    inputs = build_input(config.inputs, context.cache, cache_bytes=context.cache_bytes)
    channels = int(context.cache.facts["features"]["channels"])
    torch.manual_seed(keyed_seed(context.seed, "weights"))
    val = Sequences(context.cache, "val", inputs) if context.has_validation else None
    return TrainingJob(
        model=Forecaster(model_config, channels),
        task=Task("forecast", partial(collate, inputs=inputs), loss),
        train=Sequences(context.cache, "train", inputs),
        validation=val,
        spec=ForecastSpec(model=model_config, inputs=config.inputs, channels=channels),
        tokenizer=None,
        inputs=context.inputs([]),
    )


@torch.inference_mode()
def evaluate(job: EvaluationJob) -> Evaluation:
    """The mean squared error, beside that of saying that nothing changes."""
    spec, config = job.stored.spec, job.config
    assert isinstance(spec, ForecastSpec)
    assert isinstance(config, TaskEvaluationConfig)
    inputs = build_input(spec.inputs, job.cache)
    rows = Sequences(job.cache, config.split, inputs)
    loader = Loader(
        rows,
        partial(collate, inputs=inputs),
        LoaderConfig(batch_size=config.batch_size),
        seed=0,
        shuffle=False,
    )
    model = job.stored.model.to(job.device)
    totals = {"mse": 0.0, "unchanged_mse": 0.0}
    count, predictions = 0, []
    for cpu_batch in loader.batches(epoch=0):
        batch = to_device(cpu_batch, job.device)
        seen = batch["steps"][:, :-1]
        predicted = model(seen, batch["mask"][:, :-1])
        ours, unchanged = squared_error(predicted, batch), squared_error(seen, batch)
        totals["mse"] += float(ours.total)
        totals["unchanged_mse"] += float(unchanged.total)
        count += int(ours.count)
        predictions += [
            {"sample": int(index), "first_forecast": row[0].tolist()}
            for index, row in zip(batch["sample_index"], predicted.cpu(), strict=True)
        ]
    metrics = {name: total / count for name, total in totals.items()}
    return Evaluation({**metrics, "samples": float(len(rows))}, predictions)


class ForecastPlan(BundlePlan[ExportConfig]):
    """Exports the weights alone: `formats: []`."""

    def contract(self) -> dict[str, Any]:
        """See `BundlePlan`."""
        return {"task": "forecast"}
