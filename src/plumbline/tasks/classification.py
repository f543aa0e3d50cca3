"""Task `classification`: one class per part of the dataset, from any modality.

A dataset of one part gives ordinary classification. Of several parts, each with labels of its own,
all share the encoder and each has a head; what is there twice, once per part, is encoded once.
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
from plumbline.loading.cache_reader import TrainingCache, group_rows
from plumbline.loading.input_config import InputConfig
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.losses.class_weights import ClassWeights, class_weights
from plumbline.losses.classification import ClassLoss
from plumbline.losses.registry import CLASS_LOSSES
from plumbline.metrics.classification import accuracy, confusion_matrix, macro_f1
from plumbline.models.classifier import (
    Classifier,
    ClassifierSpec,
    RegressorSpec,
    encoder_for,
    head_name,
)
from plumbline.models.config import ClassifierConfig
from plumbline.models.device import to_device
from plumbline.models.dual_encoder import DualEncoder, DualEncoderSpec
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig
from plumbline.models.encoders import Encoder
from plumbline.models.stored import holds_model, load_model
from plumbline.registry import load_attribute
from plumbline.tasks.base import JobContext, Task, TrainingJob
from plumbline.tasks.config import ClassificationTaskConfig, check_encoder
from plumbline.tasks.token_rows import sample_numbers
from plumbline.tracking.progress import tracked


class LabelledRows:
    """One sample per distinct input of a split, with its label in each part that has one."""

    def __init__(
        self, cache: TrainingCache, split: str, inputs: Input, source: str, parts: Sequence[str]
    ) -> None:
        """Find the labelled inputs.

        Args:
            cache: of the dataset.
            split: name of the split.
            inputs: fetches the values.
            source: column that the values come from.
            parts: in the order of the labels of a sample.

        Raises:
            DataError: there is none.
        """
        self._inputs = inputs
        rows = cache.rows(split)
        labelled = np.where(rows["label"] >= 0, rows[source], -1)
        groups = group_rows(labelled.astype(np.int32))
        if not groups:
            raise DataError(f"{cache.folder}: no {source} with a label in split {split!r}")
        number_of_part = {cache.facts["parts"].index(part): at for at, part in enumerate(parts)}
        self.numbers = np.array([rows[source][group[0]] for group in groups])
        """[samples] numbers of the values in the cache."""
        self.labels = np.full((len(groups), len(parts)), IGNORE_INDEX, np.int64)
        """[samples, parts]; `IGNORE_INDEX` where a part says nothing of a sample."""
        for row, group in enumerate(groups):
            for at in group[::-1]:  # of contradicting labels the first counts
                self.labels[row, number_of_part[rows["part"][at]]] = rows["label"][at]
        self.rows = np.array([group[0] for group in groups])
        """[samples] position of each sample's first row in the split."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.numbers)

    def length(self, index: int) -> int:
        """Steps or tokens of a sample."""
        return self._inputs.length(int(self.numbers[index]))

    def sample(self, index: int, epoch: int) -> Sample:
        """A value and its labels."""
        value = self._inputs.fetch(int(self.numbers[index]))
        return {"index": index, "epoch": epoch, "value": value, "labels": self.labels[index]}


def collate(
    samples: Sequence[Sample], *, inputs: Input, parts: Sequence[str], seed: int, training: bool
) -> Batch:
    """Stack values and labels.

    Returns:
        what `inputs` collates, under `inputs`; labels: head -> [batch]; sample_index [batch].
    """
    draws = None
    if training:
        draws = [keyed_generator(seed, "augment", s["epoch"], s["index"]) for s in samples]
    numbers = sample_numbers(samples)
    labels = torch.from_numpy(np.stack([sample["labels"] for sample in samples]))
    return {
        "inputs": inputs.collate([sample["value"] for sample in samples], numbers, draws),
        "labels": {head_name(part): labels[:, at] for at, part in enumerate(parts)},
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
    parts = [
        class_loss(
            logits[name],
            labels,
            weights=weights[name],
            label_smoothing=label_smoothing,
        )
        for name, labels in batch["labels"].items()
    ]
    return LossSum(
        torch.stack([part.total for part in parts]).sum(),
        torch.stack([part.count for part in parts]).sum(),
    )


@torch.inference_mode()
def predict(
    model: nn.Module, loader: Loader, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Logits [samples, classes] of every head, in the order of an unshuffled loader."""
    model.eval()
    found: dict[str, list[NDArray[np.float32]]] = {}
    for batch in tracked(loader.batches(epoch=0), "predicting", loader.count(0), "batches"):
        for name, logits in model(**to_device(batch["inputs"], device)).items():
            found.setdefault(name, []).append(logits.float().cpu().numpy())
    return {name: np.concatenate(blocks) for name, blocks in found.items()}


def validation_metrics(
    model: nn.Module, *, loader: Loader, rows: LabelledRows, parts: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro-F1 of each head, and their means where there are several."""
    logits = predict(model, loader, next(model.parameters()).device)
    figures: dict[str, float] = {}
    for at, part in enumerate(parts):
        labels = rows.labels[:, at]
        known = labels != IGNORE_INDEX
        if not known.any():
            continue
        name, prefix = head_name(part), f"{part}_" if part else ""
        chosen = logits[name][known].argmax(axis=1)
        classes = logits[name].shape[1]
        figures[f"{prefix}accuracy"] = accuracy(chosen, labels[known])
        figures[f"{prefix}macro_f1"] = macro_f1(confusion_matrix(chosen, labels[known], classes))
    if len(parts) > 1:
        for name in ("accuracy", "macro_f1"):
            of_heads = [value for key, value in figures.items() if key.endswith(f"_{name}")]
            figures[f"mean_{name}"] = float(np.mean(of_heads))
    return figures


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
    parts = list(classes)
    spec = ClassifierSpec(
        model=model_config.model_copy(update={"encoder": start.config}).without_sources(),
        inputs=config.inputs,
        channels=getattr(start.inputs, "channels", None),
        classes=classes,
        vocab_size=cache.facts["vocab_size"],
        special_ids=cache.facts["special_ids"],
    )
    source = partial(
        LabelledRows, cache, inputs=start.inputs, source=config.inputs.source, parts=parts
    )
    bound = partial(collate, inputs=start.inputs, parts=parts, seed=seed)
    class_loss: ClassLoss = load_attribute(CLASS_LOSSES[config.loss])
    weights = {head_name(part): _weights(config, part, classes, cache) for part in parts}
    smoothed = partial(
        loss, class_loss=class_loss, weights=weights, label_smoothing=config.label_smoothing
    )
    validation = source(split="val") if context.has_validation else None
    heads = {part: len(names) for part, names in classes.items()}
    evaluating = partial(bound, training=False)
    return TrainingJob(
        model=Classifier(start.encoder, heads, model_config.head_dropout),
        task=Task("classification", partial(bound, training=True), smoothed),
        train=source(split="train"),
        validation=validation,
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs={**context.inputs(model_config.sources()), **start.digest},
        validation_task=Task(
            "classification",
            evaluating,
            smoothed,
            validation_metrics=partial(
                validation_metrics,
                loader=evaluation_loader(validation, evaluating),
                rows=validation,
                parts=parts,
            ),
        )
        if validation
        else None,
    )


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
                f"model.num_classes.{part or 'label'} = {wanted}, but part {part!r} of "
                f"{cache.folder} has {there} classes: leave it out, the data settings decide"
            )


def _weights(
    config: ClassificationTaskConfig,
    part: str,
    classes: Mapping[str, list[str]],
    cache: TrainingCache,
) -> Tensor | None:
    counts = cache.facts["labels"][part]["counts"].get("train", {})
    how = config.class_weights
    chosen: ClassWeights = "none"
    if isinstance(how, dict):
        chosen = how.get(part, "none")
    elif how == "balanced":
        chosen = "balanced"
    try:
        figures = class_weights(chosen, [counts.get(name, 0) for name in classes[part]])
    except ValueError as error:
        raise ConfigError(f"task.class_weights of part {part!r}: {error}") from None
    return None if figures is None else torch.tensor(figures, dtype=torch.float32)
