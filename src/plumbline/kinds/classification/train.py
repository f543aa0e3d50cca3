"""Task `classification`: one class per part of the dataset, from any modality.

A dataset of one part gives ordinary classification. Of several parts, each with labels of its own,
all share the encoder and each has a head; what is there once in each part is encoded once.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from plumbline.batch import IGNORE_INDEX, Batch, LossSum, Sample, column, sample_numbers
from plumbline.errors import ConfigError, DataError
from plumbline.kinds.classification.loss import chosen_loss
from plumbline.kinds.classification.model import ClassifierSpec
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.classification.settings import ClassificationTaskConfig
from plumbline.kinds.headed.evaluate import predict
from plumbline.kinds.headed.model import Classifier
from plumbline.kinds.headed.rows import parts_with_samples
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.kinds.headed.start import start_encoder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import Input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_seed
from plumbline.losses.class_weights import ClassWeights, class_weights
from plumbline.losses.classification import ClassLoss
from plumbline.metrics.classification import accuracy, confusion_matrix, macro_f1
from plumbline.metrics.known import figure_name, split_part
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import JobContext, Task, TrainingJob


def collate(
    samples: Sequence[Sample],
    *,
    inputs: Input,
    parts: Sequence[str],
    seed: int,
    training: bool,
    raw: bool = False,
) -> Batch:
    """Stack values and labels; `raw`: the device finishes the values, where it can.

    Returns:
        what `inputs` collates, under `inputs`; labels: part -> [batch]; sample_index [batch].
    """
    draws = inputs.draws(samples, seed) if training else None
    stack = inputs.collate_raw if raw else inputs.collate
    numbers = sample_numbers(samples)
    labels = torch.from_numpy(np.asarray(column(samples, "labels")))  # [batch, parts]
    return {
        "inputs": stack(column(samples, "value"), numbers.tolist(), draws),
        "labels": {part: labels[:, at] for at, part in enumerate(parts)},
        "sample_index": torch.from_numpy(numbers),
    }


def loss(
    model: nn.Module,
    batch: Batch,
    *,
    class_loss: ClassLoss,
    weights: Mapping[str, Tensor | None],
    label_smoothing: float = 0.0,
) -> LossSum:
    """Add up the losses of all heads; each counts the rows whose label it knows."""
    logits = model(**batch["inputs"])
    sums = [
        class_loss(
            logits[part],
            labels,
            weights=weights[part],
            label_smoothing=label_smoothing,
        )
        for part, labels in batch["labels"].items()
    ]
    # Sums and counts apart: every label weighs the same, whichever head it is for.
    return LossSum(
        torch.stack([found.total for found in sums]).sum(),
        torch.stack([found.count for found in sums]).sum(),
    )


def validation_metrics(
    model: nn.Module, *, loader: Loader, rows: LabelledRows, parts: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro-F1 of each head, and their means where there are several.

    A part of one class alone has neither: a constant answer would be right.
    """
    logits = predict(model, loader, next(model.parameters()).device)
    figures: dict[str, float] = {}
    for at, part in telling_parts(rows, parts):
        labels = rows.labels[:, at]
        known = labels != IGNORE_INDEX
        chosen, classes = logits[part][known].argmax(axis=1), logits[part].shape[1]  # [known]
        confusion = confusion_matrix(chosen, labels[known], classes)
        figures[figure_name(part, "accuracy")] = accuracy(chosen, labels[known])
        figures[figure_name(part, "macro_f1")] = macro_f1(confusion)
    if len(parts) > 1 and figures:
        for name in ("accuracy", "macro_f1"):
            # Heads weigh the same in these, however many labels each has.
            of_heads = [value for key, value in figures.items() if split_part(key)[1] == name]
            figures[f"mean_{name}"] = float(np.mean(of_heads))
    return figures


def telling_parts(rows: LabelledRows, parts: Sequence[str]) -> list[tuple[int, str]]:
    """Number and name of the parts whose samples are of several classes."""
    return [(at, part) for at, part in enumerate(parts) if np.count_nonzero(rows.counts(at)) > 1]


def metric_names(rows: LabelledRows, parts: Sequence[str]) -> list[str]:
    """Names of `validation_metrics`."""
    telling = [part for _, part in telling_parts(rows, parts)]
    names = [figure_name(part, name) for part in telling for name in ("accuracy", "macro_f1")]
    means = ["mean_accuracy", "mean_macro_f1"] if len(parts) > 1 and telling else []
    return names + means


def build(
    context: JobContext, model_config: ClassifierConfig, config: ClassificationTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        ConfigError: no encoder, or class counts or weights that contradict the data.
        DataError: the dataset has no labels, or a split none.
    """
    cache, seed = context.cache, context.seed
    classes = cache.classes()
    if not classes:
        raise DataError(f"{cache.folder}: this dataset has no labels")
    _check_classes(model_config, config, classes, cache)
    # The next draws are the weights of the encoder, then those of the heads.
    torch.manual_seed(keyed_seed(seed, "weights"))
    start = start_encoder(context, model_config, config.inputs)
    source_column = config.inputs.source
    parts = parts_with_samples(classes, cache, source_column, "label")
    classes = {part: classes[part] for part in parts}
    spec = ClassifierSpec(
        model=model_config.model_copy(update={"encoder": start.config}).without_sources(),
        inputs=start.input_config,
        channels=getattr(start.inputs, "channels", None),
        classes=classes,
        vocab_size=cache.facts["vocab_size"],
        special_ids=SpecialIds(**ids) if (ids := cache.facts["special_ids"]) else None,
    )
    source = partial(LabelledRows, cache, inputs=start.inputs, source=source_column, parts=parts)
    inputs, train, validation = start.keep(
        context, source(split="train"), source(split="val") if context.has_validation else None
    )
    bound = partial(collate, inputs=inputs, parts=parts, seed=seed)
    augmented = partial(bound, training=True)
    # Class weights are counted on what trains, never on what is measured.
    weights = {
        part: _weights(config, part, train.counts(at, len(classes[part])))
        for at, part in enumerate(parts)
    }
    smoothed = partial(
        loss,
        class_loss=chosen_loss(config),
        weights=weights,
        label_smoothing=config.label_smoothing,
    )
    heads = {part: len(names) for part, names in classes.items()}
    return TrainingJob(
        model=Classifier(start.encoder, heads, model_config.head_dropout),
        task=Task("classification", augmented, smoothed, collate_raw=partial(augmented, raw=True)),
        train=train,
        validation=validation,
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs=start.digests,
        validation_task=_validation_task(
            validation, partial(bound, training=False), smoothed, parts
        )
        if validation
        else None,
    )


def _validation_task(
    rows: LabelledRows, bound: partial[Batch], smoothed: partial[LossSum], parts: Sequence[str]
) -> Task:
    """The task without augmentation, with the figures of every head over the whole split."""
    measured = partial(
        validation_metrics, loader=evaluation_loader(rows, bound), rows=rows, parts=parts
    )
    names = metric_names(rows, parts)
    return Task(
        "classification",
        bound,
        smoothed,
        validation_metrics=measured,
        metric_names=names,
        collate_raw=partial(bound, raw=True),
    )


def evaluation_loader(rows: LabelledRows, bound: partial[Batch], batch_size: int = 256) -> Loader:
    """All samples in order, for `predict`."""
    # Predictions are joined to samples by their position, and inputs finished where they are used.
    raw = partial(bound, raw=True)
    return Loader(rows, raw, LoaderConfig(batch_size=batch_size), seed=0, shuffle=False)


def _check_classes(
    model_config: ClassifierConfig,
    config: ClassificationTaskConfig,
    classes: Mapping[str, list[str]],
    cache: TrainingCache,
) -> None:
    weighted = config.class_weights if isinstance(config.class_weights, dict) else {}
    if unknown := [part for part in weighted if part not in classes]:
        raise ConfigError(
            f"task.class_weights has part {unknown[0]!r}, but {cache.folder} has parts "
            f"{', '.join(map(repr, classes))}"
        )
    for part, wanted in model_config.num_classes.items():
        there = len(classes.get(part, []))
        if wanted != there:
            raise ConfigError(
                f"model.num_classes.{part} = {wanted}, but part {part!r} of {cache.folder} has "
                f"{there} classes: leave it out, the data settings decide"
            )


def _weights(config: ClassificationTaskConfig, part: str, counts: Sequence[int]) -> Tensor | None:
    """Weights of a part's classes, from the samples that train."""
    how = config.class_weights
    chosen: ClassWeights = "none"
    if isinstance(how, dict):
        # A part that is not named weighs all its classes the same.
        chosen = how.get(part, "none")
    elif how == "balanced":
        chosen = "balanced"
    try:
        figures = class_weights(chosen, counts)
    except ValueError as error:
        raise ConfigError(f"task.class_weights of part {part!r}: {error}") from None
    return None if figures is None else torch.tensor(figures, dtype=torch.float32)
