"""Task `regression`: a number per part of the dataset, from any modality."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import DataError
from plumbline.loading.cache_reader import TrainingCache, group_rows
from plumbline.loading.inputs import Input
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.losses.regression import squared_error
from plumbline.models.classifier import Classifier, RegressorSpec, head_name
from plumbline.models.config import ClassifierConfig
from plumbline.tasks.base import JobContext, Task, TrainingJob
from plumbline.tasks.classification import start_encoder
from plumbline.tasks.config import RegressionTaskConfig
from plumbline.tasks.token_rows import sample_numbers


class NumberedRows:
    """One sample per distinct input of a split, with its number in each part that has one."""

    def __init__(
        self, cache: TrainingCache, split: str, inputs: Input, source: str, spec: RegressorSpec
    ) -> None:
        """Find the inputs that have a number.

        Raises:
            DataError: there is none.
        """
        self._inputs = inputs
        rows, values = cache.rows(split), cache.values(split)
        groups = group_rows(np.where(np.isnan(values), -1, rows[source]).astype(np.int32))
        if not groups:
            raise DataError(f"{cache.folder}: no {source} with a value in split {split!r}")
        self.numbers = np.array([rows[source][group[0]] for group in groups])
        """[samples] numbers of the inputs in the cache."""
        self.values = np.full((len(groups), len(spec.parts)), np.nan)
        """[samples, parts], in the units of the data; NaN where there is none."""
        at = {cache.facts["parts"].index(part): place for place, part in enumerate(spec.parts)}
        self.rows = np.array([group[0] for group in groups])
        """[samples] position of each sample's first row in the split."""
        for row, group in enumerate(groups):
            for position in group[::-1]:
                self.values[row, at[rows["part"][position]]] = values[position]
        mean = np.array([spec.mean[part] for part in spec.parts])
        std = np.array([spec.std[part] for part in spec.parts])
        self._standardized = ((self.values - mean) / std).astype(np.float32)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.numbers)

    def length(self, index: int) -> int:
        """Steps or tokens of a sample."""
        return self._inputs.length(int(self.numbers[index]))

    def sample(self, index: int, epoch: int) -> Sample:
        """An input and its standardised numbers."""
        value = self._inputs.fetch(int(self.numbers[index]))
        return {
            "index": index,
            "epoch": epoch,
            "value": value,
            "targets": self._standardized[index],
        }


def collate(samples: Sequence[Sample], *, inputs: Input, seed: int, training: bool) -> Batch:
    """Stack inputs and numbers.

    Returns:
        what `inputs` collates, under `inputs`; targets [batch, parts] float32, NaN where there is
        none; sample_index [batch].
    """
    draws = None
    if training:
        draws = [keyed_generator(seed, "augment", s["epoch"], s["index"]) for s in samples]
    numbers = sample_numbers(samples)
    return {
        "inputs": inputs.collate([sample["value"] for sample in samples], numbers, draws),
        "targets": torch.from_numpy(np.stack([sample["targets"] for sample in samples])),
        "sample_index": torch.tensor(numbers),
    }


def loss(model: nn.Module, batch: Batch, *, parts: Sequence[str]) -> LossSum:
    """Squared error of the standardised numbers, over those that are there."""
    outputs = model(**batch["inputs"])
    predicted = torch.cat([outputs[head_name(part)] for part in parts], dim=1)
    return squared_error(predicted, batch["targets"])


def build(
    context: JobContext, model_config: ClassifierConfig, config: RegressionTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        ConfigError: no encoder.
        DataError: the dataset has no numbers, or a split none.
    """
    cache, seed = context.cache, context.seed
    if not cache.facts["values"]:
        raise DataError(f"{cache.folder}: this dataset has no values to predict")
    torch.manual_seed(keyed_seed(seed, "weights"))
    start = start_encoder(context, model_config, config.inputs)
    facts = cache.facts["values"]
    parts = list(facts)
    spec = RegressorSpec(
        model=model_config.model_copy(update={"encoder": start.config}).without_sources(),
        inputs=config.inputs,
        channels=getattr(start.inputs, "channels", None),
        parts=parts,
        mean={part: facts[part]["mean"] for part in parts},
        std={part: facts[part]["std"] or 1.0 for part in parts},
        vocab_size=cache.facts["vocab_size"],
        special_ids=cache.facts["special_ids"],
    )
    source = partial(
        NumberedRows, cache, inputs=start.inputs, source=config.inputs.source, spec=spec
    )
    bound = partial(collate, inputs=start.inputs, seed=seed)
    squared = partial(loss, parts=parts)
    return TrainingJob(
        model=Classifier(start.encoder, dict.fromkeys(parts, 1), model_config.head_dropout),
        task=Task("regression", partial(bound, training=True), squared),
        train=source(split="train"),
        validation=source(split="val") if context.has_validation else None,
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs={**context.inputs(model_config.sources()), **start.digest},
        validation_task=Task("regression", partial(bound, training=False), squared),
    )
