"""How well images and captions find each other."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from plumbline.errors import DataError
from plumbline.evaluation.config import AlignmentEvaluationConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import pad_rows
from plumbline.loading.transforms import normalize_images, resize_images
from plumbline.metrics.retrieval import relation_of_rows, retrieval_report
from plumbline.models.stored import StoredDualEncoder
from plumbline.tokenization.framing import frame_ids

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class AlignmentEvaluation:
    """What the evaluation of an alignment gives."""

    metrics: dict[str, float]
    images: NDArray[np.int32]
    """[images] numbers in the cache."""
    texts: NDArray[np.int32]
    """[texts] numbers in the cache."""
    image_embeddings: Floats
    """[images, embed_dim], unit length."""
    text_embeddings: Floats
    """[texts, embed_dim], unit length."""
    examples: list[dict[str, Any]]


def embed_images(
    stored: StoredDualEncoder, pixels: NDArray[np.uint8], device: torch.device
) -> Floats:
    """Map [batch, height, width, 3] uint8 to unit vectors [batch, embed_dim]."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    images = resize_images(images, stored.spec.model.image_encoder.image_size)
    with torch.inference_mode():
        values = normalize_images(images, stored.spec.normalize).to(device)
        embedded = functional.normalize(stored.model.embed_images(values), dim=-1)
    out: Floats = embedded.float().cpu().numpy()
    return out


def embed_ids(
    stored: StoredDualEncoder, texts: list[NDArray[np.int32]], device: torch.device
) -> Floats:
    """Map token ids, without bos and eos, to unit vectors [texts, embed_dim]."""
    special = stored.spec.special_ids
    framed = [
        frame_ids(ids, special.bos, special.eos, stored.spec.max_text_tokens) for ids in texts
    ]
    input_ids = pad_rows(framed, special.pad)
    lengths = np.array([len(ids) for ids in framed])
    mask = np.arange(input_ids.shape[1]) < lengths[:, None]
    with torch.inference_mode():
        embedded = stored.model.embed_texts(
            torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).long().to(device)
        )
        embedded = functional.normalize(embedded, dim=-1)
    out: Floats = embedded.float().cpu().numpy()
    return out


def evaluate_alignment(
    stored: StoredDualEncoder,
    cache: TrainingCache,
    config: AlignmentEvaluationConfig,
    device: torch.device,
) -> AlignmentEvaluation:
    """Embed a split and measure recall@k both ways; every caption of an image is a positive.

    Raises:
        DataError: the split has no captioned image.
    """
    stored.model.to(device).eval()
    rows = [r for r in cache.by_image(config.split) if len(r.captions)]
    if not rows:
        raise DataError(f"{cache.folder}: no captioned image in split {config.split!r}")
    image_of_pair = np.concatenate([np.full(len(r.captions), i) for i, r in enumerate(rows)])
    texts, text_of_pair = np.unique(np.concatenate([r.captions for r in rows]), return_inverse=True)
    images = np.array([r.image for r in rows], np.int32)
    size = config.batch_size
    image_embeddings = np.concatenate(
        [embed_images(stored, cache.images[b], device) for b in _blocks(images, size)]
    )
    text_embeddings = np.concatenate(
        [embed_ids(stored, [cache.ids(int(t)) for t in b], device) for b in _blocks(texts, size)]
    )
    metrics = retrieval_report(
        image_embeddings,
        text_embeddings,
        relation_of_rows(image_of_pair, text_of_pair),
        ks=tuple(config.ks),
        widths=tuple(stored.spec.widths),
        interval_seed=0,
    )
    examples = _examples(
        cache,
        rows[: config.examples],
        texts,
        image_embeddings[: config.examples] @ text_embeddings.T,
    )
    counts = {"images": float(len(images)), "texts": float(len(texts))}
    return AlignmentEvaluation(
        {**metrics, **counts}, images, texts, image_embeddings, text_embeddings, examples
    )


def _blocks(values: NDArray[np.int32], size: int) -> list[NDArray[np.int32]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


def _examples(
    cache: TrainingCache, rows: list[Any], texts: NDArray[np.int32], scores: Floats
) -> list[dict[str, Any]]:
    examples = []
    for row, score in zip(rows, scores, strict=True):
        best = np.argsort(-score, kind="stable")[:5]
        found = [
            {
                "text": cache.text(int(texts[i])),
                "score": round(float(score[i]), 4),
                "right": bool(texts[i] in row.captions),
            }
            for i in best
        ]
        examples.append({"image": row.image, "found": found})
    return examples
