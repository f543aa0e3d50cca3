"""How well a classifier classifies, head by head."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import IGNORE_INDEX
from plumbline.evaluation.config import EvaluationConfig
from plumbline.evaluation.result import Evaluation, EvaluationJob, Row
from plumbline.kinds.classification.model import ClassifierSpec
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.classification.train import collate, evaluation_loader
from plumbline.kinds.headed.evaluate import predict
from plumbline.loading.inputs import build_input
from plumbline.metrics.classification import (
    classification_report,
    confusion_matrix,
    per_class,
    softmax,
)
from plumbline.metrics.known import figure_name
from plumbline.models.encoder_config import ImageEncoderConfig


def evaluate(job: EvaluationJob) -> Evaluation:
    """Classify a split: accuracy, F1 and calibration of each head, confusions and predictions.

    Raises:
        DataError: the split has no label.
    """
    spec, config, cache = job.stored.spec, job.config, job.cache
    assert isinstance(spec, ClassifierSpec)
    assert isinstance(config, EvaluationConfig)
    encoder = spec.model.encoder
    size = encoder.image_size if isinstance(encoder, ImageEncoderConfig) else None
    inputs = build_input(spec.inputs, cache, image_size=size)
    parts = list(spec.classes)
    rows = LabelledRows(
        cache, config.split, inputs, spec.inputs.source, parts, classes=spec.classes
    )
    bound = partial(collate, inputs=inputs, parts=parts, seed=0, training=False)
    model = job.stored.model.to(job.device)
    logits = predict(model, evaluation_loader(rows, bound, config.batch_size), job.device)
    sample_ids = cache.sample_ids(config.split)
    metrics: dict[str, float | None] = {}
    predictions: list[Row] = []
    tables: dict[str, list[Row]] = {}
    for at, part in enumerate(parts):
        labels = rows.labels[:, at]
        # A sample may have a label in one part and none in another.
        known = np.flatnonzero(labels != IGNORE_INDEX)
        if not len(known):
            continue
        probabilities = softmax(logits[part][known])  # [known, classes]
        figures, found = _measure_head(probabilities, labels[known], spec.classes[part])
        metrics |= {figure_name(part, key): value for key, value in figures.items()}
        for key, table in found.items():
            # A column, not a name of a file: parts may be called anything.
            of_part = {"part": part} if parts != [""] else {}
            tables.setdefault(key, []).extend({**of_part, **row} for row in table)
        # Of the row that says the label: a sample may have its labels from several rows.
        ids = sample_ids.take(rows.rows[known, at]).to_pylist()
        predictions += _predictions(part, ids, labels[known], probabilities, spec.classes[part])
    metrics["samples"] = float(len(rows))
    return Evaluation(metrics, predictions, tables, {"classes": spec.classes})


def _measure_head(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    names: list[str],
) -> tuple[dict[str, float | None], dict[str, list[Row]]]:
    figures = classification_report(probabilities, labels, interval_seed=0)
    confusion = confusion_matrix(probabilities.argmax(axis=1), labels, len(names))
    by_class = per_class(confusion)
    of_classes: list[Row] = [
        {
            "class": name,
            "support": int(by_class.support[i]),
            # None where it means nothing: a class that nobody predicted has no precision, not 0.
            "precision": float(by_class.precision[i]) if by_class.predicted[i] else None,
            "recall": float(by_class.recall[i]) if by_class.support[i] else None,
            "f1": float(by_class.f1[i]) if by_class.predicted[i] or by_class.support[i] else None,
        }
        for i, name in enumerate(names)
    ]
    confusions: list[Row] = [
        {"actual": actual, "predicted": predicted, "count": int(confusion[i, j])}
        for i, actual in enumerate(names)
        for j, predicted in enumerate(names)
    ]
    return figures, {"per_class": of_classes, "confusion": confusions}


def _predictions(
    part: str,
    sample_ids: list[str],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    names: list[str],
) -> list[Row]:
    chosen = probabilities.argmax(axis=1)
    return [
        {
            "kind": "class",
            "part": part,
            "sample_id": sample_id,
            "label": names[label],
            "prediction": names[predicted],
            "confidence": round(float(row[predicted]), 6),
            "correct": bool(predicted == label),
        }
        for sample_id, label, predicted, row in zip(
            sample_ids, labels.tolist(), chosen.tolist(), probabilities, strict=True
        )
    ]
