"""Task `regression`: a number per part of the dataset, from any modality."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plumbline.batch import Batch, LossSum, Sample, column, sample_numbers
from plumbline.errors import ConfigError, DataError
from plumbline.kinds.headed.model import Classifier
from plumbline.kinds.headed.rows import parts_with_samples
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.kinds.headed.start import start_encoder
from plumbline.kinds.regression.model import RegressorSpec
from plumbline.kinds.regression.rows import NumberedRows
from plumbline.kinds.regression.settings import VALUE_LOSSES, RegressionTaskConfig
from plumbline.loading.inputs import Input
from plumbline.loading.random import keyed_seed
from plumbline.losses.regression import ValueLoss
from plumbline.registry import load_attribute
from plumbline.shapes.moments import Moments
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import JobContext, Task, TrainingJob


@dataclass(frozen=True)
class Scale:
    """What numbers and their weights are measured in."""

    mean: NDArray[np.float64]
    """[parts] of the numbers in training."""
    std: NDArray[np.float64]
    """[parts] standard deviations of the same."""
    weight: float | None = None
    """Mean weight in training; None: all numbers weigh the same."""

    @classmethod
    def of(cls, spec: RegressorSpec) -> "Scale":
        """The scale that a model was trained in."""
        mean, std = ([of[part] for part in spec.parts] for of in (spec.mean, spec.std))
        return cls(np.array(mean), np.array(std))


def collate(
    samples: Sequence[Sample],
    *,
    inputs: Input,
    scale: Scale,
    seed: int,
    training: bool,
    raw: bool = False,
) -> Batch:
    """Stack inputs and standardised numbers; `raw`: the device finishes the inputs, where it can.

    Returns:
        what `inputs` collates, under `inputs`; targets [batch, parts] float32, NaN where there is
        none; weights [batch, parts] float32, where numbers have weights; sample_index [batch].
    """
    draws = inputs.draws(samples, seed) if training else None
    stack = inputs.collate_raw if raw else inputs.collate
    numbers = sample_numbers(samples)
    # In float64: large numbers that differ little would lose their digits as float32.
    targets = (np.asarray(column(samples, "targets")) - scale.mean) / scale.std
    weights: Batch = {}
    if scale.weight is not None:
        stacked = np.asarray(column(samples, "weights")) / scale.weight
        weights["weights"] = torch.from_numpy(stacked.astype(np.float32))
    return {
        **weights,
        "inputs": stack(column(samples, "value"), numbers.tolist(), draws),
        "targets": torch.from_numpy(targets.astype(np.float32)),
        "sample_index": torch.from_numpy(numbers),
    }


def loss(model: nn.Module, batch: Batch, *, parts: Sequence[str], value_loss: ValueLoss) -> LossSum:
    """The loss of the standardised numbers, over those that are there."""
    outputs = model(**batch["inputs"])
    predicted = torch.cat([outputs[part] for part in parts], dim=1)  # [batch, parts]
    return value_loss(predicted, batch["targets"], weights=batch.get("weights"))


def mean_weight(rows: NumberedRows) -> float:
    """Mean weight over the numbers of a split.

    Raises:
        ConfigError: there are no weights, or all are 0.
    """
    if rows.weights is None:
        raise ConfigError(
            "task.row_weights is true, but the dataset has no column weight: map one in "
            "prepare.columns, or set it to false"
        )
    # Weights are divided by it, so that they do not change the size of a step.
    mean = float(rows.weights[~np.isnan(rows.values)].mean())
    if not mean:
        raise ConfigError("task.row_weights is true, but all training rows weigh 0")
    return mean


def moments_of(rows: NumberedRows) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each part over its samples: [parts] each."""
    found = []
    for values in rows.values.T:
        moments = Moments(1)
        moments.add(values[~np.isnan(values), None])
        found.append((moments.mean()[0], moments.std()[0]))
    return [mean for mean, _ in found], [std for _, std in found]


def build(
    context: JobContext, model_config: ClassifierConfig, config: RegressionTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        ConfigError: no encoder, or weights asked for that the dataset does not have.
        DataError: the dataset has no numbers, or a split none.
    """
    cache, seed = context.cache, context.seed
    if not cache.facts["values"]:
        raise DataError(f"{cache.folder}: this dataset has no values to predict")
    torch.manual_seed(keyed_seed(seed, "weights"))
    start = start_encoder(context, model_config, config.inputs)
    source_column = config.inputs.source
    parts = parts_with_samples(cache.facts["values"], cache, source_column, "value")
    source = partial(NumberedRows, cache, inputs=start.inputs, source=source_column, parts=parts)
    # The scale is that of training alone: validation and test are measured in it.
    train = source(split="train")
    mean, std = moments_of(train)
    spec = RegressorSpec(
        model=model_config.model_copy(update={"encoder": start.config}).without_sources(),
        inputs=start.input_config,
        channels=getattr(start.inputs, "channels", None),
        parts=parts,
        mean=dict(zip(parts, mean, strict=True)),
        # Where all numbers are equal there is no deviation to divide by.
        std={part: found or 1.0 for part, found in zip(parts, std, strict=True)},
        vocab_size=cache.facts["vocab_size"],
        special_ids=SpecialIds(**ids) if (ids := cache.facts["special_ids"]) else None,
    )
    scale = Scale.of(spec)
    if config.row_weights:
        scale = replace(scale, weight=mean_weight(train))
    inputs, train, validation = start.keep(
        context, train, source(split="val") if context.has_validation else None
    )
    bound = partial(collate, inputs=inputs, scale=scale, seed=seed)
    bound_loss = partial(loss, parts=parts, value_loss=load_attribute(VALUE_LOSSES[config.loss]))

    def task(*, training: bool) -> Task:
        whole, raw = (partial(bound, training=training, raw=raw) for raw in (False, True))
        return Task("regression", whole, bound_loss, collate_raw=raw)

    return TrainingJob(
        model=Classifier(start.encoder, dict.fromkeys(parts, 1), model_config.head_dropout),
        task=task(training=True),
        train=train,
        validation=validation,
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs=start.digests,
        validation_task=task(training=False),
    )
