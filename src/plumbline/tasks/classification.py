"""Task `classification`: one class per part of the dataset, from any modality.

A dataset of one part gives ordinary classification. Of several parts, each with labels of its own,
all share the encoder and each has a head; what is there once in each part is encoded once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from plumbline.batch import IGNORE_INDEX, Batch, LossSum, Sample
from plumbline.errors import CheckpointError, ConfigError, DataError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import InputConfig
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.losses.class_weights import ClassWeights, class_weights
from plumbline.losses.classification import ClassLoss
from plumbline.losses.registry import CLASS_LOSSES
from plumbline.metrics.classification import accuracy, confusion_matrix, macro_f1
from plumbline.metrics.known import figure_name, split_part
from plumbline.models.classifier import Classifier, ClassifierSpec, RegressorSpec, encoder_for
from plumbline.models.config import ClassifierConfig
from plumbline.models.device import to_device
from plumbline.models.dual_encoder import DualEncoder, DualEncoderSpec
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig
from plumbline.models.encoders import Encoder
from plumbline.models.stored import holds_model, load_model
from plumbline.registry import load_attribute
from plumbline.tasks.base import JobContext, Task, TrainingJob
from plumbline.tasks.config import ClassificationTaskConfig, check_encoder
from plumbline.tasks.headed_rows import LabelledRows, parts_with_samples
from plumbline.tasks.token_rows import sample_numbers
from plumbline.tracking.progress import tracked


def collate(
    samples: Sequence[Sample], *, inputs: Input, parts: Sequence[str], seed: int, training: bool
) -> Batch:
    """Stack values and labels.

    Returns:
        what `inputs` collates, under `inputs`; labels: part -> [batch]; sample_index [batch].
    """
    draws = None
    if training:
        draws = [keyed_generator(seed, "augment", s["epoch"], s["index"]) for s in samples]
    numbers = sample_numbers(samples)
    labels = torch.from_numpy(np.stack([sample["labels"] for sample in samples]))
    return {
        "inputs": inputs.collate([sample["value"] for sample in samples], numbers, draws),
        "labels": {part: labels[:, at] for at, part in enumerate(parts)},
        "sample_index": torch.tensor(numbers),
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
    return LossSum(
        torch.stack([found.total for found in sums]).sum(),
        torch.stack([found.count for found in sums]).sum(),
    )


@torch.inference_mode()
def predict(
    model: nn.Module, loader: Loader, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Logits [samples, classes] of every head, in the order of an unshuffled loader."""
    model.eval()
    found: dict[str, list[NDArray[np.float32]]] = {}
    for batch in tracked(loader.batches(epoch=0), "predicting", loader.count(0), "batches"):
        for part, logits in model(**to_device(batch["inputs"], device)).items():
            found.setdefault(part, []).append(logits.float().cpu().numpy())
    return {part: np.concatenate(blocks) for part, blocks in found.items()}


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
        chosen, classes = logits[part][known].argmax(axis=1), logits[part].shape[1]
        confusion = confusion_matrix(chosen, labels[known], classes)
        figures[figure_name(part, "accuracy")] = accuracy(chosen, labels[known])
        figures[figure_name(part, "macro_f1")] = macro_f1(confusion)
    if len(parts) > 1 and figures:
        for name in ("accuracy", "macro_f1"):
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


@dataclass(frozen=True)
class Start:
    """The encoder that a headed model begins with, and how its inputs reach it."""

    encoder: Encoder
    config: EncoderConfig
    inputs: Input
    input_config: InputConfig
    digest: dict[str, str]


def start_encoder(
    context: JobContext, model_config: ClassifierConfig, input_config: InputConfig
) -> Start:
    """Build the encoder of a headed model, or take the one that the task starts from.

    Raises:
        ConfigError: the settings name no encoder and the start has none, or one for other inputs.
        CheckpointError: the start is damaged, or its inputs are of another modality.
    """
    config = model_config.encoder
    trained: Encoder | None = None
    digest: dict[str, str] = {}
    if config is None:
        trained, config, spec, digest = _stored_encoder(context.start)
        if spec.inputs.modality != input_config.modality:
            raise CheckpointError(
                f"{context.start}: its encoder takes {spec.inputs.modality}, but "
                f"task.inputs.modality is {input_config.modality}"
            )
        try:  # of an encoder that the settings name they have been checked
            check_encoder(input_config, config, "encoder")
        except ValueError as error:
            raise ConfigError(f"{context.start}: {error}") from None
    size = config.image_size if isinstance(config, ImageEncoderConfig) else None
    inputs = build_input(
        input_config, context.cache, image_size=size, cache_bytes=context.cache_bytes
    )
    channels = getattr(inputs, "channels", None)
    if trained is None:
        trained = encoder_for(config, channels, context.cache.facts["vocab_size"])
    elif spec.channels != channels:
        raise CheckpointError(
            f"{context.start}: its encoder takes {spec.channels} channels, but task.inputs give "
            f"{channels}"
        )
    return Start(trained, config, inputs, input_config, digest)


_Fed = ClassifierSpec | RegressorSpec | DualEncoderSpec


def _stored_encoder(folder: Path) -> tuple[Encoder, EncoderConfig, _Fed, dict[str, str]]:
    if not holds_model(folder):
        raise ConfigError(
            f"model.encoder is null, but the task's start = {folder.as_posix()} holds no model: "
            "set model.encoder, or start from an alignment"
        )
    stored = load_model(folder)
    model, spec = stored.model, stored.spec
    digests = {f"start/{name}": digest for name, digest in stored.digests.items()}
    if isinstance(model, Classifier) and isinstance(spec, ClassifierSpec | RegressorSpec):
        assert spec.model.encoder is not None, "a stored model says which encoder it has"
        return model.encoder, spec.model.encoder, spec, digests
    if isinstance(model, DualEncoder) and isinstance(spec, DualEncoderSpec):
        config = spec.model.image_encoder or spec.model.audio_encoder
        assert config is not None, "an alignment has an encoder of media"
        return model.media_encoder, config, spec, digests
    raise CheckpointError(f"{folder}: a model of kind {spec.kind} has no encoder to start from")


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
    torch.manual_seed(keyed_seed(seed, "weights"))
    start = start_encoder(context, model_config, config.inputs)
    source_column = config.inputs.source
    parts = parts_with_samples(classes, cache, source_column, "label")
    classes = {part: classes[part] for part in parts}
    spec = ClassifierSpec(
        model=model_config.model_copy(update={"encoder": start.config}).without_sources(),
        inputs=config.inputs,
        channels=getattr(start.inputs, "channels", None),
        classes=classes,
        vocab_size=cache.facts["vocab_size"],
        special_ids=cache.facts["special_ids"],
    )
    source = partial(LabelledRows, cache, inputs=start.inputs, source=source_column, parts=parts)
    train = source(split="train")
    bound = partial(collate, inputs=start.inputs, parts=parts, seed=seed)
    class_loss: ClassLoss = load_attribute(CLASS_LOSSES[config.loss])
    weights = {
        part: _weights(config, part, train.counts(at, len(classes[part])))
        for at, part in enumerate(parts)
    }
    smoothed = partial(
        loss, class_loss=class_loss, weights=weights, label_smoothing=config.label_smoothing
    )
    validation = source(split="val") if context.has_validation else None
    heads = {part: len(names) for part, names in classes.items()}
    return TrainingJob(
        model=Classifier(start.encoder, heads, model_config.head_dropout),
        task=Task("classification", partial(bound, training=True), smoothed),
        train=train,
        validation=validation,
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs={**context.inputs(model_config.sources()), **start.digest},
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
    return Task("classification", bound, smoothed, validation_metrics=measured, metric_names=names)


def evaluation_loader(rows: LabelledRows, bound: partial[Batch], batch_size: int = 256) -> Loader:
    """All samples in order."""
    return Loader(rows, bound, LoaderConfig(batch_size=batch_size), seed=0, shuffle=False)


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
        chosen = how.get(part, "none")
    elif how == "balanced":
        chosen = "balanced"
    try:
        figures = class_weights(chosen, counts)
    except ValueError as error:
        raise ConfigError(f"task.class_weights of part {part!r}: {error}") from None
    return None if figures is None else torch.tensor(figures, dtype=torch.float32)
