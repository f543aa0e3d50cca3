"""How far a regressor's numbers are from those of a split."""

from functools import partial

import numpy as np
import torch

from plumbline.evaluation.config import EvaluationConfig
from plumbline.evaluation.result import Evaluation, EvaluationJob, Row
from plumbline.kinds.headed.evaluate import predict
from plumbline.kinds.regression.model import RegressorSpec
from plumbline.kinds.regression.rows import NumberedRows
from plumbline.kinds.regression.train import Scale, collate
from plumbline.loading.inputs import build_input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.metrics.known import figure_name
from plumbline.metrics.regression import regression_report
from plumbline.models.encoder_config import ImageEncoderConfig


@torch.inference_mode()
def evaluate(job: EvaluationJob) -> Evaluation:
    """Predict the numbers of a split, in the units of the data.

    Raises:
        DataError: the split has no number.
    """
    spec, config, cache = job.stored.spec, job.config, job.cache
    assert isinstance(spec, RegressorSpec)
    assert isinstance(config, EvaluationConfig)
    encoder = spec.model.encoder
    size = encoder.image_size if isinstance(encoder, ImageEncoderConfig) else None
    inputs = build_input(spec.inputs, cache, image_size=size)
    rows = NumberedRows(cache, config.split, inputs, spec.inputs.source, spec.parts)
    bound = partial(collate, inputs=inputs, scale=Scale.of(spec), seed=0, training=False, raw=True)
    loader = Loader(rows, bound, LoaderConfig(batch_size=config.batch_size), seed=0, shuffle=False)
    outputs = predict(job.stored.model.to(job.device), loader, job.device)
    sample_ids = cache.sample_ids(config.split)
    metrics: dict[str, float | None] = {}
    predictions: list[Row] = []
    for at, part in enumerate(spec.parts):
        values = rows.values[:, at]
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            continue
        # [known], out of deviations back into the units of the data
        found = outputs[part][known, 0] * spec.std[part] + spec.mean[part]
        figures = regression_report(found, values[known])
        metrics |= {figure_name(part, name): value for name, value in figures.items()}
        # Of the row that says the number: a sample may have its numbers from several rows.
        ids = sample_ids.take(rows.rows[known, at]).to_pylist()
        predictions += [
            {
                "kind": "value",
                "part": part,
                "sample_id": sample_id,
                "value": float(value),
                "prediction": float(prediction),
            }
            for sample_id, value, prediction in zip(ids, values[known], found, strict=True)
        ]
    metrics["samples"] = float(len(rows))
    return Evaluation(metrics, predictions)
