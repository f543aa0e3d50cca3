"""What flows through a model for one batch: outputs of the layers, attention, predictions."""

import argparse
import math
from typing import TypedDict

from torch import Tensor, nn

from plumbline.inspection.attention import AttentionWatch, head_entropies
from plumbline.inspection.outputs import run_loss, tensors_of
from plumbline.inspection.predictions import Prediction
from plumbline.inspection.result import Report, table
from plumbline.inspection.target import Target
from plumbline.models.device import to_device
from plumbline.models.weights import save_tensors

COLUMNS = {
    "name": "output of",
    "shape": "shape",
    "mean": "mean",
    "std": "std",
    "zeros": "zeros",
    "largest": "largest",
    "not_finite": "not finite",
}
HEAD_COLUMNS = {
    "name": "attention",
    "head": "head",
    "entropy_nats": "entropy (nats)",
    "share": "of the largest",
}


class Activations(TypedDict):
    """What one forward pass shows."""

    samples: int
    loss: float | None
    layers: list[dict[str, object]]
    predictions: list[dict[str, object]]
    attention: list[dict[str, object]]
    not_finite: list[object]
    """Names of the outputs that are not."""


class _Record:
    """Everything seen in one forward pass."""

    def __init__(self, model: nn.Module, depth: int | None, keep: bool) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._depth, self._keep = depth, keep
        self.layers: list[dict[str, object]] = []
        self.heads: list[dict[str, object]] = []
        self.outputs: dict[str, object] = {}
        self.tensors: dict[str, Tensor] = {}

    def layer(self, name: str, module: nn.Module, output: object) -> None:
        self.outputs.setdefault(name, output)
        if self._depth is not None and name.count(".") >= self._depth:
            return
        for key, tensor in tensors_of(output):
            if tensor.is_floating_point():
                full = ".".join(part for part in (name, key) if part) or "(model)"
                self.add(full, tensor)

    def add(self, name: str, tensor: Tensor) -> None:
        self.layers.append({"name": name, **describe(tensor)})
        if self._keep:
            self.tensors.setdefault(name, tensor.detach().cpu().clone().contiguous())

    def attention(self, module: nn.Module, weights: Tensor) -> None:
        for head, (entropy, share) in enumerate(head_entropies(weights)):
            self.heads.append(
                {
                    "name": self._names[id(module)],
                    "head": head,
                    "entropy_nats": _finite(entropy),
                    "share": _finite(share),
                }
            )


def describe(tensor: Tensor) -> dict[str, object]:
    """Shape and statistics of a tensor; the statistics are of its finite values."""
    values = tensor.detach().double().flatten()
    finite = values[values.isfinite()]
    some = len(finite) > 0
    return {
        "shape": list(tensor.shape),
        "mean": float(finite.mean()) if some else None,
        "std": float(finite.std(correction=0)) if some else None,
        "zeros": float((finite == 0).double().mean()) if some else None,
        "largest": float(finite.abs().max()) if some else None,
        "not_finite": len(values) - len(finite),
    }


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Run one batch through a model, in evaluation mode, and describe what it computes."""
    job, config = target.job, target.config.train
    device = target.machine.device
    batch = to_device(target.batch(options.samples), device)
    model = job.model.to(device)
    record = _Record(model, options.depth, options.tensors is not None)
    with AttentionWatch(model, record.attention):
        loss = run_loss(model, lambda: job.task.loss(model, batch), record.layer)
    predictions: dict[str, Prediction] = {}
    if (kind := target.config.work).has("ask"):
        predictions = kind.role("ask").predictions(record.outputs, config.task)
    layers = len(record.layers)
    for head, prediction in predictions.items():
        record.add(f"{head}: logits", prediction.logits)
        if prediction.probabilities is not None:
            record.add(f"{head}: probabilities", prediction.probabilities)
    if options.tensors is not None:
        save_tensors(record.tensors, options.tensors)
    data: Activations = {
        "samples": len(batch["sample_index"]),
        "loss": _finite(float(loss.total) / max(int(loss.count), 1)),
        "layers": record.layers[:layers],
        "predictions": record.layers[layers:],
        "attention": record.heads,
        "not_finite": [row["name"] for row in record.layers if row["not_finite"]],
    }
    return Report(_text(data, job.task.name), data)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(data: Activations, kind: str) -> str:
    blocks = [table(data["layers"], COLUMNS)]
    if data["attention"]:
        blocks.append(table(data["attention"], HEAD_COLUMNS))
    if data["predictions"]:
        blocks.append(table(data["predictions"], {**COLUMNS, "name": "prediction"}))
    loss = "not finite" if data["loss"] is None else f"{data['loss']:.4g}"
    blocks.append(f"{kind}, {data['samples']} samples: loss {loss} per target")
    if wrong := data["not_finite"]:
        blocks.append(f"NOT FINITE: {wrong[0]} first, {len(wrong)} outputs in all")
    return "\n\n".join(blocks)
