"""The training of a forecast."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from plugins.forecast.model import Forecaster, ForecastSpec
from plugins.forecast.settings import ForecastConfig, ForecastTaskConfig
from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import DataError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.random import keyed_seed
from plumbline.training.task import JobContext, Task, TrainingJob


class Sequences:
    """The feature sequences of a split."""

    def __init__(self, cache: TrainingCache, split: str, inputs: Input) -> None:
        """Find them.

        Raises:
            DataError: there is none.
        """
        numbers = cache.rows(split)["features"]
        self.numbers, self._inputs = np.unique(numbers[numbers >= 0]), inputs
        if not len(self.numbers):
            raise DataError(f"{cache.folder}: no features in split {split!r}")

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.numbers)

    def sample(self, index: int, epoch: int) -> Sample:
        """A sequence."""
        return {"index": index, "value": self._inputs.fetch(int(self.numbers[index]))}


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
    context: JobContext, model_config: ForecastConfig, config: ForecastTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

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
        inputs=context.open_sources({}).digests,
    )
