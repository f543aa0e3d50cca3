"""The losses of every kind of task written out by hand, in float64, from a model's logits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from plumbline.batch import IGNORE_INDEX, Batch

Floats = NDArray[np.float64]


def _float64(x: Tensor) -> Floats:
    return x.detach().double().numpy()


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(
    logits: Floats, labels: NDArray[Any], smoothing: float = 0.0, weights: Any = None
) -> tuple[float, int]:
    """Sum over [..., classes] of the labels that count, one by one."""
    total, count = 0.0, 0
    log_p = _log_softmax(logits).reshape(-1, logits.shape[-1])
    weights = np.ones(logits.shape[-1]) if weights is None else np.array(weights)
    for row, label in zip(log_p, labels.ravel(), strict=True):
        if label != IGNORE_INDEX:
            total -= (1 - smoothing) * weights[label] * row[label]
            total -= smoothing * float((weights * row).mean())
            count += 1
    return total, count


def language(model: nn.Module, batch: Batch, smoothing: float = 0.0) -> tuple[float, int]:
    """Logits and labels stand place by place."""
    with torch.inference_mode():
        logits = model(**batch)
    return cross_entropy(_float64(logits), batch["labels"].numpy(), smoothing)


def vlm(model: Any, batch: Batch) -> tuple[float, int]:
    """The label of a place is the token after it, over whole rows; conversations are shifted."""
    with torch.inference_mode():
        features = model.image_encoder(batch["pixel_values"]).tokens
        places = batch.get("image_places")
        hidden = model.hidden_states(
            features, batch["input_ids"], batch["position_ids"], batch["mask"], places
        )
        logits = _float64(model.logits(hidden))
    if places is not None:
        return cross_entropy(logits, batch["labels"].numpy())
    return cross_entropy(logits[:, :-1], batch["labels"][:, 1:].numpy())


def classification(
    model: nn.Module, batch: Batch, smoothing: float = 0.0, weights: Any = None
) -> tuple[float, int]:
    """The sum over the heads."""
    with torch.inference_mode():
        logits = model(**batch["inputs"])
    found = [
        cross_entropy(_float64(logits[name]), labels.numpy(), smoothing, (weights or {}).get(name))
        for name, labels in batch["labels"].items()
    ]
    return sum(total for total, _ in found), sum(count for _, count in found)


def regression(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """The squares of the differences where there is a number; heads in the order of parts."""
    with torch.inference_mode():
        outputs = model(**batch["inputs"])
    predicted = np.concatenate([_float64(out) for out in outputs.values()], axis=1)
    targets = _float64(batch["targets"])
    known = ~np.isnan(targets)
    return float(((predicted - targets)[known] ** 2).sum()), int(known.sum())


def alignment(
    model: Any, batch: Batch, loss: str, widths: list[int] | None = None
) -> tuple[float, int]:
    """InfoNCE or the sigmoid loss over all pairs, pair by pair, averaged over the widths."""
    with torch.inference_mode():
        out = model(batch["media"], batch["texts"])
    media, texts = _float64(out.media), _float64(out.texts)[batch["text_index"].numpy()]
    numbers = list(zip(batch["medium_number"].tolist(), batch["text_number"].tolist(), strict=True))
    positive = np.array(
        [
            [i == j or a[0] == b[0] or a[1] == b[1] >= 0 for j, b in enumerate(numbers)]
            for i, a in enumerate(numbers)
        ]
    )
    scale, bias = out.logit_scale.item(), out.logit_bias.item()
    totals = []
    for width in widths or [media.shape[1]]:
        one, other = (
            x[:, :width] / np.linalg.norm(x[:, :width], axis=1)[:, None] for x in (media, texts)
        )
        logits = scale * one @ other.T
        if loss == "sigmoid":
            signed = np.where(positive, 1, -1) * (logits + bias)
            totals.append(float(np.log1p(np.exp(-signed)).sum()))
            continue
        both = [(_log_softmax(logits), positive), (_log_softmax(logits.T), positive.T)]
        sides = [-(log_p * fits / fits.sum(axis=1, keepdims=True)).sum() for log_p, fits in both]
        totals.append(float(np.mean(sides)))
    return float(np.mean(totals)), len(numbers)
