"""The evaluation of a forecast."""

from functools import partial

import torch

from plugins.forecast.model import ForecastSpec
from plugins.forecast.train import Sequences, collate, squared_error
from plumbline.evaluation.config import EvaluationConfig
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.loading.inputs import build_input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.device import to_device


@torch.inference_mode()
def evaluate(job: EvaluationJob) -> Evaluation:
    """The mean squared error, beside that of saying that nothing changes."""
    spec, config = job.stored.spec, job.config
    assert isinstance(spec, ForecastSpec)
    assert isinstance(config, EvaluationConfig)
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
